use super::super::scenario::{World, register_node};
use super::*;
use crate::command::{
    AdmitNode, AdmitUnder, AuthorityCommand, Command, HandOutToken, IssueCertificate, IssueUnder, NoteCertificate,
    NoteIssued,
};
use crate::model::RotationStep::{GivenUp, GivingUp, Showing, Signing, Spreading};
use crate::model::{AuthorityId, CertificateRole, Redemption, TokenId, TokenRole};
use crate::refusal::Refusal;

const OLD: AuthorityId = [1; 20];
const NEW: AuthorityId = [2; 20];

/// Two nodes at this program's level.
pub(super) fn world() -> World {
    let mut world = World::empty();
    world.run(register_node("n2", 2)).unwrap();
    let level = AUTHORITIES;
    for node_id in [1, 2] {
        world.run(Command::NoteLevel { node_id, level }).unwrap();
    }
    world.run(Command::RaiseLevel { level }).unwrap();
    world
}

pub(super) fn begin(former: AuthorityId, next: AuthorityId) -> Command {
    Command::from(AuthorityCommand::Begin(BeginRotation {
        former,
        former_certificate: former.to_vec(),
        next,
        next_certificate: next.to_vec(),
        vouched: vec![9],
    }))
}

fn note(node_id: u64, step: RotationStep) -> Command {
    Command::from(AuthorityCommand::TakePart(NoteAuthority {
        node_id,
        authority: NEW,
        step,
    }))
}

const FINISH: AuthorityCommand = AuthorityCommand::Finish { force: false };
const FORCE: AuthorityCommand = AuthorityCommand::Finish { force: true };

/// Both nodes do their parts until the new authority signs.
fn signs(world: &mut World) {
    for step in [Spreading, Showing] {
        world.run(note(1, step)).unwrap();
        world.run(note(2, step)).unwrap();
    }
    assert_eq!(known(world).signing(), NEW);
}

fn join(world: &mut World, name: &str, key: u8, authority: AuthorityId) -> Result<Reply, Refusal> {
    let token = TokenId([key; 16]);
    let (role, replaces) = (CertificateRole::Monitor, None);
    let hand_out = HandOutToken {
        id: token,
        secret_hash: [0; 32],
        role: TokenRole::Member { role, replaces },
        expires: i64::MAX,
        maker: [200; 32],
    };
    // The second one is the same.
    let _ = world.run(Command::HandOutToken(Box::new(hand_out)));
    let redemption = Redemption {
        token,
        secret_hash: [0; 32],
        request: [key; 32],
        certificate: vec![key],
    };
    let issue = IssueCertificate {
        redemption,
        name: name.to_owned(),
        key: [key; 32],
        not_after: 1_000_000,
    };
    world.run(Command::from(AuthorityCommand::Issue(IssueUnder { issue, authority })))
}

fn renew(world: &mut World, name: &str, key: u8, authority: AuthorityId) -> Result<Reply, Refusal> {
    note_as(world, name, key, authority, true)
}

/// The certificate is shown.
fn show(world: &mut World, name: &str, key: u8, authority: AuthorityId) -> Result<Reply, Refusal> {
    note_as(world, name, key, authority, false)
}

fn certificate(name: &str, key: u8, is_renewed: bool) -> NoteCertificate {
    NoteCertificate {
        key: [key; 32],
        name: name.to_owned(),
        role: CertificateRole::Monitor,
        not_after: 1_000_001,
        is_renewed,
    }
}

fn note_as(world: &mut World, name: &str, key: u8, authority: AuthorityId, is_renewed: bool) -> Result<Reply, Refusal> {
    world.run(Command::from(AuthorityCommand::Note(NoteIssued {
        certificate: certificate(name, key, is_renewed),
        issued_at: 5,
        authority,
    })))
}

fn of(world: &World, key: u8) -> Option<AuthorityId> {
    world.view().issuer(&[key; 32]).unwrap()
}

pub(super) fn admit(number: u8, authority: AuthorityId) -> AuthorityCommand {
    AuthorityCommand::Admit(AdmitUnder {
        admit: AdmitNode {
            redemption: Redemption {
                token: TokenId([number; 16]),
                secret_hash: [0; 32],
                request: [number; 32],
                certificate: vec![number],
            },
            name: format!("n{number}").parse().unwrap(),
            region: String::new(),
            advertise: vec!["h:1".to_owned()],
            key: [number; 32],
            administrator: [100 + number; 32],
            program: "test".to_owned(),
            catalog_format: crate::model::MeshRecord::CATALOG_FORMAT,
        },
        authority,
    })
}

/// A token for a node of this number.
pub(super) fn invite(world: &mut World, number: u8) {
    let name = format!("n{number}").parse().unwrap();
    let hand_out = HandOutToken {
        id: TokenId([number; 16]),
        secret_hash: [0; 32],
        role: TokenRole::Node { name, replaces: None },
        expires: i64::MAX,
        maker: [200; 32],
    };
    world.run(Command::HandOutToken(Box::new(hand_out))).unwrap();
}

pub(super) fn remove(world: &mut World, node: &str) {
    let (name, service) = (node.parse().unwrap(), crate::model::NodeService::Removed);
    world.run(Command::SetNodeService { name, service }).unwrap();
}

fn needed(nodes: &[&str], clients: &[&str]) -> Result<Reply, Refusal> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let (nodes, clients, more) = (owned(nodes), owned(clients), 0);
    Err(AuthorityRefusal::StillNeeded { nodes, clients, more }.into())
}

const OTHER: Result<Reply, Refusal> = Err(Refusal::Authority(AuthorityRefusal::OtherAuthority));

fn known(world: &World) -> Rotation {
    world.view().rotation().unwrap().unwrap()
}

#[test]
fn the_new_authority_signs_when_all_nodes_show_it_and_the_former_one_goes_last() {
    let mut world = world();
    join(&mut world, "db1", 11, OLD).unwrap();
    join(&mut world, "db2", 12, OLD).unwrap();
    assert_eq!(world.run(FORCE.into()), Err(AuthorityRefusal::NotRotating.into()));
    world.run(begin(OLD, NEW)).unwrap();
    // The answer was lost.
    world.run(begin(OLD, NEW)).unwrap();
    let second = world.run(begin(OLD, [3; 20]));
    assert!(
        matches!(second, Err(Refusal::Authority(AuthorityRefusal::UnderWay { .. }))),
        "{second:?}"
    );
    world.run(note(1, Spreading)).unwrap();
    // Nothing shows a certificate of it before all trust it.
    world.run(note(2, Showing)).unwrap();
    assert_eq!((known(&world).of_nodes(), known(&world).ready.len()), (OLD, 1));
    world.run(note(2, Spreading)).unwrap();
    assert_eq!((known(&world).of_nodes(), known(&world).signing()), (NEW, OLD));
    // A client that knows only the new authority could not trust a node that does not show it.
    world.run(note(1, Showing)).unwrap();
    assert_eq!(renew(&mut world, "db1", 11, NEW), OTHER);
    world.run(note(2, Showing)).unwrap();
    assert_eq!(known(&world).signing(), NEW);
    assert_eq!(renew(&mut world, "db1", 11, OLD), OTHER);
    assert_eq!(join(&mut world, "db3", 13, OLD), OTHER);
    show(&mut world, "db1", 11, NEW).unwrap();
    assert_eq!(world.run(FINISH.into()), needed(&[], &["monitor db2"]));
    let names = vec!["monitor db2".to_owned()];
    assert_eq!(world.run(FORCE.into()), Ok(Reply::CutOff { names, more: 0 }));
    assert_eq!(known(&world).retired, [OLD]);
    assert_eq!(
        world.view().last_revocation().unwrap(),
        world.applied(),
        "connections end"
    );
    // A retired one does not come back.
    assert_eq!(world.run(begin(NEW, OLD)), OTHER);
    assert_eq!(world.run(begin(OLD, [3; 20])), OTHER);
    world.run(begin(NEW, [3; 20])).unwrap();
    // The name of a client that was cut off is free.
    join(&mut world, "db2", 14, NEW).unwrap();
}

/// The answer to a renewal may be lost: its host would be cut off at the end, and nobody would be told.
#[test]
fn a_client_has_moved_when_it_has_shown_its_new_certificate() {
    let mut world = world();
    join(&mut world, "db1", 11, OLD).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    signs(&mut world);
    renew(&mut world, "db1", 11, NEW).unwrap();
    assert_eq!(of(&world, 11), Some(OLD));
    assert_eq!(world.run(FINISH.into()), needed(&[], &["monitor db1"]));
    // A command that began before goes on by the earlier certificate.
    for authority in [OLD, NEW, OLD] {
        show(&mut world, "db1", 11, authority).unwrap();
    }
    assert_eq!(of(&world, 11), Some(NEW));
    let nobody = Ok(Reply::CutOff {
        names: Vec::new(),
        more: 0,
    });
    assert_eq!(world.run(FINISH.into()), nobody);
    assert_eq!(world.run(FINISH.into()), nobody, "the answer may be lost");
}

#[test]
fn a_node_that_joins_during_a_rotation_has_its_authority_and_is_counted() {
    let mut world = world();
    for number in 3..=6 {
        invite(&mut world, number);
    }
    world.run(begin(OLD, NEW)).unwrap();
    world.run(note(1, Spreading)).unwrap();
    assert_eq!(world.run(admit(3, NEW).into()), OTHER, "not all nodes trust it");
    world.run(admit(3, OLD).into()).unwrap();
    world.run(note(2, Spreading)).unwrap();
    assert_eq!(known(&world).step, Spreading, "n3 would not trust the others");
    world.run(note(3, Spreading)).unwrap();
    assert_eq!(known(&world).step, Showing);
    // Between the steps.
    assert_eq!(world.run(admit(4, OLD).into()), OTHER);
    world.run(admit(4, NEW).into()).unwrap();
    for node in 1..=3 {
        world.run(note(node, Showing)).unwrap();
    }
    assert_eq!(
        known(&world).signing(),
        OLD,
        "a client of the new one alone might not trust n4"
    );
    world.run(note(4, Showing)).unwrap();
    assert_eq!(known(&world).signing(), NEW);
    world.run(admit(5, NEW).into()).unwrap();
    assert_eq!(world.run(FORCE.into()), needed(&["n5"], &[]));
    // It says so of the step that it has seen.
    world.run(note(5, Showing)).unwrap();
    world.run(FINISH.into()).unwrap();
    assert_eq!(world.run(admit(6, OLD).into()), OTHER);
    let AuthorityCommand::Admit(blind) = admit(6, NEW) else {
        panic!("{:?}", admit(6, NEW));
    };
    world.run(AuthorityCommand::Admit(blind).into()).unwrap();
}

#[test]
fn a_node_that_is_gone_is_not_waited_for() {
    let mut world = world();
    world.run(register_node("n3", 3)).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    for node in [1, 2] {
        world.run(note(node, Spreading)).unwrap();
    }
    remove(&mut world, "n3");
    assert_eq!(known(&world).step, Showing);
    world.run(note(1, Showing)).unwrap();
    world.run(note(3, Showing)).unwrap();
    assert_eq!(known(&world).ready, BTreeSet::from([1]), "it is no member");
    remove(&mut world, "n2");
    assert_eq!(known(&world).step, Signing);
}

#[test]
fn a_rotation_is_given_up_until_the_new_authority_signs() {
    let mut world = world();
    let give_up = || Command::from(AuthorityCommand::GiveUp);
    assert_eq!(world.run(give_up()), Err(AuthorityRefusal::NotRotating.into()));
    join(&mut world, "db1", 11, OLD).unwrap();
    // The key is on one disk, or on none any more.
    world.run(begin(OLD, NEW)).unwrap();
    world.run(give_up()).unwrap();
    world.run(give_up()).unwrap();
    assert_eq!((known(&world).step, known(&world).signing()), (GivenUp, OLD));
    assert_eq!(world.run(begin(OLD, NEW)), OTHER, "it does not come back");
    assert_eq!(world.run(note(1, Spreading)), Err(AuthorityRefusal::NotRotating.into()));
    assert_eq!(world.run(FORCE.into()), Err(AuthorityRefusal::NotRotating.into()));
    renew(&mut world, "db1", 11, OLD).unwrap();
    // Nodes show it: each goes back first, and is trusted until all have.
    let third = [3; 20];
    world.run(begin(OLD, third)).unwrap();
    let part = |node_id, step| {
        let authority = third;
        Command::from(AuthorityCommand::TakePart(NoteAuthority {
            node_id,
            authority,
            step,
        }))
    };
    world.run(part(1, Spreading)).unwrap();
    world.run(part(2, Spreading)).unwrap();
    world.run(part(1, Showing)).unwrap();
    world.run(give_up()).unwrap();
    assert!(known(&world).is_under_way() && known(&world).of_nodes() == OLD);
    // What is late counts for nothing.
    world.run(part(2, Showing)).unwrap();
    world.run(part(1, GivingUp)).unwrap();
    assert_eq!(known(&world).step, GivingUp);
    assert_eq!(world.run(FORCE.into()), Err(AuthorityRefusal::NotRotating.into()));
    world.run(part(2, GivingUp)).unwrap();
    assert_eq!(known(&world).step, GivenUp);
    assert_eq!(known(&world).retired, [NEW, third]);
    // Too late.
    world.run(begin(OLD, [4; 20])).unwrap();
    for step in [Spreading, Showing] {
        for node_id in [1, 2] {
            let authority = [4; 20];
            let part = NoteAuthority {
                node_id,
                authority,
                step,
            };
            world.run(AuthorityCommand::TakePart(part).into()).unwrap();
        }
    }
    assert_eq!(world.run(give_up()), Err(AuthorityRefusal::Signs.into()));
}

/// A thief of the former authority's key makes a certificate, and asks for its renewal.
#[test]
fn a_key_that_is_first_seen_during_a_rotation_is_not_renewed() {
    let mut world = world();
    show(&mut world, "db1", 11, OLD).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    let forged = Err(AuthorityRefusal::FirstSeen("mallory".to_owned()).into());
    assert_eq!(renew(&mut world, "mallory", 66, OLD), forged);
    show(&mut world, "mallory", 66, OLD).unwrap();
    // A node that has not heard of the level.
    let early = |name: &str, key, is_renewed| Command::NoteCertificate(Box::new(certificate(name, key, is_renewed)));
    world.run(early("mallory", 66, false)).unwrap();
    world.run(early("oscar", 67, false)).unwrap();
    assert_eq!(world.run(early("oscar", 67, true)), OTHER);
    assert_eq!((of(&world, 66), of(&world, 67)), (Some(FIRST_SEEN), Some(FIRST_SEEN)));
    signs(&mut world);
    assert_eq!(renew(&mut world, "mallory", 66, NEW), forged);
    let forged = Err(AuthorityRefusal::FirstSeen("oscar".to_owned()).into());
    assert_eq!(renew(&mut world, "oscar", 67, NEW), forged);
    renew(&mut world, "db1", 11, NEW).unwrap();
    show(&mut world, "db1", 11, NEW).unwrap();
    world.run(early("db1", 11, false)).unwrap();
    assert_eq!(of(&world, 11), Some(NEW));
    let both = ["monitor mallory", "monitor oscar"];
    assert_eq!(world.run(FINISH.into()), needed(&[], &both));
    world.run(FORCE.into()).unwrap();
    assert_eq!(of(&world, 66), Some(FIRST_SEEN));
    // Commands that do not say who has signed count for nothing from now on.
    let redemption = Redemption {
        token: TokenId([1; 16]),
        secret_hash: [0; 32],
        request: [1; 32],
        certificate: vec![1],
    };
    let name = "late".to_owned();
    assert_eq!(world.run(Command::RedeemToken { redemption, name }), OTHER);
}

/// A thief makes an administrator's certificate for a client's key.
#[test]
fn a_certificate_that_says_another_holder_than_its_row_is_not_noted() {
    let mut world = world();
    join(&mut world, "db1", 11, OLD).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    signs(&mut world);
    let note = |name: &str, role, is_renewed| {
        let certificate = NoteCertificate {
            role,
            ..certificate(name, 11, is_renewed)
        };
        Command::from(AuthorityCommand::Note(NoteIssued {
            certificate,
            issued_at: 5,
            authority: NEW,
        }))
    };
    for is_renewed in [true, false] {
        for (name, role) in [("db1", CertificateRole::Admin), ("root", CertificateRole::Monitor)] {
            let refused = world.run(note(name, role, is_renewed));
            assert!(matches!(refused, Err(Refusal::OtherHolder { .. })), "{refused:?}");
        }
    }
    assert_eq!(of(&world, 11), Some(OLD));
    world.run(note("db1", CertificateRole::Monitor, false)).unwrap();
}

#[test]
fn expired_and_revoked_certificates_need_no_authority() {
    let mut world = world();
    join(&mut world, "db1", 11, OLD).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    signs(&mut world);
    world.at = 1_000_001;
    world.run(FINISH.into()).unwrap();
}
