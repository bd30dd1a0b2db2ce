use super::*;
use std::time::Duration;

mod properties;

type Line = Operation<Input, Output>;

fn at(called: u64, returned: u64, input: Input, answer: Answer<Output>) -> Line {
    Operation {
        client: 0,
        input,
        called: Duration::from_millis(called),
        returned: Duration::from_millis(returned),
        answer,
    }
}

fn ok(called: u64, returned: u64, input: Input, output: Output) -> Line {
    at(called, returned, input, Answer::Ok(output))
}

fn push(digest: &str) -> Input {
    Input::Push {
        segment: "1".to_owned(),
        digest: digest.to_owned(),
    }
}

fn get() -> Input {
    Input::Get {
        segment: "1".to_owned(),
    }
}

fn set(value: &str) -> Input {
    Input::Annotate {
        annotation: "why".to_owned(),
        value: Some(value.to_owned()),
    }
}

fn read() -> Input {
    Input::ReadAnnotation {
        annotation: "why".to_owned(),
    }
}

fn value(value: &str) -> Output {
    Output::Value(Some(value.to_owned()))
}

const NOTHING: Output = Output::Value(None);

#[track_caller]
fn accepted(history: Vec<Line>) {
    if let Err(violation) = check::<Catalog>(history) {
        panic!("{violation}");
    }
}

#[track_caller]
fn rejected(history: Vec<Line>) -> String {
    match check::<Catalog>(history) {
        Err(violation @ Violation::NotLinearizable { .. }) => violation.to_string(),
        other => panic!("expected a violation: {other:?}"),
    }
}

#[test]
fn an_empty_history_is_fine() {
    accepted(vec![]);
}

#[test]
fn a_read_during_a_push_may_see_either() {
    for seen in [NOTHING, value("a")] {
        accepted(vec![ok(0, 10, push("a"), Output::Done), ok(2, 8, get(), seen)]);
    }
}

#[test]
fn two_reads_during_a_push_may_not_go_back() {
    let history = |first, second| {
        vec![
            ok(0, 10, push("a"), Output::Done),
            ok(1, 3, get(), first),
            ok(4, 6, get(), second),
        ]
    };
    accepted(history(NOTHING, value("a")));
    rejected(history(value("a"), NOTHING));
}

#[test]
fn a_lost_acknowledgement_is_found() {
    let said = rejected(vec![ok(0, 1, push("a"), Output::Done), ok(2, 3, get(), NOTHING)]);
    assert!(said.contains("segment 1") && said.contains("nothing there"), "{said}");
}

#[test]
fn a_stale_read_is_found() {
    rejected(vec![
        ok(0, 1, set("old"), Output::Done),
        ok(2, 3, set("new"), Output::Done),
        ok(4, 5, read(), value("old")),
    ]);
    accepted(vec![
        ok(0, 1, set("old"), Output::Done),
        ok(2, 5, set("new"), Output::Done),
        ok(4, 6, read(), value("old")),
    ]);
}

#[test]
fn two_contents_for_one_name_are_found() {
    rejected(vec![
        ok(0, 1, push("a"), Output::Done),
        ok(2, 3, push("b"), Output::Done),
    ]);
    // Two pushes at the same time cannot both succeed: one of them has to be refused.
    rejected(vec![
        ok(0, 10, push("a"), Output::Done),
        ok(0, 10, push("b"), Output::Done),
    ]);
    accepted(vec![
        ok(0, 10, push("a"), Output::Refused),
        ok(0, 10, push("b"), Output::Done),
        ok(0, 10, push("b"), Output::Done),
    ]);
}

#[test]
fn a_content_that_nobody_pushed_is_found() {
    rejected(vec![ok(0, 1, push("a"), Output::Done), ok(2, 3, get(), value("b"))]);
    rejected(vec![ok(2, 3, get(), value("a")), ok(4, 5, push("a"), Output::Done)]);
}

#[test]
fn a_refused_push_that_takes_effect_is_found() {
    rejected(vec![
        ok(0, 1, push("a"), Output::Done),
        ok(2, 3, push("b"), Output::Refused),
        ok(4, 5, get(), value("b")),
    ]);
    // A push to an empty place is not refused.
    rejected(vec![ok(0, 1, push("a"), Output::Refused)]);
}

#[test]
fn the_effect_of_a_failed_operation_is_found() {
    rejected(vec![at(0, 1, push("a"), Answer::Failed), ok(2, 3, get(), value("a"))]);
    accepted(vec![at(0, 1, push("a"), Answer::Failed), ok(2, 3, get(), NOTHING)]);
}

#[test]
fn an_unknown_operation_takes_effect_late_or_never_but_once() {
    let unknown = || at(0, 1, set("a"), Answer::Unknown);
    accepted(vec![
        unknown(),
        ok(2, 3, read(), NOTHING),
        ok(100, 101, read(), value("a")),
    ]);
    accepted(vec![
        unknown(),
        ok(2, 3, read(), NOTHING),
        ok(100, 101, read(), NOTHING),
    ]);
    // It cannot be seen before it was called, nor a second time after another has replaced it.
    rejected(vec![at(5, 6, set("a"), Answer::Unknown), ok(2, 3, read(), value("a"))]);
    rejected(vec![
        unknown(),
        ok(2, 3, read(), value("a")),
        ok(4, 5, set("b"), Output::Done),
        ok(6, 7, read(), value("b")),
        ok(8, 9, read(), value("a")),
    ]);
}

#[test]
fn an_unknown_push_explains_a_refusal() {
    accepted(vec![
        at(0, 1, push("a"), Answer::Unknown),
        ok(2, 3, push("b"), Output::Refused),
        ok(4, 5, get(), value("a")),
    ]);
    rejected(vec![
        at(0, 1, push("a"), Answer::Unknown),
        ok(2, 3, push("b"), Output::Refused),
        ok(4, 5, get(), NOTHING),
    ]);
}

#[test]
fn stanzas_and_members() {
    let stanza = || "main".to_owned();
    let create = Input::CreateStanza { stanza: stanza() };
    let delete = Input::DeleteStanza { stanza: stanza() };
    let look = Input::ReadStanza { stanza: stanza() };
    accepted(vec![
        ok(0, 1, look.clone(), Output::stanza(false)),
        ok(2, 3, create.clone(), Output::Done),
        ok(4, 5, look.clone(), Output::stanza(true)),
        ok(6, 7, delete.clone(), Output::Done),
        ok(8, 9, delete.clone(), Output::Refused),
        ok(10, 11, look.clone(), Output::stanza(false)),
    ]);
    rejected(vec![
        ok(2, 3, create, Output::Done),
        ok(6, 7, delete, Output::Done),
        ok(10, 11, look, Output::stanza(true)),
    ]);

    let add = |node: &str| Input::AddNode { node: node.to_owned() };
    let remove = |node: &str| Input::RemoveNode { node: node.to_owned() };
    let members = |names: &[&str]| Output::Members(names.iter().map(|&name| name.to_owned()).collect());
    let history = |seen: &[&str]| {
        vec![
            ok(0, 1, add("alpha"), Output::Done),
            ok(2, 5, add("beta"), Output::Done),
            ok(3, 6, remove("alpha"), Output::Done),
            ok(4, 7, Input::ListNodes, members(seen)),
        ]
    };
    for possible in [&["alpha"][..], &["alpha", "beta"], &["beta"], &[]] {
        accepted(history(possible));
    }
    rejected(history(&["gamma"]));
}

#[test]
fn keys_are_judged_each_alone() {
    let other = Input::Get {
        segment: "2".to_owned(),
    };
    accepted(vec![ok(0, 1, push("a"), Output::Done), ok(2, 3, other, NOTHING)]);
}

#[test]
fn a_search_that_grows_without_end_is_given_up() {
    let mut history: Vec<Line> = (0..40)
        .map(|n| at(0, 1, set(&n.to_string()), Answer::Unknown))
        .collect();
    history.push(ok(2, 3, read(), value("never set")));
    let verdict = check_within::<Catalog>(history, 10_000);
    assert!(matches!(verdict, Err(Violation::TooHard { operations: 41, .. })));
}

#[test]
fn a_long_history_is_judged_soon() {
    // Ten clients, each operation overlapping with about ten others.
    let mut history = Vec::new();
    for n in 0..5000 {
        history.push(ok(n, n + 10, set(&n.to_string()), Output::Done));
    }
    history.push(ok(6000, 6001, read(), value("4999")));
    accepted(history);
}

#[test]
fn the_recorder_sees_overlaps() {
    let recorder = Recorder::new();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let recorder = &recorder;
            scope.spawn(move || {
                for n in 0..50 {
                    recorder.record(client, push(&n.to_string()), |_| Answer::Ok(()));
                }
            });
        }
    });
    let history = recorder.finish();
    assert_eq!(history.len(), 200);
    assert!(history.iter().all(|operation| operation.called <= operation.returned));
}
