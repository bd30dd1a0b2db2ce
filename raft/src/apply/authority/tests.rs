use super::super::scenario::{World, register_node};
use super::*;
use crate::command::{
    AuthorityCommand, Command, HandOutToken, IssueCertificate, IssueUnder, NoteCertificate, NoteIssued,
};
use crate::model::{CertificateRole, Redemption, TokenId, TokenRole};
use crate::refusal::Refusal;

const OLD: AuthorityId = [1; 20];
const NEW: AuthorityId = [2; 20];

/// Two nodes at this program's level.
fn world() -> World {
    let mut world = World::empty();
    world.run(register_node("n2", 2)).unwrap();
    let level = AUTHORITIES;
    for node_id in [1, 2] {
        world.run(Command::NoteLevel { node_id, level }).unwrap();
    }
    world.run(Command::RaiseLevel { level }).unwrap();
    world
}

fn begin(former: AuthorityId, next: AuthorityId) -> Command {
    Command::from(AuthorityCommand::Begin(BeginRotation {
        former,
        former_certificate: former.to_vec(),
        next,
        next_certificate: next.to_vec(),
        vouched: vec![9],
    }))
}

fn note(node_id: u64, shows: bool) -> Command {
    Command::from(AuthorityCommand::TakePart(NoteAuthority {
        node_id,
        authority: NEW,
        shows,
    }))
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

fn note_as(world: &mut World, name: &str, key: u8, authority: AuthorityId, is_renewed: bool) -> Result<Reply, Refusal> {
    let certificate = NoteCertificate {
        key: [key; 32],
        name: name.to_owned(),
        role: CertificateRole::Monitor,
        not_after: 1_000_001,
        is_renewed,
    };
    world.run(Command::from(AuthorityCommand::Note(NoteIssued {
        certificate,
        issued_at: 5,
        authority,
    })))
}

fn known(world: &World) -> Rotation {
    world.view().rotation().unwrap().unwrap()
}

#[test]
fn the_new_authority_signs_when_all_nodes_have_it_and_the_former_one_goes_last() {
    let mut world = world();
    join(&mut world, "db1", 11, OLD).unwrap();
    join(&mut world, "db2", 12, OLD).unwrap();
    assert_eq!(
        world.run(AuthorityCommand::Finish { force: true }.into()),
        Err(AuthorityRefusal::NotRotating.into())
    );
    world.run(begin(OLD, NEW)).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    let second = world.run(begin(OLD, [3; 20]));
    assert!(
        matches!(second, Err(Refusal::Authority(AuthorityRefusal::UnderWay { .. }))),
        "{second:?}"
    );
    assert_eq!(known(&world).signing(), OLD);
    world.run(note(1, false)).unwrap();
    // Nothing shows a certificate of it before all trust it.
    world.run(note(1, true)).unwrap();
    assert!(known(&world).shows.is_empty() && known(&world).of_nodes() == OLD);
    world.run(note(2, false)).unwrap();
    assert_eq!(known(&world).of_nodes(), NEW);
    // A client that knows only the new authority could not trust a node that does not show it.
    world.run(note(1, true)).unwrap();
    assert_eq!(known(&world).signing(), OLD);
    assert_eq!(
        renew(&mut world, "db1", 11, NEW),
        Err(AuthorityRefusal::OtherAuthority.into())
    );
    world.run(note(2, true)).unwrap();
    assert_eq!(known(&world).signing(), NEW);
    // A node that joins meanwhile does not turn it back.
    world.run(register_node("n3", 3)).unwrap();
    world.run(note(1, true)).unwrap();
    assert_eq!(known(&world).signing(), NEW);
    assert_eq!(
        renew(&mut world, "db1", 11, OLD),
        Err(AuthorityRefusal::OtherAuthority.into())
    );
    // It gains no time, and is noted for its authority.
    renew(&mut world, "db1", 11, NEW).unwrap();
    let refused = world.run(AuthorityCommand::Finish { force: true }.into());
    let needed = AuthorityRefusal::StillNeeded {
        nodes: vec!["n3".to_owned()],
        clients: vec!["monitor db2".to_owned()],
        more: 0,
    };
    assert_eq!(refused, Err(needed.into()));
    world.run(note(3, true)).unwrap();
    let refused = world.run(AuthorityCommand::Finish { force: false }.into());
    assert!(
        matches!(refused, Err(Refusal::Authority(AuthorityRefusal::StillNeeded { .. }))),
        "{refused:?}"
    );
    let names = vec!["monitor db2".to_owned()];
    let cut_off = Ok(Reply::CutOff { names, more: 0 });
    assert_eq!(world.run(AuthorityCommand::Finish { force: true }.into()), cut_off);
    assert_eq!(known(&world).retired, [OLD]);
    assert_eq!(
        world.view().last_revocation().unwrap(),
        world.applied(),
        "connections end"
    );
    // A retired one does not come back.
    assert_eq!(world.run(begin(NEW, OLD)), Err(AuthorityRefusal::OtherAuthority.into()));
    assert_eq!(
        world.run(begin(OLD, [3; 20])),
        Err(AuthorityRefusal::OtherAuthority.into())
    );
    world.run(begin(NEW, [3; 20])).unwrap();
    // The name of a client that was cut off is free.
    join(&mut world, "db2", 13, NEW).unwrap();
}

fn first_seen(world: &mut World, name: &str, key: u8) -> Result<Reply, Refusal> {
    note_as(world, name, key, OLD, false)
}

/// A thief of the former authority's key makes a certificate, and asks for its renewal.
#[test]
fn a_key_that_is_first_seen_during_a_rotation_is_not_renewed() {
    let mut world = world();
    first_seen(&mut world, "db1", 11).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    let forged = Err(AuthorityRefusal::FirstSeen("mallory".to_owned()).into());
    assert_eq!(renew(&mut world, "mallory", 66, OLD), forged);
    first_seen(&mut world, "mallory", 66).unwrap();
    for (node, shows) in [(1, false), (2, false), (1, true), (2, true)] {
        world.run(note(node, shows)).unwrap();
    }
    assert_eq!(renew(&mut world, "mallory", 66, NEW), forged);
    renew(&mut world, "db1", 11, NEW).unwrap();
    let needed = AuthorityRefusal::StillNeeded {
        nodes: Vec::new(),
        clients: vec!["monitor mallory".to_owned()],
        more: 0,
    };
    assert_eq!(
        world.run(AuthorityCommand::Finish { force: false }.into()),
        Err(needed.into())
    );
    world.run(AuthorityCommand::Finish { force: true }.into()).unwrap();
    assert_eq!(world.view().issuer(&[66; 32]).unwrap(), Some(FIRST_SEEN));
}

#[test]
fn expired_and_revoked_certificates_need_no_authority() {
    let mut world = world();
    join(&mut world, "db1", 11, OLD).unwrap();
    world.run(begin(OLD, NEW)).unwrap();
    for (node, shows) in [(1, false), (2, false), (1, true), (2, true)] {
        world.run(note(node, shows)).unwrap();
    }
    world.at = 1_000_001;
    let nobody = Ok(Reply::CutOff {
        names: Vec::new(),
        more: 0,
    });
    assert_eq!(world.run(AuthorityCommand::Finish { force: false }.into()), nobody);
    assert_eq!(
        world.run(AuthorityCommand::Finish { force: false }.into()),
        nobody,
        "the answer may be lost"
    );
}
