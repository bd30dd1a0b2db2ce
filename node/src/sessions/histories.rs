//! Random histories of one client and three nodes: connections break, nodes restart, majorities go and come, messages
//! and proposals are late and arrive in another order. A session whose client holds it, or has not lost it for long, is
//! never ended. The catalog is the real `apply`; time passes second by second.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::clients::{ClientSessions, Terms};
use super::keeping::unheld_of;
use super::sightings::Sightings;
use super::{ConnectionNumber, SessionTimes};
use pgmesh_raft::apply::{MemoryBase, Txn, apply, next_index};
use pgmesh_raft::{
    Command, LogIndex, MeshRecord, NodeName, NodeRecord, NodeService, Proposal, Refusal, Reply, RequestId, SessionId,
    SessionKind, View, VotePolicy,
};
use pgmesh_transport::Account;
use std::collections::BTreeSet;
use std::time::Duration;

const HISTORIES: u64 = 600;
const SECONDS: u64 = 240;
const NODES: usize = 3;
/// How long a node waits for the catalog's answer, and a client for its node's.
const PATIENCE: u64 = 8;
const CLIENT_PATIENCE: u64 = 4;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// Mostly quick, sometimes very late.
    fn delay(&mut self) -> u64 {
        if self.one_in(8) {
            5 + self.below(30)
        } else {
            self.below(3)
        }
    }
}

struct Node {
    name: NodeName,
    clients: ClientSessions,
    sightings: Sightings,
    has_looked: bool,
    incarnation: u64,
}

/// A request or a proposal on its way.
enum Event {
    /// A client's request to go on with its session.
    Resume {
        turn: u64,
        connection: ConnectionNumber,
    },
    /// A node learns that a connection is gone.
    Disconnect(ConnectionNumber),
    /// A proposal, and until when its node waits for the answer.
    Adopt {
        turn: u64,
        connection: ConnectionNumber,
        patience: u64,
    },
    Expire {
        lease: LogIndex,
    },
}

struct Due {
    at: u64,
    node: usize,
    incarnation: u64,
    event: Event,
}

/// A guard that is taken away, to see that the histories need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// The command that ends a session names no lease.
    Lease,
    /// Any adoption counts as the last adoption.
    Turn,
    /// Time without a majority counts.
    Forgetting,
}

struct World {
    without: Without,
    random: Random,
    now: u64,
    base: MemoryBase,
    nodes: Vec<Node>,
    due: Vec<Due>,
    no_majority_until: u64,
    session: SessionId,
    /// The client: its connection, whether its session is that connection's, and since when it waits for it.
    at: Option<(usize, ConnectionNumber)>,
    holds: bool,
    asked: u64,
    turn: u64,
    connections: u64,
    /// For how many seconds with a majority the client has been without its session.
    lost: u64,
}

fn run(base: &mut MemoryBase, number: u64, command: Command) -> Result<Reply, Refusal> {
    let mut txn = Txn::new(base);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let proposal = Proposal {
        id: RequestId(id),
        at: 0,
        actor: "test".to_owned(),
        command,
    };
    let index = next_index(&txn).unwrap();
    let outcome = apply(&mut txn, index, proposal).unwrap();
    let writes = txn.into_writes();
    base.write(writes);
    outcome
}

fn name(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

impl World {
    fn new(seed: u64, without: Without) -> Self {
        let mut base = MemoryBase::default();
        let mesh = MeshRecord {
            mesh_id: "m".to_owned(),
            suite: pgmesh_storage::DigestSuite::Blake3,
            created: 1,
            catalog_format: MeshRecord::CATALOG_FORMAT,
        };
        run(&mut base, 1, Command::FoundMesh(mesh)).unwrap();
        for number in 0..NODES {
            let record = NodeRecord {
                node_id: number as u64 + 1,
                region: String::new(),
                advertise: vec!["localhost:1".to_owned()],
                key: [u8::try_from(number).unwrap(); 32],
                administrator: [u8::try_from(number).unwrap(); 32],
                program: String::new(),
                service: NodeService::InService,
                vote: VotePolicy::Auto,
                revoked: Vec::new(),
                reaches: BTreeSet::new(),
            };
            let register = Command::RegisterNode {
                name: name(number),
                record,
            };
            run(&mut base, 2 + number as u64, register).unwrap();
        }
        let open = Command::OpenSession {
            kind: SessionKind::Backup,
            stanza: None,
            holder: "client".to_owned(),
            node: name(0),
            resume_key: Some([7; 16]),
        };
        let Ok(Reply::Session(session)) = run(&mut base, 100, open) else {
            panic!();
        };
        let node = |number| Node {
            name: name(number),
            clients: ClientSessions::default(),
            sightings: Sightings::default(),
            has_looked: true,
            incarnation: 0,
        };
        let nodes: Vec<Node> = (0..NODES).map(node).collect();
        nodes[0].clients.connected(1, Account::Monitors);
        let terms = Terms {
            ack: 1,
            turn: 0,
            lease: session.0,
            connection: 1,
        };
        nodes[0].clients.attach(session, terms, Duration::ZERO).unwrap();
        Self {
            without,
            random: Random(seed),
            now: 0,
            base,
            nodes,
            due: Vec::new(),
            no_majority_until: 0,
            session,
            at: Some((0, 1)),
            holds: true,
            asked: 0,
            turn: 0,
            connections: 1,
            lost: 0,
        }
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.now)
    }

    fn has_majority(&self) -> bool {
        self.now >= self.no_majority_until
    }

    fn is_open(&self) -> bool {
        View::new(&self.base).session(self.session).unwrap().is_some()
    }

    fn later(&mut self, node: usize, event: Event) {
        let at = self.now + self.random.delay();
        let incarnation = self.nodes[node].incarnation;
        self.due.push(Due {
            at,
            node,
            incarnation,
            event,
        });
    }

    /// One second. Whether the session is open after it.
    fn step(&mut self) -> bool {
        self.now += 1;
        self.strike();
        self.client();
        self.deliver();
        if self.now.is_multiple_of(2) {
            (0..NODES).for_each(|node| self.look(node));
        }
        if self.holds {
            self.lost = 0;
        } else if self.has_majority() {
            self.lost += 1;
        }
        self.is_open()
    }

    fn strike(&mut self) {
        if self.random.one_in(60) {
            self.no_majority_until = self.now + 2 + self.random.below(40);
        }
        if self.random.one_in(25) {
            let node = usize::try_from(self.random.below(NODES as u64)).unwrap();
            let restarted = &mut self.nodes[node];
            (restarted.clients, restarted.sightings) = (ClientSessions::default(), Sightings::default());
            restarted.has_looked = false;
            restarted.incarnation += 1;
            if self.at.is_some_and(|(at, _)| at == node) {
                self.leave();
            }
        }
        if self.random.one_in(15) {
            self.leave();
        }
    }

    /// The client's connection is gone, for the client; its node learns it in a moment.
    fn leave(&mut self) {
        if let Some((node, connection)) = self.at.take() {
            self.later(node, Event::Disconnect(connection));
        }
        self.holds = false;
    }

    fn client(&mut self) {
        if self.at.is_some() && !self.holds && self.now - self.asked >= CLIENT_PATIENCE {
            self.leave();
        }
        if self.at.is_none() {
            let node = usize::try_from(self.random.below(NODES as u64)).unwrap();
            self.connections += 1;
            self.turn += 1;
            let (turn, connection) = (self.turn, self.connections);
            self.nodes[node].clients.connected(connection, Account::Monitors);
            self.at = Some((node, connection));
            self.asked = self.now;
            self.later(node, Event::Resume { turn, connection });
        }
    }

    fn deliver(&mut self) {
        let (ripe, waiting) = std::mem::take(&mut self.due)
            .into_iter()
            .partition(|due| due.at <= self.now);
        self.due = waiting;
        for due in ripe {
            self.carry_out(due);
        }
    }

    fn carry_out(&mut self, due: Due) {
        let Due { node, incarnation, .. } = due;
        let is_same = self.nodes[node].incarnation == incarnation;
        match due.event {
            Event::Disconnect(connection) if is_same => {
                let now = self.time();
                self.nodes[node].clients.disconnected(connection, now);
            }
            Event::Resume { turn, connection } if is_same => self.resume(node, turn, connection),
            Event::Disconnect(_) | Event::Resume { .. } => {}
            // Proposals outlive their node: they are in some leader's log.
            Event::Adopt { patience, turn, .. } if !self.has_majority() => {
                if is_same && self.now > patience {
                    self.nodes[node].clients.release(self.session, turn);
                }
                self.due.push(Due {
                    at: self.now + 1,
                    ..due
                });
            }
            Event::Expire { .. } if !self.has_majority() => self.due.push(Due {
                at: self.now + 1,
                ..due
            }),
            Event::Adopt {
                turn,
                connection,
                patience,
            } => {
                let record = View::new(&self.base).session(self.session).unwrap();
                let last = record.map_or(0, |record| record.turn + 1);
                let adopt = Command::AdoptSession {
                    session: self.session,
                    turn: if self.without == Without::Turn {
                        last.max(turn)
                    } else {
                        turn
                    },
                    node: name(node),
                    key: [7; 16],
                };
                let outcome = self.propose(adopt);
                let is_heard = is_same && self.now <= patience;
                match outcome {
                    Ok(Reply::Adopted { lease }) if is_heard => {
                        self.nodes[node].clients.renew(self.session, turn, lease);
                        self.holds |= self.at == Some((node, connection));
                    }
                    _ if is_same => self.nodes[node].clients.release(self.session, turn),
                    _ => {}
                }
            }
            Event::Expire { lease } => {
                let expire = Command::ExpireSession {
                    session: self.session,
                    lease: (self.without != Without::Lease).then_some(lease),
                    reason: "test".to_owned(),
                };
                self.propose(expire).unwrap();
            }
        }
    }

    fn propose(&mut self, command: Command) -> Result<Reply, Refusal> {
        let number = 1000 + self.now * 100 + self.random.below(1 << 40) * 1_000_000;
        run(&mut self.base, number, command)
    }

    fn resume(&mut self, node: usize, turn: u64, connection: ConnectionNumber) {
        let Some(record) = View::new(&self.base)
            .session(self.session)
            .unwrap()
            .filter(|_| self.has_majority())
        else {
            return;
        };
        let terms = Terms {
            ack: 1,
            turn,
            lease: record.lease,
            connection,
        };
        let now = self.time();
        if self.nodes[node].clients.attach(self.session, terms, now).is_ok() {
            let patience = self.now + PATIENCE;
            self.later(
                node,
                Event::Adopt {
                    turn,
                    connection,
                    patience,
                },
            );
        }
    }

    /// As `Node::end_unheld_sessions`.
    fn look(&mut self, number: usize) {
        let (now, has_majority) = (self.time(), self.has_majority());
        let node = &mut self.nodes[number];
        if !has_majority {
            if self.without != Without::Forgetting {
                let _ = node.sightings.observe(now, Err(()));
            }
            return;
        }
        let sessions = View::new(&self.base).sessions().unwrap();
        let named = sessions.into_iter().filter(|(_, record)| record.node == node.name);
        let unheld = unheld_of(named, &node.clients, &SessionTimes::default(), !node.has_looked);
        node.has_looked = true;
        let due = node.sightings.observe::<()>(now, Ok(&unheld)).unwrap();
        node.clients
            .forget_detached(|session| unheld.iter().any(|unheld| unheld.session == session));
        for unheld in due {
            node.clients.ended(unheld.session, "test");
            let at = self.now + self.random.delay();
            let incarnation = node.incarnation;
            let event = Event::Expire { lease: unheld.lease };
            self.due.push(Due {
                at,
                node: number,
                incarnation,
                event,
            });
        }
    }
}

/// How a history ends: the session is open, or ended when it was lost for long enough, or against the rules.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Lived,
    Lost,
    Wrong(String),
}

fn history(seed: u64, without: Without) -> End {
    let grace = SessionTimes::default().orphaned.as_secs();
    let mut world = World::new(seed, without);
    while world.now < SECONDS {
        let (held, lost) = (world.holds, world.lost);
        if !world.step() {
            if !held && lost + 1 >= grace {
                return End::Lost;
            }
            let second = world.now;
            return End::Wrong(format!(
                "seed {seed}, second {second}: ended {lost} s after it was lost (held: {held})"
            ));
        }
    }
    End::Lived
}

#[test]
fn a_session_that_is_held_is_never_ended() {
    let (mut lived, mut lost) = (0, 0);
    for seed in 0..HISTORIES {
        match history(seed, Without::Nothing) {
            End::Lived => lived += 1,
            End::Lost => lost += 1,
            End::Wrong(how) => panic!("{how}"),
        }
    }
    println!("{lived} sessions lived, {lost} were lost for too long");
    assert!(
        lived > HISTORIES / 10 && lost > HISTORIES / 100,
        "{lived} lived, {lost} were lost"
    );
}

#[test]
fn without_any_one_of_the_guards_live_sessions_end() {
    for without in [Without::Lease, Without::Turn, Without::Forgetting] {
        let wrong = (0..HISTORIES).find(|seed| matches!(history(*seed, without), End::Wrong(_)));
        assert!(wrong.is_some(), "{without:?} makes no difference");
    }
}
