//! Nodes that take part in rotations, in any order, with crashes, joins and removals between any two steps: all members
//! reach each other, and each client reaches each member.

use super::super::scenario::World;
use super::tests::{admit, begin, invite, remove, world};
use super::*;
use crate::command::Command;
use crate::model::AuthorityId;
use crate::model::RotationStep::{Finished, GivenUp, GivingUp, Signing, Spreading};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a node has on its disk.
#[derive(Debug, Clone)]
struct Disk {
    certificate: AuthorityId,
    trusts: BTreeSet<AuthorityId>,
    keys: BTreeSet<AuthorityId>,
    /// What it is about to tell the catalog.
    note: Option<NoteAuthority>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A node looks what there is to do, and does it.
    Looks(usize),
    /// Its note arrives.
    Tells(usize),
    /// It is killed before it tells.
    Killed(usize),
    /// Its disk is lost: it is removed.
    Lost(usize),
    /// A node joins by this one.
    Joins(usize),
    Begin(usize),
    GiveUp,
    Finish,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any::<usize>().prop_map(Event::Looks),
        8 => any::<usize>().prop_map(Event::Tells),
        2 => any::<usize>().prop_map(Event::Killed),
        1 => any::<usize>().prop_map(Event::Lost),
        1 => any::<usize>().prop_map(Event::Joins),
        2 => any::<usize>().prop_map(Event::Begin),
        1 => Just(Event::GiveUp),
        2 => Just(Event::Finish),
    ]
}

struct Mesh {
    world: World,
    nodes: BTreeMap<u8, Disk>,
    /// Which authority vouches for which.
    vouched: BTreeSet<(AuthorityId, AuthorityId)>,
    last: u8,
}

impl Mesh {
    fn new() -> Self {
        let first = [1; 20];
        let disk = Disk {
            certificate: first,
            trusts: BTreeSet::from([first]),
            keys: BTreeSet::from([first]),
            note: None,
        };
        Self {
            world: world(),
            nodes: BTreeMap::from([(1, disk.clone()), (2, disk)]),
            vouched: BTreeSet::new(),
            last: 2,
        }
    }

    fn rotation(&self) -> Option<Rotation> {
        self.world.view().rotation().unwrap()
    }

    fn signing(&self) -> AuthorityId {
        self.rotation().map_or([1; 20], |rotation| rotation.signing())
    }

    fn pick(&self, which: usize) -> u8 {
        *self.nodes.keys().nth(which % self.nodes.len()).unwrap()
    }

    /// As `Membership::take_part`.
    fn look(&mut self, number: u8) {
        let Some(rotation) = self.rotation() else { return };
        let others: BTreeSet<AuthorityId> = self.nodes.values().flat_map(|node| node.keys.clone()).collect();
        let node = self.nodes.get_mut(&number).unwrap();
        let both = BTreeSet::from([rotation.former, rotation.next]);
        if !rotation.is_under_way() {
            let only = BTreeSet::from([rotation.signing()]);
            if others.is_superset(&only) {
                (node.certificate, node.trusts, node.keys) = (rotation.signing(), only.clone(), only);
            }
            return;
        }
        let needed = match rotation.step {
            GivingUp => rotation.former,
            _ => rotation.next,
        };
        if !others.contains(&needed) {
            return;
        }
        node.keys.extend(both.intersection(&others));
        node.trusts = both;
        node.certificate = rotation.of_nodes();
        node.note = Some(NoteAuthority {
            node_id: number.into(),
            authority: rotation.next,
            step: rotation.step,
        });
    }

    fn join(&mut self, host: u8) {
        let shown = self.nodes[&host].clone();
        let of_nodes = self.rotation().map_or([1; 20], |rotation| rotation.of_nodes());
        // A node without the key does not sign.
        if self.last >= 90 || !shown.keys.contains(&of_nodes) {
            return;
        }
        self.last += 1;
        invite(&mut self.world, self.last);
        self.world.run(admit(self.last, of_nodes).into()).unwrap();
        let joined = Disk {
            certificate: of_nodes,
            keys: BTreeSet::from([of_nodes]),
            note: None,
            ..shown
        };
        self.nodes.insert(self.last, joined);
    }

    /// The key that signs is on several disks; that of a new authority may be on one.
    fn lose(&mut self, number: u8) {
        let signing = self.signing();
        let mut others = self.nodes.iter().filter(|(other, _)| **other != number);
        if self.nodes.len() > 2 && others.any(|(_, node)| node.keys.contains(&signing)) {
            remove(&mut self.world, &format!("n{number}"));
            self.nodes.remove(&number);
        }
    }

    fn begin(&mut self, number: u8, next: AuthorityId) {
        let former = self.signing();
        let node = self.nodes.get_mut(&number).unwrap();
        if node.keys.contains(&former) && self.world.run(begin(former, next)).is_ok() {
            node.keys.insert(next);
            self.vouched.insert((former, next));
        }
    }

    fn happens(&mut self, event: Event, at: u8) {
        match event {
            Event::Looks(which) => self.look(self.pick(which)),
            Event::Tells(which) => {
                let number = self.pick(which);
                if let Some(note) = self.nodes.get_mut(&number).unwrap().note.take() {
                    // It is refused where it is late.
                    let _ = self.world.run(Command::from(AuthorityCommand::TakePart(note)));
                }
            }
            Event::Killed(which) => {
                let number = self.pick(which);
                self.nodes.get_mut(&number).unwrap().note = None;
            }
            Event::Lost(which) => self.lose(self.pick(which)),
            Event::Joins(which) => self.join(self.pick(which)),
            Event::Begin(which) => self.begin(self.pick(which), [at; 20]),
            Event::GiveUp => {
                let before = self.rotation();
                let given_up = self.world.run(AuthorityCommand::GiveUp.into());
                let is_late = before.is_none_or(|known| matches!(known.step, Signing | Finished));
                assert_eq!(given_up.is_err(), is_late);
            }
            Event::Finish => drop(self.world.run(AuthorityCommand::Finish { force: true }.into())),
        }
    }

    fn trusts_server(&self, trusted: &BTreeSet<AuthorityId>, shown: AuthorityId) -> bool {
        trusted.contains(&shown) || trusted.iter().any(|known| self.vouched.contains(&(*known, shown)))
    }

    fn check(&self) {
        let signing = self.signing();
        // A client knows the authority that signs alone; while both count, perhaps the former one alone.
        let mut clients = BTreeSet::from([signing]);
        if let Some(rotation) = self.rotation().filter(|known| known.step == Signing) {
            clients.insert(rotation.former);
        }
        for (number, node) in &self.nodes {
            for known in &clients {
                let alone = BTreeSet::from([*known]);
                assert!(
                    self.trusts_server(&alone, node.certificate),
                    "a client does not trust n{number}"
                );
                assert!(node.trusts.contains(known), "n{number} does not trust a client");
            }
            for (other, peer) in &self.nodes {
                let dials = |from: &Disk, to: &Disk| {
                    to.trusts.contains(&from.certificate) && self.trusts_server(&from.trusts, to.certificate)
                };
                assert!(
                    dials(node, peer) || dials(peer, node),
                    "n{number} and n{other} are cut off"
                );
            }
        }
    }

    /// Whatever has happened, there is a way forward, and where the new authority does not sign yet, one back.
    fn ends(&mut self) {
        let all: Vec<u8> = self.nodes.keys().copied().collect();
        for _ in 0..4 {
            for number in &all {
                self.look(*number);
                if let Some(note) = self.nodes.get_mut(number).unwrap().note.take() {
                    let _ = self.world.run(Command::from(AuthorityCommand::TakePart(note)));
                }
                self.check();
            }
        }
        let Some(rotation) = self.rotation() else { return };
        // The only disk with the key is lost.
        let end = match rotation.step {
            Spreading => AuthorityCommand::GiveUp,
            _ => AuthorityCommand::Finish { force: true },
        };
        if rotation.is_under_way() {
            self.world.run(end.into()).unwrap();
        }
        for number in &all {
            self.look(*number);
            self.check();
        }
        let signing = self.signing();
        assert!(matches!(self.rotation().unwrap().step, Finished | GivenUp));
        assert!(self.nodes.values().all(|node| node.trusts == BTreeSet::from([signing])));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn members_reach_each_other_whatever_happens_in_a_rotation(events in proptest::collection::vec(event(), 1..90)) {
        let mut mesh = Mesh::new();
        for (at, event) in events.into_iter().enumerate() {
            mesh.happens(event, 10 + u8::try_from(at).unwrap());
            mesh.check();
        }
        mesh.ends();
    }
}
