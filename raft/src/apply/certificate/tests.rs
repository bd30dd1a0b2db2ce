use super::super::scenario::World;
use super::*;
use crate::command::Command;
use crate::model::{Redemption, TokenId};
use crate::{LEVEL, View};

/// A world at the level that knows certificates.
fn world() -> World {
    let mut world = World::empty();
    let level = LEVEL;
    world.run(Command::NoteLevel { node_id: 1, level }).unwrap();
    world.run(Command::RaiseLevel { level }).unwrap();
    world
}

fn client() -> CertificateRole {
    let stanzas = vec!["main".parse().unwrap()];
    CertificateRole::Client { stanzas }
}

fn invite(world: &mut World, number: u8, role: CertificateRole, replaces: bool) -> TokenId {
    let id = TokenId([number; 16]);
    let create = Command::CreateToken {
        id,
        secret_hash: [0; 32],
        role: TokenRole::Member { role, replaces },
        expires: i64::MAX,
    };
    world.run(create).unwrap();
    id
}

fn issue(token: TokenId, name: &str, key: u8, not_after: i64) -> Command {
    Command::IssueCertificate(Box::new(IssueCertificate {
        redemption: Redemption {
            token,
            secret_hash: [0; 32],
            request: [key; 32],
            certificate: vec![key],
        },
        name: name.to_owned(),
        key: [key; 32],
        not_after,
    }))
}

/// Joins by a token of its own.
fn join(world: &mut World, name: &str, key: u8, role: CertificateRole) -> Result<Reply, Refusal> {
    let token = invite(world, key, role, false);
    world.run(issue(token, name, key, 1_000_000))
}

fn renew(name: &str, key: u8, not_after: i64) -> Command {
    Command::NoteCertificate(Box::new(NoteCertificate {
        key: [key; 32],
        name: name.to_owned(),
        role: client(),
        not_after,
        is_renewed: true,
    }))
}

fn revoke(name: &str, asker: u8, force: bool) -> Command {
    Command::RevokeCertificates(Box::new(RevokeCertificates {
        name: name.to_owned(),
        reason: "laptop stolen".to_owned(),
        asker: [asker; 32],
        force,
    }))
}

fn row(world: &World, key: u8) -> Option<CertificateRecord> {
    world.view().certificate(&[key; 32]).unwrap()
}

fn last_audit(world: &World) -> String {
    let view: View<_> = world.view();
    let last = view.audit(crate::LogIndex(0)).last();
    last.unwrap().unwrap().1.what
}

#[test]
fn a_join_is_a_row_and_the_same_request_again_changes_nothing() {
    let mut world = world();
    let token = invite(&mut world, 1, client(), false);
    let first = world.run(issue(token, "db1", 1, 500)).unwrap();
    let issued_at = world.at;
    assert!(
        last_audit(&world).ends_with("db1 joined as a client of main (key 0101010101010101)"),
        "{}",
        last_audit(&world)
    );
    assert_eq!(world.run(issue(token, "db1", 1, 900)), Ok(first));
    let known = row(&world, 1).unwrap();
    assert_eq!((known.name.as_str(), &known.role), ("db1", &client()));
    assert_eq!(
        (known.issued_at, known.not_after, known.renewed_at),
        (issued_at, 500, None)
    );
    let other = world.run(issue(token, "db1", 2, 900));
    assert!(matches!(other, Err(Refusal::TokenUsed { .. })), "{other:?}");
    assert_eq!(row(&world, 2), None);
}

#[test]
fn a_name_that_counts_is_refused_to_another_key() {
    let mut world = world();
    join(&mut world, "db1", 1, client()).unwrap();
    let token = invite(&mut world, 2, CertificateRole::Monitor, false);
    let taken = world.run(issue(token, "db1", 2, 900));
    let refused = Refusal::NameTaken {
        name: "db1".to_owned(),
        role: "client".to_owned(),
        key: "0101010101010101".to_owned(),
    };
    assert_eq!(taken, Err(refused));
    assert_eq!(row(&world, 2), None);
    // The token is still good, under another name.
    world.run(issue(token, "db1-monitor", 2, 900)).unwrap();
    // Revoked, the name is free.
    world.run(revoke("db1", 0, false)).unwrap();
    join(&mut world, "db1", 3, client()).unwrap();
    // Expired, too.
    world.at = 2_000_000;
    join(&mut world, "db1", 4, client()).unwrap();
}

#[test]
fn a_token_made_with_force_revokes_what_has_the_name() {
    let mut world = world();
    join(&mut world, "db1", 1, client()).unwrap();
    let token = invite(&mut world, 2, client(), true);
    world.run(issue(token, "db1", 2, 900_000)).unwrap();
    let before = row(&world, 1).unwrap().revoked.unwrap();
    assert!(before.why.contains("another host"), "{before:?}");
    assert!(row(&world, 2).unwrap().revoked.is_none());
}

#[test]
fn a_revoked_key_is_never_renewed_nor_taken_again() {
    let mut world = world();
    join(&mut world, "db1", 1, client()).unwrap();
    world.run(renew("db1", 1, 1_500_000)).unwrap();
    assert!(last_audit(&world).contains("renewed"), "{}", last_audit(&world));
    assert_eq!(row(&world, 1).unwrap().not_after, 1_500_000);
    let other = world.run(renew("db2", 1, 1_600_000));
    assert!(matches!(other, Err(Refusal::OtherHolder { .. })), "{other:?}");
    assert_eq!(
        world.run(revoke("db1", 0, false)),
        Ok(Reply::Revoked { certificates: 1 })
    );
    let revoked = row(&world, 1).unwrap().revoked.unwrap();
    assert_eq!((revoked.by.as_str(), revoked.why.as_str()), ("test", "laptop stolen"));
    assert!(last_audit(&world).contains("laptop stolen"));
    assert_eq!(world.view().last_revocation().unwrap(), world.applied());
    assert_eq!(
        world.run(revoke("db1", 0, false)),
        Ok(Reply::Revoked { certificates: 0 }),
        "once"
    );
    let gone = Err(Refusal::CertificateRevoked("db1".to_owned()));
    assert_eq!(world.run(renew("db1", 1, 2_000_000)), gone);
    let token = invite(&mut world, 2, client(), true);
    assert_eq!(world.run(issue(token, "db9", 1, 2_000_000)), gone);
    assert!(matches!(
        world.run(revoke("nobody", 0, false)),
        Err(Refusal::UnknownCertificate(_))
    ));
}

#[test]
fn the_last_administrator_does_not_revoke_itself_by_mistake() {
    let mut world = world();
    join(&mut world, "alice", 1, CertificateRole::Admin).unwrap();
    assert!(matches!(
        world.run(revoke("alice", 1, false)),
        Err(Refusal::LastAdministrator(_))
    ));
    // Somebody else may, also a node's administrator, who has no row.
    join(&mut world, "bob", 2, CertificateRole::Admin).unwrap();
    world.run(revoke("alice", 1, false)).unwrap();
    assert!(world.run(revoke("bob", 2, false)).is_err());
    world.run(revoke("bob", 2, true)).unwrap();
}

#[test]
fn rows_are_bounded_and_a_revocation_outlives_its_certificate() {
    let mut world = world();
    for key in 1..=4 {
        join(&mut world, &format!("db{key}"), key, client()).unwrap();
    }
    world.run(revoke("db1", 0, false)).unwrap();
    let full = join(&mut world, "db5", 5, client());
    assert!(matches!(full, Err(Refusal::BeyondLimit { .. })), "{full:?}");
    // All have ended; the revoked one stays, in case of a wrong clock.
    world.at = 1_000_001;
    join(&mut world, "db6", 6, client()).unwrap();
    assert!(row(&world, 1).is_some() && row(&world, 2).is_none());
    world.at = 1_000_000 + KEPT + 10;
    join(&mut world, "db7", 7, client()).unwrap();
    assert_eq!(row(&world, 1), None);
}

#[test]
fn an_earlier_level_knows_no_certificates() {
    let mut world = World::empty();
    let needs = Err(Refusal::NeedsLevel {
        level: CERTIFICATES,
        current: 1,
    });
    assert_eq!(world.run(revoke("db1", 0, false)), needs);
    assert_eq!(world.run(renew("db1", 1, 9)), needs);
    let create = Command::CreateToken {
        id: TokenId([1; 16]),
        secret_hash: [0; 32],
        role: TokenRole::Member {
            role: CertificateRole::Monitor,
            replaces: false,
        },
        expires: i64::MAX,
    };
    assert_eq!(world.run(create), needs);
}
