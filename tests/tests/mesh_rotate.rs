//! The mesh gets another certificate authority: pushes and a backup go on, a thief of the former authority's key gets
//! nothing, and the former authority is refused at the end. Nodes are killed meanwhile, and a rotation is given up.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use pgmesh_tests::{Faults, Host, MeshSite, Outcome, Process, wait_for};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use serde_json::Value;

const MEBIBYTE: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn rotation(site: &MeshSite) -> Value {
    site.mesh.run(&["mesh", "rotate-ca", "--output=json"]).ok().json()
}

fn names_of(of: &Value) -> Vec<String> {
    let all = of.as_array().expect("an array").iter();
    all.map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
}

/// PostgreSQL archives what it has written.
fn archive(site: &MeshSite) {
    site.postgres
        .query("create table if not exists seen (at timestamptz default now()); insert into seen default values");
    let archived = site.postgres.archive_everything();
    println!("{archived} is archived");
}

fn shows(site: &MeshSite, command: &[&str], words: &str) {
    let shown = site.mesh.run(command);
    assert!(shown.text().contains(words), "expected {words:?} of {shown}");
}

/// What a thief has: the authority's files of a node, and the key of a host.
struct Thief {
    authority: (String, String),
    key: String,
    mesh: String,
}

impl Thief {
    fn breaks_in(site: &MeshSite, victim: &Host) -> Self {
        let read = |path: &Path| fs::read_to_string(path).expect("a stolen file");
        let ca = site.mesh.node("alpha").data().join("ca");
        let status = site.mesh.run(&["status", "--output=json"]).ok().json();
        Self {
            authority: (read(&ca.join("ca.crt")), read(&ca.join("ca.key"))),
            key: read(&victim.home().join("identity/identity.key")),
            mesh: status["mesh"].as_str().expect("the mesh's identity").to_owned(),
        }
    }

    /// Asks for the status as an administrator, by a certificate forged for the host's key.
    fn asks_as_administrator(&self, site: &MeshSite, name: &str) -> Outcome {
        let key = KeyPair::from_pem(&self.key).expect("the host's key");
        let signer = KeyPair::from_pem(&self.authority.1).expect("the authority's key");
        let issuer = Issuer::from_ca_cert_pem(&self.authority.0, signer).expect("the authority");
        let mut params = CertificateParams::default();
        let uri = format!("pgmesh://{}/admin/{name}", self.mesh);
        let uri = uri.as_str().try_into().expect("a URI");
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let forged = params.signed_by(&key, &issuer).expect("a forged certificate");
        let node = site.mesh.running_beside("");
        let host = Host::new(&site.scratch, "thief", node, &site.postgres, "main");
        let (account, folder) = (site.scratch.account(), host.home().join("identity"));
        account.create_folder(&folder);
        account.write(&folder.join("ca.crt"), &self.authority.0);
        account.write(&folder.join("identity.crt"), forged.pem());
        account.write(&folder.join("identity.key"), &self.key);
        host.plain(&["status"])
    }

    fn is_refused(&self, site: &MeshSite) {
        for name in ["mallory", site.host.name()] {
            self.asks_as_administrator(site, name)
                .fails(&[95], &["its key is that of client"]);
        }
    }
}

#[test]
fn another_authority_takes_over_while_everything_goes_on() {
    let mut site = MeshSite::new("rotate", |mesh| mesh.with_relays());
    site.postgres.make_noise(40);
    archive(&site);
    let follower = site.mesh.follower();
    let other = site.another_host("other", "eu", &follower);
    let early_token = site.mesh.node("alpha").invite("main");
    let thief = Thief::breaks_in(&site, &site.host);
    thief.is_refused(&site);

    // A node that does not run is waited for: certificates stay as they are.
    site.mesh.node_mut(&follower).stop();
    let begun = rotation(&site);
    let (former, next) = (begun["former"].clone(), begun["next"].clone());
    assert_ne!(former, next);
    wait_for("the other nodes", LIMIT, || {
        names_of(&rotation(&site)["nodes"]) == [follower.clone()]
    });
    assert_eq!(rotation(&site)["state"], "spreading");
    archive(&site);
    site.mesh
        .run(&["mesh", "rotate-ca", "--finish"])
        .refuses(&[&format!("node {follower}")]);
    shows(&site, &["status"], "the mesh's authority is rotated to");
    shows(
        &site,
        &["doctor"],
        &format!("nodes that do not have its key yet: {follower}"),
    );
    site.mesh.node_mut(&follower).start();

    // A backup is under way, by the certificate of before.
    let link = Faults::none().with_bandwidth(2 * MEBIBYTE);
    for node in site.mesh.names() {
        site.mesh.network().shape_both("host", &node, link);
    }
    let command = site.host.command(&["backup", "--type=full", "--start-fast"]);
    let mut backup = Process::start("a backup", command, &site.scratch.join("backup.log"));
    wait_for("the nodes' certificates", LIMIT, || {
        let now = rotation(&site);
        now["state"] == "renewing" && names_of(&now["nodes"]).is_empty()
    });
    assert_eq!(rotation(&site)["next"], next, "the same rotation");

    // A token of before is still good, and hosts renew with what they do.
    let late = Host::new(&site.scratch, "late", site.mesh.node("alpha"), &site.postgres, "main");
    late.redeem(&early_token).succeeds();
    late.run(&["info"]).succeeds();
    archive(&site);
    wait_for("the host's new certificate", LIMIT, || {
        site.host.plain(&["info"]).succeeds();
        names_of(&rotation(&site)["clients"]) == ["client other"]
    });
    shows(&site, &["client", "list"], "has not moved to the new authority");
    thief.is_refused(&site);
    site.mesh
        .run(&["mesh", "rotate-ca", "--finish"])
        .refuses(&["client other", "--force"]);
    site.mesh
        .run(&["mesh", "rotate-ca", "--abort"])
        .refuses(&["cannot be given up"]);
    assert!(backup.ended().is_none(), "it was over before:\n{}", backup.log());
    let finished = site
        .mesh
        .run(&["mesh", "rotate-ca", "--finish", "--force", "--output=json"]);
    let finished = finished.ok().json();
    assert_eq!(
        (&finished["state"], names_of(&finished["clients"])),
        (&"finished".into(), vec!["client other".to_owned()])
    );

    // The former authority is refused, and its key is gone. A node that has heard of the end shows no certificate that
    // the host can check: then the host refuses the node.
    other.plain(&["info"]).fails(&[49, 95], &["join again"]);
    for node in site.mesh.nodes() {
        let folder = node.data().join("ca");
        wait_for("the former key to go", LIMIT, || {
            let left = fs::read_dir(&folder).expect("ca").count();
            left == 1 && !folder.join("ca.key").exists()
        });
    }
    // Also where the nodes know its authority no more.
    other.plain(&["info"]).fails(&[49, 95], &["join again"]);
    thief.asks_as_administrator(&site, "mallory").fails(&[49, 95], &[]);
    // Everything else goes on, also after a start.
    archive(&site);
    let status = backup.wait(Duration::from_secs(180));
    assert!(status.success(), "{}", backup.log());
    site.mesh.stop_all();
    site.mesh.start_all();
    site.mesh.wait_until_settled();
    archive(&site);
    let token = site.mesh.node("alpha").invite("main");
    other.plain(&["join", "--force", &token, "other"]).succeeds();
    other.run(&["info"]).succeeds();
    let names = site.mesh.names();
    site.mesh.node(&names[0]).run(&["status"]).succeeds();
}

/// A rotation is given up while a node is down; the next one goes on over kills of its nodes.
#[test]
fn a_rotation_is_given_up_and_another_one_survives_kills() {
    let mut site = MeshSite::new("rotate-kill", |mesh| mesh);
    archive(&site);
    let follower = site.mesh.follower();
    site.mesh.node_mut(&follower).stop();
    let begun = rotation(&site);
    assert_eq!(begun["state"], "spreading");
    let given_up = site.mesh.run(&["mesh", "rotate-ca", "--abort", "--output=json"]);
    assert_eq!(given_up.ok().json()["state"], "given-up");
    site.mesh.node_mut(&follower).start();
    site.mesh.wait_until_settled();
    archive(&site);

    // Killed at once: the key may be on its disk alone.
    let names = site.mesh.names();
    let first = names.first().expect("a node").clone();
    let again = site.mesh.node(&first).run(&["mesh", "rotate-ca", "--output=json"]);
    let next = again.ok().json()["next"].clone();
    assert_ne!(next, begun["next"], "another rotation");
    site.mesh.node_mut(&first).kill();
    site.mesh.wait_for_status("a leader", |status| status.leader.is_some());
    assert_eq!(rotation(&site)["next"], next, "the same command goes on");
    archive(&site);
    site.mesh.node_mut(&first).start();
    // Each node is killed somewhere between the steps.
    for name in &names {
        site.mesh.node_mut(name).kill();
        site.mesh.node_mut(name).start();
        let now = rotation(&site);
        println!("{} after the kill of {name}", now["state"]);
        assert_eq!(now["next"], next);
    }
    wait_for("all nodes", LIMIT, || {
        let now = rotation(&site);
        now["state"] == "renewing" && names_of(&now["nodes"]).is_empty()
    });
    wait_for("the host's new certificate", LIMIT, || {
        site.host.plain(&["info"]).succeeds();
        names_of(&rotation(&site)["clients"]).is_empty()
    });
    site.mesh.run(&["mesh", "rotate-ca", "--finish"]).succeeds();
    for name in &names {
        site.mesh.node_mut(name).kill();
        site.mesh.node_mut(name).start();
    }
    site.mesh.wait_until_settled();
    archive(&site);
    site.host.plain(&["info"]).succeeds();
}
