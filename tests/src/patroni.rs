//! Clusters that Patroni manages, with an etcd.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::account::Account;
use crate::host::Host;
use crate::http;
use crate::node::Node;
use crate::port::Port;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::tools::tool;
use crate::wait::{wait_for, wait_for_some};

/// Patroni misses a killed leader after 20 s, the least that it allows.
const LIMIT: Duration = Duration::from_secs(120);
const STANZA: &str = "main";

/// Three servers of one cluster, each with its Patroni and its PG host. They end when it is dropped.
#[derive(Debug)]
pub struct Patroni {
    members: Vec<PatroniMember>,
    _etcd: Process,
    _port: Port,
}

/// One server of the cluster.
#[derive(Debug)]
pub struct PatroniMember {
    /// Its server, which Patroni starts and stops.
    pub postgres: Postgres,
    /// Its PG host, through which it archives.
    pub host: Host,
    name: String,
    ip: Ipv4Addr,
    home: PathBuf,
    account: Account,
    process: Option<Process>,
    _port: Port,
}

impl Patroni {
    /// Whether such clusters are tested: they take minutes, and `.ci/setup patroni`.
    #[must_use]
    pub fn is_wanted() -> bool {
        env::var_os("PGMESH_PATRONI").is_some_and(|wanted| wanted == "1")
    }

    /// Starts three servers that archive as `archive_mode` says, with `p1` as the leader; creates the stanza `main`.
    #[must_use]
    pub fn start(scratch: &Scratch, node: &Node, archive_mode: &str) -> Self {
        let port = Port::reserve();
        let etcd = start_etcd(scratch, port.own_ip());
        let describe = |name| PatroniMember::new(scratch, node, name, port.own_ip(), archive_mode);
        let mut patroni = Self {
            members: ["p1", "p2", "p3"].map(describe).into(),
            _etcd: etcd,
            _port: port,
        };
        patroni.start_member("p1");
        wait_for("p1 to lead", LIMIT, || {
            patroni.member_mut("p1").assert_runs();
            patroni.leader().is_some()
        });
        let first = patroni.member("p1");
        first.host.run(&["stanza-create"]).succeeds();
        patroni.start_member("p2");
        patroni.start_member("p3");
        patroni.wait_until_all_stream();
        patroni
    }

    /// A member.
    ///
    /// # Panics
    /// If there is no member of this name.
    #[must_use]
    pub fn member(&self, name: &str) -> &PatroniMember {
        let found = self.members.iter().find(|member| member.name == name);
        found.unwrap_or_else(|| panic!("no member {name}"))
    }

    /// All members.
    #[must_use]
    pub fn members(&self) -> &[PatroniMember] {
        &self.members
    }

    fn member_mut(&mut self, name: &str) -> &mut PatroniMember {
        let found = self.members.iter_mut().find(|member| member.name == name);
        found.unwrap_or_else(|| panic!("no member {name}"))
    }

    /// Starts a member's Patroni, which starts its server.
    pub fn start_member(&mut self, name: &str) {
        self.member_mut(name).start();
    }

    /// SIGKILL for a member's Patroni and all processes of its server.
    pub fn kill(&mut self, name: &str) {
        self.member_mut(name).kill();
    }

    /// Patroni's states of the members, if one of them answers.
    fn states(&self) -> Vec<Value> {
        let answers = self
            .members
            .iter()
            .filter_map(|member| member.ask("GET", "/cluster", ""));
        let answer = answers
            .filter(|(status, _)| *status == 200)
            .map(|(_, body)| body)
            .next();
        let states = answer.and_then(|body| serde_json::from_str::<Value>(&body).ok());
        let members = states.as_ref().and_then(|states| states["members"].as_array());
        members.cloned().unwrap_or_default()
    }

    /// The leading member, once its server takes writes.
    #[must_use]
    pub fn leader(&self) -> Option<&PatroniMember> {
        let leads = |member: &&PatroniMember| matches!(member.ask("GET", "/leader", ""), Some((200, _)));
        let leader = self.members.iter().find(leads)?;
        // The member has the leader's key before its promotion ends.
        leader.postgres.takes_writes().then_some(leader)
    }

    /// Waits until one member leads, and all others stream from it, on its timeline.
    pub fn wait_until_all_stream(&self) {
        wait_for_some("all members to stream", LIMIT, || {
            let states = self.states();
            let leader = states.iter().find(|state| state["role"] == "leader");
            let timeline = leader.map(|leader| &leader["timeline"]);
            let streams = |state: &&Value| state["state"] == "streaming" && Some(&state["timeline"]) == timeline;
            let streaming = states.iter().filter(streams).count();
            if streaming + 1 == self.members.len() {
                Ok(())
            } else {
                Err(format!("{states:#?}"))
            }
        });
    }

    /// Has Patroni stop the leader and promote another member. Returns when that member leads, and the others stream
    /// from it.
    pub fn switch_over(&self, to: &str) {
        self.wait_until_all_stream();
        let from = &self.leader().expect("a leader").name;
        let wish = format!(r#"{{"leader":"{from}","candidate":"{to}"}}"#);
        wait_for_some(&format!("a switchover to {to}"), LIMIT, || {
            match self.member(to).ask("POST", "/switchover", &wish) {
                Some((200, _)) => Ok(()),
                // The request is repeated if the answer was lost, or came too late.
                _ if self.leader().is_some_and(|leader| leader.name == to) => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        });
        wait_for(&format!("{to} to lead"), LIMIT, || {
            self.leader().is_some_and(|leader| leader.name == to)
        });
        self.wait_until_all_stream();
    }

    /// Waits until another member than this one leads, and returns its name.
    #[must_use]
    pub fn wait_for_failover_from(&self, name: &str) -> String {
        wait_for_some(&format!("another leader than {name}"), LIMIT, || {
            match self.leader().filter(|leader| leader.name != name) {
                Some(leader) => Ok(leader.name.clone()),
                None => Err(format!("{:#?}", self.states())),
            }
        })
    }
}

impl PatroniMember {
    fn new(scratch: &Scratch, node: &Node, name: &str, etcd: Ipv4Addr, archive_mode: &str) -> Self {
        let port = Port::reserve();
        let postgres = Postgres::at(scratch, name);
        let host = Host::join(scratch, &format!("host-{name}"), node, &postgres, STANZA);
        let member = Self {
            home: postgres.socket().to_owned(),
            account: scratch.account(),
            postgres,
            host,
            name: name.to_owned(),
            ip: port.own_ip(),
            process: None,
            _port: port,
        };
        let configuration = member.configuration(etcd, archive_mode);
        member.account.write(&member.home.join("patroni.yml"), configuration);
        member
    }

    /// Only p2 may take a dead leader's place, so that each run tells the same story.
    fn configuration(&self, etcd: Ipv4Addr, archive_mode: &str) -> String {
        let Self { name, ip, .. } = self;
        let (home, data) = (self.home.display(), self.postgres.data().display());
        let programs = crate::postgres::programs_of(self.postgres.major());
        let (programs, archive_command) = (programs.display(), self.host.archive_command());
        let restore_command = self.host.restore_command_line();
        let port = self.postgres.port();
        let nofailover = name == "p3";
        format!(
            "
scope: {STANZA}
name: {name}
restapi: {{listen: '{ip}:8008', connect_address: '{ip}:8008'}}
etcd3: {{hosts: '{etcd}:2379'}}
watchdog: {{mode: 'off'}}
tags: {{nofailover: {nofailover}}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: {{wal_log_hints: 'on', track_commit_timestamp: 'on', max_connections: 30, wal_keep_size: 16MB}}
  initdb: [data-checksums, no-sync, {{encoding: UTF8}}, {{locale: C.UTF-8}}, {{auth: trust}}, {{wal-segsize: '1'}}]
postgresql:
  listen: '{ip}:{port}'
  connect_address: '{ip}:{port}'
  data_dir: '{data}'
  bin_dir: '{programs}'
  pgpass: '{home}/pgpass'
  use_unix_socket: true
  authentication:
    superuser: {{username: postgres, password: p}}
    replication: {{username: replicator, password: r}}
    rewind: {{username: rewinder, password: w}}
  pg_hba: [local all all trust, host all all 127.0.0.0/8 trust, host replication all 127.0.0.0/8 trust]
  recovery_conf: {{restore_command: '{restore_command}'}}
  parameters:
    unix_socket_directories: '{home}'
    archive_mode: '{archive_mode}'
    archive_command: '{archive_command}'
    fsync: 'off'
    shared_buffers: 16MB
    jit: 'off'
"
        )
    }

    fn start(&mut self) {
        let python = tool("patroni", "patroni").join("bin/python3");
        let mut command = self.account.command(python, &self.home);
        command.args(["-m", "patroni", "patroni.yml"]);
        // Its server writes to the same log.
        let log = self.home.join("server.log");
        self.process = Some(Process::start(&self.name, command, &log));
    }

    fn assert_runs(&mut self) {
        if let Some(status) = self.process.as_mut().and_then(Process::ended) {
            panic!("Patroni of {} ended with {status}:\n{}", self.name, self.log());
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        wait_for(&format!("the processes of {} to end", self.name), LIMIT, || {
            let processes = self.postgres.processes();
            for process in &processes {
                kill_process(*process, Signal::KILL).ok();
            }
            processes.is_empty()
        });
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The log of its Patroni and its server.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("server.log")).unwrap_or_default()
    }

    /// Stops the processes that send WAL to the other members: only this server has the WAL that it writes from now on.
    pub fn stop_sending(&self) {
        let senders = self.postgres.query("select pid from pg_stat_replication");
        for sender in senders.lines() {
            let process = sender.parse().ok().and_then(rustix::process::Pid::from_raw);
            kill_process(process.expect("a process id"), Signal::STOP).expect("stopping a sender of WAL");
        }
    }

    /// The answer of its Patroni; `None` if there is none.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        self.process.as_ref()?;
        let address = SocketAddr::from((self.ip, 8008));
        let response = http::request(address, method, path, &[], body.as_bytes()).ok()?;
        Some((response.status, String::from_utf8_lossy(&response.body).into_owned()))
    }
}

impl Drop for PatroniMember {
    fn drop(&mut self) {
        // A server outlives its Patroni.
        self.kill();
    }
}

fn start_etcd(scratch: &Scratch, ip: Ipv4Addr) -> Process {
    let home = scratch.folder("etcd");
    let (clients, peers) = (format!("http://{ip}:2379"), format!("http://{ip}:2380"));
    let mut command = scratch.account().command("etcd", &home);
    command.args([
        "--name=etcd",
        "--data-dir=data",
        &format!("--initial-cluster=etcd={peers}"),
    ]);
    for (option, url) in [
        ("listen-client-urls", &clients),
        ("advertise-client-urls", &clients),
        ("listen-peer-urls", &peers),
        ("initial-advertise-peer-urls", &peers),
    ] {
        command.arg(format!("--{option}={url}"));
    }
    let mut process = Process::start("etcd", command, &home.join("etcd.log"));
    wait_for("etcd to listen", LIMIT, || {
        let ended = process.ended();
        assert!(ended.is_none(), "etcd ended with {ended:?}:\n{}", process.log());
        std::net::TcpStream::connect((ip, 2379)).is_ok()
    });
    process
}
