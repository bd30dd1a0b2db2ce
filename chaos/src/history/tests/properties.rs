//! Histories of real executions are accepted, and impossible histories are rejected.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One step of a sequential execution, and its client's view of it.
#[derive(Clone, Debug)]
struct Step {
    input: Input,
    /// The time from its call to its moment, and from its moment to its return.
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

/// Carries the steps out one after the other, `STEP` apart, and returns the history that the clients see.
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

/// The operation that reads a key.
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

    /// Without overlaps and without unknown outcomes each answer follows from the steps before: any other answer is
    /// wrong.
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

    /// However many operations overlap, a value that no client ever wrote is wrong.
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

    /// After the last operation, if every outcome is known, two readers see the same; and an acknowledged first push
    /// stands for ever.
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
