use super::super::scenario::World;
use super::*;
use crate::command::{AuthorityCommand, Command, HandOutToken, NoteIssued};
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

/// A token that the administrator with the key `[200; 32]` makes.
fn invite(world: &mut World, number: u8, role: CertificateRole, replaces: Option<&str>) -> TokenId {
    let replaces = replaces.map(str::to_owned);
    let role = TokenRole::Member { role, replaces };
    world.run(hand_out(number, role, 200)).unwrap();
    TokenId([number; 16])
}

fn hand_out(number: u8, role: TokenRole, maker: u8) -> Command {
    Command::HandOutToken(Box::new(HandOutToken {
        id: TokenId([number; 16]),
        secret_hash: [0; 32],
        role,
        expires: i64::MAX,
        maker: [maker; 32],
    }))
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
    let token = invite(world, key, role, None);
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
    let token = invite(&mut world, 1, client(), None);
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
    let token = invite(&mut world, 2, CertificateRole::Monitor, None);
    let taken = world.run(issue(token, "db1", 2, 900));
    assert!(world.run(issue(token, "Db1", 2, 900)).is_err(), "one name");
    let refused = Refusal::NameTaken {
        name: "db1".to_owned(),
        role: "client".to_owned(),
        stanzas: vec!["main".parse().unwrap()],
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
    let token = invite(&mut world, 2, client(), Some("DB1"));
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
    let token = invite(&mut world, 2, client(), Some("db9"));
    assert_eq!(world.run(issue(token, "db9", 1, 2_000_000)), gone);
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

/// The name was the bearer's choice: a client's token revoked every administrator.
#[test]
fn a_token_made_with_force_revokes_its_own_name_and_role_only() {
    let mut world = world();
    join(&mut world, "alice", 1, CertificateRole::Admin).unwrap();
    join(&mut world, "db2", 2, client()).unwrap();
    let token = invite(&mut world, 3, client(), Some("db1"));
    let other = world.run(issue(token, "db2", 3, 900));
    assert!(matches!(other, Err(Refusal::TokenOfOtherName(..))), "{other:?}");
    let token = invite(&mut world, 4, client(), Some("alice"));
    let other = world.run(issue(token, "alice", 4, 900));
    assert!(matches!(other, Err(Refusal::NameTaken { .. })), "{other:?}");
    for key in [1, 2] {
        assert!(row(&world, key).unwrap().revoked.is_none(), "{key}");
    }
}

/// A thief who is an administrator invited somebody else before it was revoked.
#[test]
fn the_unused_tokens_of_a_revoked_administrator_go_with_it() {
    let mut world = world();
    join(&mut world, "alice", 1, CertificateRole::Admin).unwrap();
    let node = |name: &str| TokenRole::Node {
        name: name.parse().unwrap(),
        replaces: None,
    };
    let member = || TokenRole::Member {
        role: CertificateRole::Admin,
        replaces: None,
    };
    world.run(hand_out(10, member(), 1)).unwrap();
    world.run(hand_out(11, node("n8"), 1)).unwrap();
    world.run(hand_out(12, member(), 1)).unwrap();
    world.run(issue(TokenId([12; 16]), "bob", 12, 1_000_000)).unwrap();
    world.run(hand_out(13, member(), 99)).unwrap();
    world.run(revoke("alice", 0, false)).unwrap();
    assert!(last_audit(&world).contains("2 unused tokens"), "{}", last_audit(&world));
    let known = |number: u8| world.view().token(TokenId([number; 16])).unwrap().is_some();
    assert_eq!([10, 11, 12, 13].map(known), [false, false, true, true]);
    // A command of hers that comes after it: she is one no more.
    let gone = Err(Refusal::CertificateRevoked("alice".to_owned()));
    assert_eq!(world.run(hand_out(14, member(), 1)), gone);
    assert_eq!(world.run(revoke("bob", 1, true)), gone);
}

/// A host that had not connected since the upgrade was not reached by its name.
#[test]
fn a_key_that_nobody_has_seen_is_refused_under_a_revoked_name() {
    let mut world = world();
    let nothing = Ok(Reply::Revoked { certificates: 0 });
    let unknown = Err(AuthorityRefusal::UnknownName("db1".to_owned()).into());
    assert_eq!(
        world.run(revoke("db1", 0, false)),
        unknown,
        "a mistyped name is not barred"
    );
    assert!(world.view().revoked_name("db1").unwrap().is_none());
    assert_eq!(world.run(revoke("db1", 0, true)), nothing);
    assert!(last_audit(&world).contains("db1 revoked"), "{}", last_audit(&world));
    assert_eq!(world.view().last_revocation().unwrap(), world.applied());
    let gone = Err(Refusal::CertificateRevoked("DB1".to_owned()));
    assert_eq!(world.run(renew("DB1", 1, 1_500_000)), gone);
    assert!(world.view().revoked_name("Db1").unwrap().is_some());
    // A new token helps the new key only.
    join(&mut world, "db1", 2, client()).unwrap();
    world.run(renew("db1", 2, 1_500_000)).unwrap();
    assert!(world.run(renew("db1", 1, 1_500_000)).is_err());
    // A clock that is ahead does not take the row away, without which the key would be refused.
    world.at = 1_500_000 + KEPT + 10;
    join(&mut world, "db3", 3, client()).unwrap();
    assert!(row(&world, 2).is_some());
}

#[test]
fn a_key_keeps_its_holder_and_a_node_keeps_its_name() {
    let mut world = world();
    join(&mut world, "db1", 1, client()).unwrap();
    for (number, name, role) in [(20, "db2", client()), (21, "db1", CertificateRole::Monitor)] {
        let token = invite(&mut world, number, role, None);
        let other = world.run(issue(token, name, 1, 900));
        assert!(matches!(other, Err(Refusal::OtherHolder { .. })), "{other:?}");
    }
    let (name, node) = world.view().nodes().unwrap().remove(0);
    for key in [node.key, node.administrator] {
        let mut issue = IssueCertificate {
            redemption: crate::apply::scenario::redemption(TokenId([20; 16]), 9, 9),
            name: "db9".to_owned(),
            key,
            not_after: 900,
        };
        issue.redemption.secret_hash = [0; 32];
        let other = world.run(Command::IssueCertificate(Box::new(issue)));
        assert!(matches!(other, Err(Refusal::OtherHolder { .. })), "{other:?}");
    }
    let taken = join(&mut world, &name.to_string().to_uppercase(), 30, client());
    assert!(matches!(taken, Err(Refusal::NameTaken { .. })), "{taken:?}");
}

#[test]
fn a_renewal_that_gains_nothing_is_not_noted() {
    let mut world = world();
    join(&mut world, "db1", 1, client()).unwrap();
    let before = last_audit(&world);
    world.run(renew("db1", 1, 1_000_000 + limits::RENEWAL - 1)).unwrap();
    assert_eq!(row(&world, 1).unwrap().renewed_at, None);
    assert_eq!(last_audit(&world), before);
    world.run(renew("db1", 1, 1_000_000 + limits::RENEWAL)).unwrap();
    assert!(row(&world, 1).unwrap().renewed_at.is_some());
}

#[test]
fn certificates_that_count_are_bounded_and_revoked_ones_take_no_room_from_them() {
    let mut world = world();
    for key in 1..=4 {
        join(&mut world, &format!("db{key}"), key, client()).unwrap();
    }
    let full = join(&mut world, "db5", 5, client());
    assert_eq!(full, Err(Refusal::TooManyCertificates(4)));
    // The remedy works, however often.
    for key in 6..=20 {
        world.run(revoke(&format!("db{}", key - 1), 0, true)).unwrap();
        world.run(revoke("db1", 0, false)).unwrap();
        join(&mut world, &format!("db{key}"), key, client()).unwrap();
    }
    let view: View<_> = world.view();
    let is_revoked = |row: &Result<(_, CertificateRecord), _>| row.as_ref().is_ok_and(|row| row.1.revoked.is_some());
    assert_eq!(view.certificates(None).filter(is_revoked).count(), limits::REVOKED);
    // Expired ones give way.
    world.at = 1_000_001;
    join(&mut world, "db30", 30, client()).unwrap();
    join(&mut world, "db31", 31, client()).unwrap();
}

/// One clock that was ahead gave them up.
#[test]
fn a_revocation_is_not_forgotten_by_a_clock() {
    let mut world = world();
    join(&mut world, "db1", 1, client()).unwrap();
    join(&mut world, "db2", 2, client()).unwrap();
    world.run(revoke("db1", 0, false)).unwrap();
    world.at = 1_000_000 + KEPT + 10;
    for key in 3..=6 {
        join(&mut world, &format!("db{key}"), key, client()).unwrap();
    }
    assert!(row(&world, 1).is_some() && row(&world, 2).is_none());
}

fn first_seen(name: &str, key: u8, issued_at: i64) -> Command {
    Command::from(AuthorityCommand::Note(NoteIssued {
        certificate: NoteCertificate {
            key: [key; 32],
            name: name.to_owned(),
            role: client(),
            not_after: 1_500_000,
            is_renewed: false,
        },
        issued_at,
        authority: [1; 20],
    }))
}

/// After `node rescue` the row of a join may be gone, and the bar of its name be there.
#[test]
fn a_bar_reaches_what_was_issued_before_it() {
    let mut world = world();
    world.at = 10_000;
    world.run(revoke("db1", 0, true)).unwrap();
    let (at, margin) = (world.at, Revocation::MARGIN);
    let gone = Err(Refusal::CertificateRevoked("db1".to_owned()));
    assert_eq!(world.run(first_seen("db1", 1, at - 1)), gone);
    assert_eq!(world.run(first_seen("db1", 1, at + margin)), gone, "clocks differ");
    world.run(first_seen("db1", 2, at + margin + 1)).unwrap();
    assert_eq!(row(&world, 2).unwrap().issued_at, at + margin + 1);
    assert_eq!(world.view().issuer(&[2; 32]).unwrap(), Some([1; 20]));
    // Barred again, it reaches what was issued meanwhile.
    world.at = at + 2 * margin;
    world.run(revoke("db1", 0, false)).unwrap();
    let gone = world.run(first_seen("db1", 3, at + margin + 1));
    assert!(gone.is_err(), "{gone:?}");
}

#[test]
fn the_number_of_certificates_is_a_row_and_stays_true() {
    let mut world = world();
    let counted = |world: &World| -> u64 { world.view().certificate_count().unwrap().unwrap() };
    let truly = |world: &World| -> usize {
        let view: View<_> = world.view();
        let counts = |row: &Result<(_, CertificateRecord), _>| row.as_ref().is_ok_and(|row| row.1.revoked.is_none());
        view.certificates(None).filter(counts).count()
    };
    for key in 1..=3 {
        join(&mut world, &format!("db{key}"), key, client()).unwrap();
    }
    world.run(renew("db1", 1, 1_500_000)).unwrap();
    assert_eq!((counted(&world), truly(&world)), (3, 3));
    world.run(revoke("db2", 0, false)).unwrap();
    world.run(revoke("db2", 0, false)).unwrap();
    assert_eq!((counted(&world), truly(&world)), (2, 2));
    join(&mut world, "db2", 4, client()).unwrap();
    join(&mut world, "db4", 5, client()).unwrap();
    world.at = 1_000_001;
    join(&mut world, "db5", 6, client()).unwrap();
    assert_eq!(
        (counted(&world), truly(&world)),
        (2 + 1, 3),
        "db2's row stays, since its name is barred"
    );
}

/// Tokens of an early level name no maker: a stolen administrator may have made them.
#[test]
fn tokens_without_a_maker_go_with_any_administrator() {
    let mut world = World::empty();
    let token = |number: u8| TokenId([number; 16]);
    let early = |number| crate::apply::scenario::create_token(token(number), TokenRole::Admin, i64::MAX);
    world.run(early(1)).unwrap();
    let level = LEVEL;
    world.run(Command::NoteLevel { node_id: 1, level }).unwrap();
    world.run(Command::RaiseLevel { level }).unwrap();
    let late = world.run(early(2));
    assert!(matches!(late, Err(Refusal::Recheck { .. })), "{late:?}");
    join(&mut world, "db1", 10, client()).unwrap();
    join(&mut world, "alice", 11, CertificateRole::Admin).unwrap();
    world.run(revoke("db1", 0, false)).unwrap();
    assert!(world.view().token(token(1)).unwrap().is_some());
    world.run(revoke("alice", 0, false)).unwrap();
    assert!(world.view().token(token(1)).unwrap().is_none());
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
            replaces: None,
        },
        expires: i64::MAX,
    };
    assert_eq!(world.run(create), needs);
}
