//! Listings.

use std::ops::Bound;

use pgmesh_chaos::http::Response;

use super::{Bucket, Call, Failure};
use crate::stores::gcs::answer::{Entry, Page};

/// The most entries of a page, and the default.
const LONGEST_PAGE: u64 = 1000;

impl Bucket {
    pub(super) fn list(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let prefix = call.parameter("prefix").unwrap_or_default();
        let delimiter = call.parameter("delimiter").filter(|delimiter| !delimiter.is_empty());
        let most = call.number("max-keys")?.unwrap_or(LONGEST_PAGE).min(LONGEST_PAGE);
        let most = usize::try_from(most).unwrap_or(1);
        if most == 0 {
            return Err(Failure::invalid("a page has at least one entry"));
        }
        // A token is the last name or prefix of the page before, made unlike a name.
        let token = call.parameter("continuation-token").map(|token| {
            let name = token.strip_prefix("after:");
            name.ok_or_else(|| Failure::invalid("the continuation token is not one of this server's"))
        });
        let token = token.transpose()?;
        let after = token.or(call.parameter("start-after")).unwrap_or_default();
        let mut page = Page::default();
        let mut last = String::new();
        let begin = if after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after)
        };
        for (name, versions) in self.objects.range::<str, _>((begin, Bound::Unbounded)) {
            let Some(rest) = name.strip_prefix(prefix) else { break };
            let common = delimiter.and_then(|delimiter| {
                let (first, _) = rest.split_once(delimiter)?;
                Some(format!("{prefix}{first}{delimiter}"))
            });
            // Names below a listed prefix are part of it, also if the page before has listed it.
            if common
                .as_deref()
                .is_some_and(|common| common == last || token.is_some() && common == after)
            {
                continue;
            }
            if page.entries.len() + page.prefixes.len() == most {
                page.next = Some(format!("after:{last}"));
                break;
            }
            if let Some(common) = common {
                last.clone_from(&common);
                page.prefixes.push(common);
            } else if let Some(version) = versions.last() {
                last.clone_from(name);
                page.entries.push(Entry {
                    name: name.clone(),
                    generation: version.generation,
                    modified: version.modified,
                    tag: version.tag.clone(),
                    size: version.content.len(),
                });
            }
        }
        Ok(page.response(&call.bucket, prefix))
    }
}
