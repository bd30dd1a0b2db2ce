//! Standbys, and clusters that other hosts reach.

use crate::outcome::run;
use crate::port::Port;
use crate::postgres::Postgres;
use crate::scratch::Scratch;

impl Postgres {
    /// A copy of this running cluster that will stream from it, made by pg_basebackup; its server does not run yet. The
    /// tablespaces of the original, which lie beside its data directory, lie beside the copy's.
    #[must_use]
    pub fn standby(&self, scratch: &Scratch, name: &str) -> Self {
        let standby = Self::empty(scratch, name);
        let mut command = self.program("pg_basebackup");
        command
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata"])
            .arg(standby.data());
        for location in self
            .query("select pg_tablespace_location(oid) from pg_tablespace where oid not in (1663, 1664)")
            .lines()
        {
            let moved = location.replace(
                &self.socket().display().to_string(),
                &standby.socket().display().to_string(),
            );
            standby.account().create_folder(moved.as_ref());
            command.arg(format!("--tablespace-mapping={location}={moved}"));
        }
        run(command).succeeds();
        standby
    }

    /// From its next start on, lets it listen on an address of this machine that no other test uses, besides its
    /// socket, for all users with a password. Returns the address.
    pub fn listen(&mut self) -> String {
        let port = Port::reserve();
        let address = port.own_ip().to_string();
        self.address.clone_from(&address);
        self.reserved = Some(port);
        let access = self.data().join("pg_hba.conf");
        let rules = "local all all trust\nlocal replication all trust\nhost all all 127.0.0.0/8 scram-sha-256\n";
        self.account().write(&access, rules);
        address
    }
}
