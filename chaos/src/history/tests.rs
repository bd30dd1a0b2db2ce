use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

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
    // Also when they were pushed at the same time: one of them has to be refused.
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
    // Nor is anything refused where nothing stands.
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

/// One step of a sequential execution, and how it was seen from outside.
#[derive(Clone, Debug)]
struct Step {
    input: Input,
    /// How long before its moment it was called, and how long after it returned.
    before: u64,
    after: u64,
    seen: Seen,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Answered,
    /// It took effect, and its client was not told.
    Unheard,
    /// It took no effect, and its client does not know that.
    Lost,
    /// It took no effect, and its client knows.
    Failed,
}

/// The distance of two moments of effect.
const STEP: u64 = 100;

/// What a catalog that carries the steps out one after the other, `STEP` apart, makes its clients see.
fn execute(steps: &[Step]) -> (Vec<Line>, BTreeMap<Key, std::collections::BTreeSet<String>>) {
    let mut states = BTreeMap::new();
    let mut history = Vec::new();
    for (index, step) in (10..).zip(steps) {
        let moment = index * STEP;
        let answer = match step.seen {
            Seen::Lost => Answer::Unknown,
            Seen::Failed => Answer::Failed,
            Seen::Answered | Seen::Unheard => {
                let state = states.entry(Catalog::key(&step.input)).or_default();
                let output = Catalog::perform(state, &step.input);
                if matches!(step.seen, Seen::Unheard) {
                    Answer::Unknown
                } else {
                    Answer::Ok(output)
                }
            }
        };
        history.push(at(
            moment - step.before,
            moment + step.after,
            step.input.clone(),
            answer,
        ));
    }
    (history, states)
}

fn input() -> impl Strategy<Value = Input> {
    let name = || prop_oneof![Just("1".to_owned()), Just("2".to_owned())];
    let content = || (0..4u8).prop_map(|n| n.to_string());
    prop_oneof![
        3 => (name(), content()).prop_map(|(segment, digest)| Input::Push { segment, digest }),
        3 => name().prop_map(|segment| Input::Get { segment }),
        3 => (name(), proptest::option::of(content()))
            .prop_map(|(annotation, value)| Input::Annotate { annotation, value }),
        3 => name().prop_map(|annotation| Input::ReadAnnotation { annotation }),
        1 => name().prop_map(|stanza| Input::CreateStanza { stanza }),
        1 => name().prop_map(|stanza| Input::DeleteStanza { stanza }),
        1 => name().prop_map(|stanza| Input::ReadStanza { stanza }),
        1 => name().prop_map(|node| Input::AddNode { node }),
        1 => name().prop_map(|node| Input::RemoveNode { node }),
        1 => Just(Input::ListNodes),
    ]
}

fn step(overlap: u64) -> impl Strategy<Value = Step> {
    let seen = prop_oneof![
        12 => Just(Seen::Answered),
        1 => Just(Seen::Unheard),
        1 => Just(Seen::Lost),
        1 => Just(Seen::Failed),
    ];
    (input(), 0..=overlap, 0..=overlap, seen).prop_map(|(input, before, after, seen)| Step {
        input,
        before,
        after,
        seen,
    })
}

/// An answer that the model would not have given.
fn other_than(output: &Output) -> Output {
    match output {
        Output::Done => Output::Refused,
        Output::Refused => Output::Done,
        Output::Value(_) => value("a value that nobody wrote"),
        Output::Members(_) => Output::Members(["a stranger".to_owned()].into()),
    }
}

/// What reads a key.
fn look(key: &Key) -> Input {
    match key.clone() {
        Key::Segment(segment) => Input::Get { segment },
        Key::Annotation(annotation) => Input::ReadAnnotation { annotation },
        Key::Stanza(stanza) => Input::ReadStanza { stanza },
        Key::Members => Input::ListNodes,
    }
}

proptest! {
    #[test]
    fn what_a_real_execution_shows_is_accepted(steps in proptest::collection::vec(step(STEP * 5), 0..60)) {
        prop_assert_eq!(check::<Catalog>(execute(&steps).0), Ok(()));
    }

    /// Without overlaps and without unknown outcomes each answer follows from what went before: any other is wrong.
    #[test]
    fn one_wrong_answer_in_a_sequence_is_found(
        steps in proptest::collection::vec(step(STEP / 2 - 1), 1..40),
        which in any::<proptest::sample::Index>(),
    ) {
        let mut steps = steps;
        for step in &mut steps {
            if !matches!(step.seen, Seen::Failed) {
                step.seen = Seen::Answered;
            }
        }
        let (mut history, _) = execute(&steps);
        let answered: Vec<usize> = (0..history.len())
            .filter(|&index| matches!(history[index].answer, Answer::Ok(_)))
            .collect();
        prop_assume!(!answered.is_empty());
        let line = &mut history[answered[which.index(answered.len())]];
        if let Answer::Ok(output) = &line.answer {
            line.answer = Answer::Ok(other_than(output));
        }
        prop_assert!(check::<Catalog>(history).is_err());
    }

    /// However much overlaps: a value that nobody ever wrote is wrong.
    #[test]
    fn an_invented_value_is_found(
        steps in proptest::collection::vec(step(STEP * 5), 1..60),
        which in any::<proptest::sample::Index>(),
    ) {
        let (mut history, _) = execute(&steps);
        let reads: Vec<usize> = (0..history.len())
            .filter(|&index| {
                let answer = &history[index].answer;
                matches!(answer, Answer::Ok(Output::Value(_) | Output::Members(_)))
            })
            .collect();
        prop_assume!(!reads.is_empty());
        let line = &mut history[reads[which.index(reads.len())]];
        if let Answer::Ok(output) = &line.answer {
            line.answer = Answer::Ok(other_than(output));
        }
        prop_assert!(check::<Catalog>(history).is_err());
    }

    /// When all is quiet and every outcome known, two readers see the same; and an acknowledged first push for ever.
    #[test]
    fn a_change_of_mind_when_all_is_quiet_is_found(steps in proptest::collection::vec(step(STEP * 5), 1..60)) {
        let mut steps = steps;
        for step in &mut steps {
            if !matches!(step.seen, Seen::Failed) {
                step.seen = Seen::Answered;
            }
        }
        let (history, states) = execute(&steps);
        let end = 1000 * STEP;
        for (key, mut state) in states {
            let truth = Catalog::perform(&mut state, &look(&key));
            let mut good = history.clone();
            good.push(ok(end, end + 1, look(&key), truth.clone()));
            good.push(ok(end + 2, end + 3, look(&key), truth.clone()));
            prop_assert_eq!(check::<Catalog>(good.clone()), Ok(()));
            good.push(ok(end + 4, end + 5, look(&key), other_than(&truth)));
            prop_assert!(check::<Catalog>(good).is_err());
            if matches!(key, Key::Segment(_)) && truth != NOTHING {
                let mut forgotten = history.clone();
                forgotten.push(ok(end, end + 1, look(&key), NOTHING));
                prop_assert!(check::<Catalog>(forgotten).is_err());
            }
        }
    }
}
