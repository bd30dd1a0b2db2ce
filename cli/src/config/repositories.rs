//! The repositories that a configuration declares.

use std::collections::BTreeMap;

use super::access::Config;
use super::command::Command;
use super::kind::{Secret, Value};
use super::option::IndexKey;
use super::table;
use crate::exit::{CommandError, ExitCode};

/// One repository as this host's configuration declares it. Names are what follows `repoN-`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredRepository {
    /// What the catalog keeps and compares between nodes: `type`, `path`, `cipher-type` and so on, with defaults filled
    /// in, so that a default that is written out is no difference.
    pub definition: BTreeMap<String, String>,
    /// This host's own way to it: certificates, time-outs.
    pub local: BTreeMap<String, String>,
    /// Passphrases and keys, which reach no catalog, log or message (invariant 9).
    pub secrets: BTreeMap<String, Secret>,
}

impl Config {
    /// The repositories declared anywhere, by number.
    pub fn repositories(&self) -> BTreeMap<u16, DeclaredRepository> {
        let mut repositories: BTreeMap<u16, DeclaredRepository> = BTreeMap::new();
        for (key, resolved) in self.values() {
            let Some((IndexKey::Repo, number)) = key.index else {
                continue;
            };
            let Some(spec) = table::indexed(IndexKey::Repo, key.name) else {
                continue;
            };
            let repository = repositories.entry(number).or_default();
            let name = key.name.to_owned();
            match &resolved.value {
                Value::Secret(secret) => drop(repository.secrets.insert(name, secret.clone())),
                value if spec.local => drop(repository.local.insert(name, canonical(value))),
                value => drop(repository.definition.insert(name, canonical(value))),
            }
        }
        repositories
    }

    /// What the table cannot say about one option alone. Other commands than the node's see the repositories of the
    /// file too, but use them only with `--repo-direct`.
    pub(super) fn check_repositories(&self) -> Result<(), CommandError> {
        if self.command() != Command::NodeStart && !self.flag("repo-direct") {
            return Ok(());
        }
        for (number, repository) in self.repositories() {
            let encrypted = repository
                .definition
                .get("cipher-type")
                .is_some_and(|cipher| cipher != "none");
            let has_passphrase = repository.secrets.contains_key("cipher-pass");
            if encrypted && !has_passphrase {
                let key = format!("repo{number}-cipher-pass");
                return Err(CommandError::option_required(key, self.command())
                    .because_of(format!(
                        "repo{number}-cipher-type says that the repository is encrypted"
                    ))
                    .remedy("put it in the configuration file or in the environment"));
            }
            if has_passphrase && !encrypted {
                let what = format!("repo{number}-cipher-pass is given, but repo{number}-cipher-type is none");
                return Err(CommandError::new(ExitCode::OptionInvalid, what)
                    .because_of("the repository would not be encrypted")
                    .remedy(format!(
                        "add repo{number}-cipher-type=aes-256-cbc or take the passphrase out"
                    )));
            }
        }
        Ok(())
    }
}

/// The one way in which a value is written in the catalog.
fn canonical(value: &Value) -> String {
    match value {
        Value::Flag(yes) => (if *yes { "y" } else { "n" }).to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Size(bytes) => bytes.to_string(),
        Value::Duration(span) => format!("{}ms", span.as_millis()),
        Value::Text(text) => text.clone(),
        Value::Path(path) => path.display().to_string(),
        Value::List(texts) => texts.join(","),
        Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(","),
        // A secret never becomes text here; `repositories` keeps it apart.
        Value::Secret(_) => String::new(),
    }
}
