//! Repositories that are read without the mesh, and the choice between the mesh and these.

use super::access;
use crate::config::{Config, DeclaredRepository, IndexKey};
use pgmesh_client::restore::{PassphraseSource, RepositorySettings, SourceSettings};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{Passphrase, RepoKey};
use std::sync::Arc;

/// The mesh, or the declared repositories (`repo-direct`).
///
/// # Errors
/// 31: `repo` is not the number of a repository. 37: that repository is not declared, or no node is named.
pub fn source(config: &Config) -> Result<SourceSettings, Failure> {
    if config.flag("repo-direct") {
        return Ok(SourceSettings::Direct(reachable(config, asked(config)?)?));
    }
    Ok(SourceSettings::Mesh(access::of(config)?))
}

/// The repositories that the configuration declares and this host can reach, or only `repo` of them.
///
/// # Errors
/// 31: a number that no repository can have.
pub fn reachable(config: &Config, repo: Option<RepoKey>) -> Result<Vec<RepositorySettings>, Failure> {
    let mut found = Vec::new();
    for (number, declared) in config.repositories() {
        let key = RepoKey::new(number).map_err(|error| {
            Failure::new(
                ExitCode::OptionInvalid,
                format!("repo{number} is not a valid repository"),
            )
            .because(error)
        })?;
        if repo.is_none_or(|only| only == key) && declared.is_reachable() {
            found.push(RepositorySettings {
                key,
                store: declared.store_settings(config, number),
                passphrase: Arc::new(OfDeclared { number, declared }),
            });
        }
    }
    Ok(found)
}

/// The passphrase that the configuration declares.
#[derive(Debug)]
struct OfDeclared {
    number: u16,
    declared: DeclaredRepository,
}

impl PassphraseSource for OfDeclared {
    fn read(&self) -> Result<Option<Passphrase>, Failure> {
        self.declared.passphrase(self.number)
    }
}

/// `repo`, as a repository's number.
pub fn asked(config: &Config) -> Result<Option<RepoKey>, Failure> {
    let Some(number) = config.optional_integer("repo") else {
        return Ok(None);
    };
    let key = u16::try_from(number).ok().and_then(|number| RepoKey::new(number).ok());
    let key = key.ok_or_else(|| {
        Failure::new(ExitCode::OptionInvalid, "option repo cannot be used")
            .because(format!("{number} is no number of a repository"))
    })?;
    if config.flag("repo-direct") && !config.numbers(IndexKey::Repo).contains(&key.get()) {
        return Err(
            Failure::new(ExitCode::OptionRequired, format!("repo{key} is not declared"))
                .remedy(format!("give its repo{key}-… options")),
        );
    }
    Ok(Some(key))
}
