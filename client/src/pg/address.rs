//! A server's address, and the user that connects to it.

use super::passfile;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A session may be silent for as long as files are copied: nothing on the way may take it for dead.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Where a cluster listens.
#[derive(Debug, Clone)]
pub struct PgAddress {
    /// The N of `pgN-…`.
    pub number: u16,
    /// The way to it.
    pub way: Way,
    /// `pgN-port`.
    pub port: u16,
    /// `pgN-user`; the operating system's user where it is not set.
    pub user: Option<String>,
    /// `pgN-database`.
    pub database: String,
    /// `db-timeout`.
    pub timeout: Duration,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// `pgN-socket-path`: the folder of its Unix socket. It runs on this host.
    Socket(PathBuf),
    /// `pgN-host`: over TCP.
    Host(String),
}

impl PgAddress {
    /// Whether it may run on this host, so that `pgN-path` is a directory of this host.
    pub fn is_here(&self) -> bool {
        match &self.way {
            Way::Socket(_) => true,
            Way::Host(host) => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        }
    }

    /// `PGSSLMODE`, where it demands more than this program can do on this way: nothing is sent in the clear then.
    pub fn demanded_encryption(&self) -> Option<String> {
        let mode = std::env::var("PGSSLMODE").ok()?;
        let demands = !matches!(mode.as_str(), "" | "disable" | "allow" | "prefer");
        (demands && matches!(self.way, Way::Host(_))).then_some(mode)
    }

    /// For the client library.
    pub fn to_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        let user = self.user.clone().unwrap_or_else(operating_system_user);
        let host = match &self.way {
            Way::Socket(folder) => {
                config.host_path(folder);
                "localhost"
            }
            Way::Host(host) => {
                config.host(host);
                host.as_str()
            }
        };
        if let Some(password) = passfile::password(host, self.port, &self.database, &user) {
            config.password(password.expose());
        }
        config
            .port(self.port)
            .user(user)
            .dbname(&self.database)
            .application_name("pgmesh")
            .keepalives_idle(KEEPALIVE)
            .connect_timeout(self.timeout.min(CONNECT_LIMIT));
        config
    }
}

impl fmt::Display for PgAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Socket(folder) => write!(formatter, "on port {} in {}", self.port, folder.display()),
            Way::Host(host) => write!(formatter, "on port {} of {host}", self.port),
        }
    }
}

fn operating_system_user() -> String {
    uzers::get_current_username().map_or_else(|| "postgres".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(way: Way) -> PgAddress {
        PgAddress {
            number: 2,
            way,
            port: 5433,
            user: None,
            database: "postgres".to_owned(),
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_host_is_another_machine_unless_it_is_this_ones_own_name() {
        let host = |name: &str| at(Way::Host(name.to_owned()));
        assert!(at(Way::Socket("/run".into())).is_here());
        assert!(host("localhost").is_here() && host("127.0.0.1").is_here() && host("::1").is_here());
        assert!(!host("db1").is_here() && !host("10.0.0.1").is_here());
        assert_eq!(host("db1").to_string(), "on port 5433 of db1");
    }
}
