//! The secrets that open a bucket are nowhere but in the configuration.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pgmesh_tests::http::Fault;
use pgmesh_tests::stores::Clouds;
use pgmesh_tests::{Outcome, Site, run};

const SESSION_TOKEN: &str = "planted-session-token-0123456789";

/// Collects the command lines of all readable processes until `end`.
fn watch_processes(end: &AtomicBool) -> String {
    let mut seen = String::new();
    while !end.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let is_ours = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.ends_with("pgmesh"));
            if is_ours && let Ok(line) = fs::read(entry.path().join("cmdline")) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if !seen.contains(&line) {
                    seen += &line;
                }
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    seen
}

#[test]
fn credentials_are_in_no_log_no_error_no_command_line_and_no_catalog() {
    let clouds = Clouds::start();
    let mut secrets = clouds.secrets();
    secrets.extend(["correct horse", SESSION_TOKEN].map(str::to_owned));
    // Tokens and signatures derived from the secrets open the buckets as well.
    secrets.extend(["Bearer ey", "SharedKey devstoreaccount1:"].map(str::to_owned));
    let end = AtomicBool::new(false);
    let (site, said) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch_processes(&end));
        let (site, said) = story(&clouds);
        end.store(true, Ordering::Relaxed);
        (site, said + &watch.join().expect("the watch"))
    });
    assert!(said.contains("archive-push"), "something was seen");
    for secret in &secrets {
        assert!(!said.contains(secret.as_str()), "{secret:?} was shown");
        let mut command = site.scratch.account().command("/bin/grep", site.scratch.path());
        command
            .args([
                "--recursive",
                "--text",
                "--fixed-strings",
                "--files-with-matches",
                "-e",
                secret,
            ])
            .arg(site.node.data())
            .arg(site.host.home());
        let found = run(command);
        assert_eq!(found.code(), Some(1), "{secret:?} lies in {found}");
    }
}

/// All requests succeed, and then all fail. Returns all output.
fn story(clouds: &Clouds) -> (Site, String) {
    let site = Site::with_node("secrets", |node| {
        let node = node.repository().option("log-level-console", "trace");
        let node = node.option("archive-ack", "1").option("backup-ack", "1");
        let [s3, azure, gcs] = clouds.buckets();
        let buckets = [s3.with("s3-token", SESSION_TOKEN), azure, gcs];
        buckets.iter().fold(node, |node, bucket| node.repository_on(bucket))
    });
    let mut said = String::new();
    let trace = "--log-level-console=trace";
    let mut note = |outcome: Outcome| said += &format!("{outcome}");
    note(site.host.run(&["backup", "--type=full", "--start-fast", trace]).ok());
    site.postgres.archive_everything();
    note(site.host.run(&["verify", trace]).ok());
    for fault in [
        None,
        Some(Fault::forbidden("SignatureDoesNotMatch")),
        Some(Fault::slow_down()),
    ] {
        if let Some(fault) = fault {
            clouds.proxies.iter().for_each(|proxy| proxy.set(fault.clone()));
            site.postgres.archive_everything();
        }
        note(site.host.run(&["check", "--archive-timeout=3s", trace]));
        note(site.node.run(&["status", "--output=json", trace]));
        for repository in ["--repo=2", "--repo=3", "--repo=4"] {
            note(site.node.run(&["repo-check", repository, trace]));
        }
    }
    let log = fs::read_to_string(site.node.home().join("node.log")).expect("the node's log");
    assert!(log.contains("TRACE"), "the node logs at trace level");
    (site, said + &log)
}
