//! A node's settings, from its configuration file.

use crate::config::Config;
use pgmesh_node::{NodeSettings, RepositorySettings, SessionTimes};
use pgmesh_protocol::{EntryId, ExitCode, Failure};
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The number of voters, should the table have no default.
const DEFAULT_VOTERS: usize = 5;

/// The settings of the node in the configuration.
///
/// # Errors
/// An option is missing (37) or cannot be used (31).
pub fn of(config: &Config) -> Result<NodeSettings, Failure> {
    Ok(NodeSettings {
        name: config.required_text("node-name")?.to_owned(),
        path: config.required_path("node-path")?.to_owned(),
        listen: listen(config)?,
        advertise: reachable(config),
        region: config.text("node-region").map(str::to_owned),
        repositories: repositories(config)?,
        archive_ack: ack(config, "archive-ack"),
        backup_ack: ack(config, "backup-ack"),
        io_timeout: config.duration("io-timeout"),
        seeds: config.list("mesh-node").to_vec(),
        routes: config.map("mesh-route").iter().cloned().collect(),
        voters: usize::try_from(config.integer("mesh-voters")).unwrap_or(DEFAULT_VOTERS),
        repair_rate: config.optional_size("repair-rate"),
        snapshot_entries: config
            .optional_integer("node-snapshot-entries")
            .and_then(|entries| u64::try_from(entries).ok()),
        skip_entries: skip_entries(config)?,
        buffer: config.size("node-buffer"),
        fence_timeout: config.duration("fence-timeout"),
        orphan_scan_interval: config.duration("orphan-scan-interval"),
        sessions: SessionTimes::with_timeout(config.duration("session-timeout")),
    })
}

fn skip_entries(config: &Config) -> Result<Vec<EntryId>, Failure> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|error| Failure::new(ExitCode::OptionInvalid, "skip-entry cannot be used").because(error))
    };
    config.list("skip-entry").iter().map(parse).collect()
}

/// The number of repositories that must acknowledge, if the configuration sets it.
pub fn ack(config: &Config, option: &str) -> Option<u16> {
    config
        .optional_integer(option)
        .and_then(|number| u16::try_from(number).ok())
}

fn listen(config: &Config) -> Result<SocketAddr, Failure> {
    let text = config.required_text("node-listen")?;
    text.parse().map_err(|error| {
        Failure::new(
            ExitCode::OptionInvalid,
            format!("node-listen '{text}' is no ADDRESS:PORT"),
        )
        .because(error)
    })
}

/// The address of this node for others: the advertised one, else the one on which it listens.
pub fn reachable(config: &Config) -> String {
    if let Some(first) = config.list("node-advertise").first() {
        return first.clone();
    }
    match config
        .text("node-listen")
        .and_then(|text| text.parse::<SocketAddr>().ok())
    {
        Some(address) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            SocketAddr::new(ip, address.port()).to_string()
        }
        None => "127.0.0.1:8433".to_owned(),
    }
}

fn repositories(config: &Config) -> Result<BTreeMap<RepoKey, RepositorySettings>, Failure> {
    let mut repositories = BTreeMap::new();
    for (number, declared) in config.repositories() {
        let key = RepoKey::new(number)
            .map_err(|error| Failure::new(ExitCode::OptionInvalid, format!("repo{number}")).because(error))?;
        let passphrase = declared.passphrase(number)?;
        let store = declared.store_settings(config, number);
        repositories.insert(
            key,
            RepositorySettings {
                definition: store.definition,
                local: store.local,
                secrets: store.secrets,
                passphrase,
            },
        );
    }
    Ok(repositories)
}
