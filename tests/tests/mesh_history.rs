//! Concurrent clients ask all nodes, while nodes die and links are cut: one catalog can have given all their answers.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::history::{Answer, Catalog, Input, Output, Recorder, check};
use pgmesh_tests::{Host, Mesh, MeshSite, Outcome, Random, WalForge, number_from_environment};

type History = Recorder<Input, Output>;

/// Clients give up after this time, and then do not know the outcome of their operation.
const PATIENCE: [&str; 2] = ["--archive-timeout=4s", "--io-timeout=4s"];

/// The number of segments and of annotations: few, so that clients meet.
const NAMES: u64 = 4;

/// The time for which clients ask and faults happen.
fn span() -> Duration {
    Duration::from_secs(number_from_environment("PGMESH_HISTORY_SECONDS", 20).into())
}

/// Ends the clients also if the test panics.
struct EndWhenDropped<'a>(&'a AtomicBool);

impl Drop for EndWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One client: a host of the cluster, near one of the nodes.
struct Client<'a> {
    number: usize,
    host: &'a Host,
    forge: &'a WalForge,
    /// The backup whose annotations the clients change.
    label: &'a str,
    history: &'a History,
}

impl Client<'_> {
    fn ask(&self, input: Input, arguments: &[&str], understand: impl Fn(&Outcome) -> Answer<Output>) {
        self.history.record(self.number, input, |_| {
            let outcome = self.host.run(&[arguments, &PATIENCE].concat());
            understand(&outcome)
        });
    }

    /// Carries out one random operation. The segments of a round are its own, so that each round has first pushes.
    fn act(&self, random: &mut Random, round: u32) {
        let which = u32::try_from(random.below(NAMES)).expect("a small number");
        let number = 1000 + round * 100 + which;
        match random.below(10) {
            0..4 => self.push(number, random.below(2) == 0),
            4..7 => self.get(number),
            7 => self.annotate(which, &random.below(1_000_000).to_string()),
            _ => self.read_annotation(which),
        }
    }

    /// Pushes a segment with one of two contents.
    fn push(&self, number: u32, original: bool) {
        let segment = self.forge.name(number);
        let file = self.forge.write_in(
            &format!("client-{}", self.number),
            &segment,
            &content(self.forge, number, original),
        );
        let digest = digest(original).to_owned();
        let arguments = ["archive-push", &file.display().to_string()];
        self.ask(Input::Push { segment, digest }, &arguments, |outcome| {
            match outcome.code() {
                Some(0) => Answer::Ok(Output::Done),
                Some(45) => Answer::Ok(Output::Refused),
                _ => Answer::Unknown,
            }
        });
    }

    fn get(&self, number: u32) {
        let segment = self.forge.name(number);
        let to = self.forge.path(&format!("client-{}-fetched", self.number));
        let arguments = ["archive-get", &segment, &to.display().to_string()];
        let input = Input::Get {
            segment: segment.clone(),
        };
        self.ask(input, &arguments, |outcome| match outcome.code() {
            Some(0) => {
                let fetched = fs::read(&to).expect("the fetched segment");
                let found = [true, false]
                    .into_iter()
                    .find(|&original| fetched == content(self.forge, number, original));
                let found = found.map_or("something else", digest);
                Answer::Ok(Output::Value(Some(found.to_owned())))
            }
            Some(1) => Answer::Ok(Output::Value(None)),
            _ => Answer::Unknown,
        });
    }

    fn annotate(&self, which: u32, value: &str) {
        let set = format!("--set={}", self.label);
        let note = format!("--annotation=note{which}={value}");
        let input = Input::Annotate {
            annotation: format!("note{which}"),
            value: Some(value.to_owned()),
        };
        self.ask(input, &["annotate", &set, &note], |outcome| match outcome.code() {
            Some(0) => Answer::Ok(Output::Done),
            _ => Answer::Unknown,
        });
    }

    fn read_annotation(&self, which: u32) {
        let annotation = format!("note{which}");
        let input = Input::ReadAnnotation {
            annotation: annotation.clone(),
        };
        self.ask(input, &["info", "--output=json"], |outcome| {
            // An answer that may be stale says so, and promises nothing.
            if outcome.code() != Some(0) || outcome.stderr.contains("stale") {
                return Answer::Unknown;
            }
            let json = outcome.json();
            let value = json[0]["backup"][0]["annotation"][&annotation].as_str();
            Answer::Ok(Output::Value(value.map(str::to_owned)))
        });
    }
}

/// The bytes of a segment, or the same with one bit flipped.
fn content(forge: &WalForge, number: u32, original: bool) -> Vec<u8> {
    let mut content = forge.content(number);
    if !original && let Some(last) = content.last_mut() {
        *last ^= 1;
    }
    content
}

fn digest(original: bool) -> &'static str {
    if original { "the original" } else { "the other" }
}

/// Disturbs one of the nodes or its links for a while.
fn disturb(mesh: &mut Mesh, random: &mut Random) {
    let names = mesh.names();
    let pick = usize::try_from(random.below(names.len() as u64)).expect("a small number");
    let victim = names[pick].clone();
    // Not a wait for a condition: the duration of the fault is random.
    let lasts = Duration::from_millis(500 + random.below(2500));
    let fault = random.below(5);
    println!("fault {fault} of {victim} for {lasts:?}");
    match fault {
        0 => {
            mesh.node_mut(&victim).kill();
            thread::sleep(lasts);
            mesh.start_node(&victim);
        }
        1 => {
            mesh.node(&victim).pause();
            thread::sleep(lasts);
            mesh.node(&victim).resume();
        }
        2 => {
            mesh.network().isolate(&victim);
            thread::sleep(lasts);
        }
        3 => {
            for other in names.iter().filter(|other| **other != victim) {
                mesh.network().one_way(other, &victim);
            }
            thread::sleep(lasts);
        }
        _ => {
            let others: Vec<&str> = names
                .iter()
                .map(String::as_str)
                .filter(|name| *name != victim)
                .collect();
            mesh.network().partition(&[&victim], &others);
            thread::sleep(lasts);
        }
    }
    mesh.network().heal();
}

#[test]
fn one_catalog_can_have_said_what_clients_were_told_under_faults() {
    let mut site = MeshSite::without_archiving("history", |mesh| mesh.with_relays());
    let archive_command = site.host.archive_command();
    site.postgres.set("archive_command", &archive_command);
    let label = site.host.backup();
    let forge = WalForge::new(&site.postgres);
    let hosts: Vec<Host> = [("alpha", "eu"), ("beta", "us"), ("gamma", "ap")]
        .map(|(node, region)| site.another_host(&format!("near-{node}"), region, node))
        .into();

    let seed = Random::seed_from_environment();
    let history = History::new();
    let end = AtomicBool::new(false);
    let began = Instant::now();
    thread::scope(|scope| {
        for number in 0..2 * hosts.len() {
            let client = Client {
                number,
                host: &hosts[number % hosts.len()],
                forge: &forge,
                label: &label,
                history: &history,
            };
            let mut random = Random::new(seed ^ number as u64);
            let end = &end;
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let round = u32::try_from(began.elapsed().as_secs() / 3).expect("a short test");
                    client.act(&mut random, round);
                }
            });
        }
        let _end = EndWhenDropped(&end);
        let mut random = Random::new(seed);
        while began.elapsed() < span() {
            disturb(&mut site.mesh, &mut random);
            // Most operations should be answered, so now and then the mesh is left alone.
            thread::sleep(Duration::from_secs(1));
        }
    });
    site.mesh.wait_until_whole();

    // After the faults, each key is read once more, through each node.
    for (number, host) in hosts.iter().enumerate() {
        let client = Client {
            number,
            host,
            forge: &forge,
            label: &label,
            history: &history,
        };
        for which in 0..u32::try_from(NAMES).expect("a small number") {
            client.read_annotation(which);
            for round in 0..=u32::try_from(span().as_secs() / 3).expect("a short test") {
                client.get(1000 + round * 100 + which);
            }
        }
    }
    judge(history, 100);
}

/// Asserts that a history is linearizable, and that it has enough answers for that to mean something.
fn judge(history: History, least: usize) {
    let operations = history.finish();
    let unknown = operations
        .iter()
        .filter(|operation| operation.answer == Answer::Unknown)
        .count();
    let answered = operations.len() - unknown;
    println!("{answered} operations were answered, {unknown} were not");
    assert!(answered >= least, "{answered} answers prove little");
    if let Err(violation) = check::<Catalog>(operations) {
        panic!("{violation}");
    }
}

#[test]
fn one_list_of_members_and_stanzas_is_seen_through_all_nodes() {
    let mut site = MeshSite::without_archiving("members", |mesh| mesh);
    let names = site.mesh.names();
    let stanza_host = site
        .mesh
        .host(&site.scratch, "host-other", ("us", &["beta"]), &site.postgres, "other");
    let history = History::new();
    for node in &names {
        let input = Input::AddNode { node: node.clone() };
        history.record(0, input, |_| Answer::Ok(Output::Done));
    }
    let end = AtomicBool::new(false);
    let (alpha, beta, gamma) = (site.mesh.node("alpha"), site.mesh.node("beta"), site.mesh.node("gamma"));
    thread::scope(|scope| {
        for (client, node) in (1..).zip([alpha, beta, gamma]) {
            let (history, end) = (&history, &end);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    history.record(client, Input::ListNodes, |_| {
                        members(&node.run(&["node", "list", "--output=json"]))
                    });
                    let stanza = "other".to_owned();
                    history.record(client, Input::ReadStanza { stanza }, |_| {
                        stanza_is_there(&node.run(&["info", "--output=json"]))
                    });
                }
            });
        }
        let _end = EndWhenDropped(&end);
        for round in 0..number_from_environment("PGMESH_MEMBER_ROUNDS", 2) {
            let stanza = || "other".to_owned();
            history.record(0, Input::CreateStanza { stanza: stanza() }, |_| {
                done(&stanza_host.run(&["stanza-create"]))
            });
            // A name that comes and goes. The node itself never starts: it is only a name in the catalog.
            let node = format!("delta{round}");
            let files = pgmesh_tests::Node::builder(&site.scratch, &node).write();
            let token = alpha.invite_with(&["--role=node", &node, "--expires=1h"]);
            history.record(0, Input::AddNode { node: node.clone() }, |_| {
                done(&files.run(&["node", "join", &token]))
            });
            history.record(0, Input::DeleteStanza { stanza: stanza() }, |_| {
                done(&beta.run(&["--stanza=other", "stanza-delete", "--force"]))
            });
            history.record(0, Input::RemoveNode { node: node.clone() }, |_| {
                done(&gamma.run(&["node", "remove", &node, "--force"]))
            });
        }
    });
    judge(history, 20);
}

fn done(outcome: &Outcome) -> Answer<Output> {
    match outcome.code() {
        Some(0) => Answer::Ok(Output::Done),
        _ => {
            println!("{outcome}");
            Answer::Unknown
        }
    }
}

fn members(outcome: &Outcome) -> Answer<Output> {
    if outcome.code() != Some(0) {
        return Answer::Unknown;
    }
    let json = outcome.json();
    let nodes = json.as_array().expect("a list of nodes");
    let names: BTreeSet<String> = nodes
        .iter()
        .filter_map(|node| node["name"].as_str().map(str::to_owned))
        .collect();
    Answer::Ok(Output::Members(names))
}

fn stanza_is_there(outcome: &Outcome) -> Answer<Output> {
    if outcome.code() != Some(0) {
        return Answer::Unknown;
    }
    let json = outcome.json();
    let stanzas = json.as_array().expect("a list of stanzas");
    Answer::Ok(Output::stanza(stanzas.iter().any(|stanza| stanza["name"] == "other")))
}
