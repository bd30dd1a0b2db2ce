//! The clusters of the options `pgN-…`.

use crate::config::{Config, IndexKey};
use pgmesh_client::pg::{ArchivingCheck, PgAddress, PgSettings, Way};
use std::path::Path;

/// The directory in which PostgreSQL's programs look for the socket if `pgN-socket-path` is not set.
const DEFAULT_SOCKET_PATH: &str = "/var/run/postgresql";

/// pg1, the cluster of most commands.
pub fn first(config: &Config) -> PgSettings {
    of(config, 1)
}

/// The cluster with this number.
pub fn of(config: &Config, number: u16) -> PgSettings {
    PgSettings {
        address: address(config, number),
        pgdata: config.indexed_path(IndexKey::Pg, number, "path").map(Path::to_owned),
    }
}

/// All clusters, by their numbers.
pub fn all(config: &Config) -> Vec<PgSettings> {
    let numbers = config.numbers(IndexKey::Pg).into_iter();
    numbers.map(|number| of(config, number)).collect()
}

fn address(config: &Config, number: u16) -> PgAddress {
    let text = |name| config.indexed_text(IndexKey::Pg, number, name);
    let socket_path = config
        .indexed_path(IndexKey::Pg, number, "socket-path")
        .unwrap_or(Path::new(DEFAULT_SOCKET_PATH));
    let port = config
        .indexed_integer(IndexKey::Pg, number, "port")
        .and_then(|port| u16::try_from(port).ok());
    PgAddress {
        number,
        way: match text("host") {
            // As libpq reads PGHOST.
            Some(host) if host.starts_with('/') => Way::Socket(host.into()),
            Some(host) => Way::Host(host.to_owned()),
            None => Way::Socket(socket_path.to_owned()),
        },
        port: port.unwrap_or(5432),
        user: text("user").map(str::to_owned),
        database: text("database").unwrap_or("postgres").to_owned(),
        timeout: config.duration("db-timeout"),
    }
}

/// The settings of the server to check: `archive-check`, `archive-mode-check`.
pub fn archiving(config: &Config) -> ArchivingCheck {
    ArchivingCheck {
        is_wanted: config.flag("archive-check"),
        refuses_always: config.flag("archive-mode-check"),
    }
}
