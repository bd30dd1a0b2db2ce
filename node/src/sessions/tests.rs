//! Sessions without a holder end; sessions with a holder do not.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::SessionTimes;
use crate::testing::{Connected, QUICK, TestNode, stanza};
use pgmesh_protocol::{
    BackupBegun, BeginRestore, EndSession, ExitCode, GetChunk, GetStatus, KeepSession, ResumeSession, TerminateSession,
};
use pgmesh_raft::{Command, LogIndex, Reply, SessionId, SessionKind};
use pgmesh_storage::Digest;
use std::time::Duration;
use tokio::time::Instant;

fn open(kind: SessionKind) -> Command {
    Command::OpenSession {
        kind,
        stanza: Some(stanza()),
        holder: "test".to_owned(),
        node: "alpha".parse().unwrap(),
        resume_key: None,
    }
}

fn id(session: u64) -> SessionId {
    SessionId(LogIndex(session))
}

async fn pause(times: u32, of: Duration) {
    tokio::time::sleep(of * times).await;
}

fn keep(session: u64) -> KeepSession {
    KeepSession {
        stanza: stanza(),
        session,
    }
}

fn resume(begun: &BackupBegun, turn: u64) -> ResumeSession {
    ResumeSession {
        stanza: stanza(),
        session: begun.session,
        resume_key: begun.resume_key,
        turn,
        backup_ack: begun.backup_ack,
    }
}

/// The session of an opening that was answered "no majority" and committed later, with the lock that was taken under
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_holds_ends_and_frees_its_stanza() {
    let site = TestNode::start(QUICK).await;
    let client = site.connect().await;
    site.create_stanza(&client).await;
    pause(2, QUICK.orphaned).await;
    let session = site.open_unknown(open(SessionKind::Backup)).await;
    let begin = Command::BeginBackup {
        stanza: stanza(),
        session,
        label: "20260101-000000F".parse().unwrap(),
        system_id: pgmesh_postgres::SystemId(77),
    };
    site.propose(begin).await;
    let refused = client.begin_backup("20260102-000000F").await.unwrap_err();
    assert_eq!(refused.code, ExitCode::LockAcquire);
    let began = Instant::now();
    site.wait("the session's end", |_| !site.is_open(session)).await;
    assert!(
        began.elapsed() >= QUICK.unheld - Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < QUICK.unheld * 3, "{:?}", began.elapsed());
    client.begin_backup("20260102-000000F").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_ended_while_its_opening_waits_for_an_answer() {
    let site = TestNode::start(QUICK).await;
    let opening = site.node.sessions.opening();
    // Committed, and the answer is on its way for longer than an unknown session lives.
    let session = site.open_as(opening.request, open(SessionKind::Repair)).await;
    let own = site
        .node
        .sessions
        .open(SessionKind::Verify, None, "own".to_owned())
        .await
        .unwrap();
    pause(3, QUICK.unheld).await;
    assert!(site.is_open(session) && site.is_open(own.id));
    drop(opening);
    site.wait("the end of a session that failed to open", |_| !site.is_open(session))
        .await;
    assert!(site.is_open(own.id));
    let id = own.id;
    drop(own);
    site.wait("a session to be closed", |_| !site.is_open(id)).await;
}

/// The one test with the times that a node really has: deletion goes on within a minute.
#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_holds_up_deletion_for_less_than_a_minute() {
    let site = TestNode::start(SessionTimes::default()).await;
    let client = site.connect().await;
    site.create_stanza(&client).await;
    // After the node's first look, which takes the sessions that it finds for those of an earlier process.
    pause(1, Duration::from_secs(4)).await;
    let chunk = condemned_chunk(&site, &client, true).await;
    assert!(site.has_file(chunk));
    let began = Instant::now();
    site.wait("the chunk to be deleted", |_| !site.has_file(chunk)).await;
    let took = began.elapsed();
    println!("the chunk was deleted after {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// A chunk that is stored and condemned while an orphan is open, or a restore session of the client.
async fn condemned_chunk(site: &TestNode, client: &Connected, with_orphan: bool) -> Digest {
    let begun = client.begin_backup("20260101-000000F").await.unwrap();
    let chunk = client.put_chunk(begun.session, &[9; 5000]).await.unwrap();
    if with_orphan {
        site.open_unknown(open(SessionKind::Repair)).await;
    }
    let end = EndSession {
        stanza: stanza(),
        session: begun.session,
    };
    client.ask(&end, None).await.unwrap();
    let chunks = vec![chunk];
    let suspect = Command::Suspect { chunks: chunks.clone() };
    let Reply::Suspected { since: suspected } = site.propose(suspect).await else {
        panic!("it was not suspected");
    };
    site.propose(Command::Condemn { chunks, suspected }).await;
    site.node.repair.wake();
    chunk
}

/// The node was admitted and never started: it answers no question.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_ends_the_sessions_of_a_node_that_has_died() {
    let site = TestNode::start(QUICK).await;
    let beta = site.certificate(&pgmesh_transport::Role::Node, "beta");
    site.admit(&beta).await;
    let of = |node: &str, kind| Command::OpenSession {
        kind,
        stanza: None,
        holder: "test".to_owned(),
        node: node.parse().unwrap(),
        resume_key: None,
    };
    let dead = site.open_unknown(of("beta", SessionKind::Verify)).await;
    let own = site.node.sessions.opening();
    let alive = site.open_as(own.request, of("alpha", SessionKind::Repair)).await;
    site.wait("the end of the dead node's session", |_| !site.is_open(dead))
        .await;
    assert!(site.is_open(alive), "its node lives");
    let trail = site.node.catalog.view();
    let ended =
        |what: &str| what.contains(&dead.to_string()) && what.contains("node beta, which kept it alive, is gone");
    assert!(trail.audit(LogIndex(0)).any(|row| ended(&row.unwrap().1.what)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_connected_and_does_nothing_loses_its_session() {
    let site = TestNode::start(QUICK).await;
    let (hung, busy) = (site.connect().await, site.connect().await);
    site.create_stanza(&hung).await;
    let begun = hung.begin_backup("20260101-000000F").await.unwrap();
    let restore = BeginRestore {
        stanza: stanza(),
        holder: "process 8 on db1".into(),
    };
    let kept = busy.ask(&restore, None).await.unwrap();
    let deadline = Instant::now() + QUICK.timeout * 4;
    while Instant::now() < deadline {
        busy.ask(&keep(kept.session), None).await.unwrap();
        tokio::time::sleep(QUICK.timeout / 5).await;
    }
    assert!(!site.is_open(id(begun.session)));
    assert!(site.is_open(id(kept.session)), "its holder works");
    let refused = hung.put_chunk(begun.session, &[1; 100]).await.unwrap_err();
    assert_eq!((refused.code, refused.again), (ExitCode::LockAcquire, false));
    assert!(refused.cause.as_ref().unwrap().contains("session-timeout"), "{refused}");
    let stanza_record = site.node.catalog.view().stanza(&stanza()).unwrap().unwrap();
    assert_eq!(stanza_record.backup, None, "the lock went with it");
    busy.begin_backup("20260102-000000F").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_comes_back_in_time_goes_on_and_one_that_does_not_is_told() {
    let site = TestNode::start(QUICK).await;
    let client = site.connect().await;
    site.create_stanza(&client).await;
    let begun = client.begin_backup("20260101-000000F").await.unwrap();
    let mut client = client;
    // Each time by another connection, for longer than any grace; a move that comes late is refused.
    for turn in 1..=4 {
        let next = site.connect().await;
        next.ask(&resume(&begun, turn), None).await.unwrap();
        if turn > 1 {
            assert!(next.ask(&resume(&begun, turn - 1), None).await.is_err());
            assert!(client.put_chunk(begun.session, b"late").await.is_err());
        }
        drop(client);
        client = next;
        pause(1, QUICK.orphaned).await;
        client.put_chunk(begun.session, &turn.to_le_bytes()).await.unwrap();
    }
    drop(client);
    site.wait("the orphan's end", |_| !site.is_open(id(begun.session)))
        .await;
    let late = site.connect().await;
    let refused = late.ask(&resume(&begun, 5), None).await.unwrap_err();
    assert_eq!(refused.code, ExitCode::LockAcquire);
    assert!(refused.cause.unwrap().contains("did not come back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_reads_what_is_condemned_while_it_runs() {
    let site = TestNode::start(QUICK).await;
    let (backup, restore) = (site.connect().await, site.connect().await);
    site.create_stanza(&backup).await;
    let begin = BeginRestore {
        stanza: stanza(),
        holder: "process 8 on db1".into(),
    };
    let begun = restore.ask(&begin, None).await.unwrap();
    let chunk = condemned_chunk(&site, &backup, false).await;
    let get = GetChunk {
        stanza: stanza(),
        digest: chunk,
        avoid: Vec::new().into(),
    };
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        restore.ask(&get, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let end = EndSession {
        stanza: stanza(),
        session: begun.session,
    };
    restore.ask(&end, None).await.unwrap();
    site.wait("the chunk to be deleted", |_| !site.has_file(chunk)).await;
    let missing = restore.ask(&get, None).await.unwrap_err();
    assert!(
        missing.code == ExitCode::FileMissing || missing.code == ExitCode::RepoInvalid,
        "{missing}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_by_hand_and_its_holder_is_told() {
    let site = TestNode::start(QUICK).await;
    let (client, admin) = (site.connect().await, site.connect().await);
    site.create_stanza(&client).await;
    let begun = client.begin_backup("20260101-000000F").await.unwrap();
    let status = admin.ask(&GetStatus, None).await.unwrap();
    assert_eq!((status.sessions_open, status.sessions.len()), (1, 1));
    let shown = &status.sessions[0];
    assert_eq!(
        (shown.kind.as_str(), shown.holder.as_str()),
        ("backup", "process 7 on db1")
    );
    assert_eq!((shown.stanza.as_deref(), shown.quiet), (Some("main"), Some(0)));
    let end = |session| TerminateSession { session };
    let what = admin.ask(&end(begun.session), None).await.unwrap();
    assert_eq!(what, "backup of stanza main, held by process 7 on db1");
    let refused = client.put_chunk(begun.session, b"x").await.unwrap_err();
    assert!(refused.cause.unwrap().contains("session-end"));
    let unknown = admin.ask(&end(begun.session), None).await.unwrap_err();
    assert_eq!(unknown.code, ExitCode::OptionInvalid);
}
