//! Where a write goes, when it may be acknowledged, and when it is given up. Pure: a state machine that is told of the
//! outcome at each repository and of times that are over; `fanout.rs` writes and waits.
//!
//! ```text
//!  well ────────► written at once ──┬─► ack of them have it ──► acknowledged; the others go on, and owe it
//!  put aside ───► only when the well ones are silent for 2 s, have all come to an end, or are too few
//!                                   └─► all have come to an end, and too few have it ──► refused
//! ```

use pgmesh_storage::RepoKey;
use std::time::Duration;

/// When the repositories that seemed well have not acknowledged for this long, the write also goes to repositories that
/// were put aside.
pub(super) const ASIDE_AFTER: Duration = Duration::from_secs(2);
/// So long a write at most waits, after the answer, until its repository takes more.
pub(super) const ADMITTED_WITHIN: Duration = Duration::from_secs(10);

/// How a write treats a repository that takes nothing more at present: it was put aside, or its limit of requests under
/// way is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// They are passed over, and owe the object.
    PassOver,
    /// They are waited for: they have the objects that came before this one.
    Wait,
}

/// The next action of the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WriteStep<P> {
    /// Write to these at once.
    Write(Vec<P>),
    /// Write to these as soon as each takes more.
    WriteWhenAdmitted(Vec<P>),
    /// Wait for an outcome: for so long, or until there is one.
    Wait(Option<Duration>),
    /// Enough repositories have it (invariant 1).
    Acknowledge,
    /// Too few have it, and no other outcome is to come.
    Refuse,
}

/// The plan of one write.
pub(super) struct WritePlan<P> {
    /// So many repositories must have it.
    ack: usize,
    at_once: Vec<P>,
    when_admitted: Vec<P>,
    /// Repositories that take nothing more at present; they are written to only if the others do not suffice.
    aside: Vec<P>,
    under_way: usize,
    durable: usize,
}

impl<P> WritePlan<P> {
    /// `well` are written to at once. `aside` take nothing more at present: they are written to as `admission` says,
    /// and at once where `ack` cannot be reached without them.
    pub(super) fn new(ack: usize, mut well: Vec<P>, mut aside: Vec<P>, admission: Admission) -> Self {
        if well.len() < ack {
            well.append(&mut aside);
        }
        let when_admitted = match admission {
            Admission::PassOver => Vec::new(),
            Admission::Wait => std::mem::take(&mut aside),
        };
        Self {
            ack,
            at_once: well,
            when_admitted,
            aside,
            under_way: 0,
            durable: 0,
        }
    }

    /// The repositories that are written to first. The caller may put a better way to the same repository in their
    /// place.
    pub(super) fn first(&mut self) -> &mut [P] {
        &mut self.at_once
    }

    /// The next action of the writer, now.
    pub(super) fn next(&mut self) -> WriteStep<P> {
        if self.at_once.is_empty() && self.durable < self.ack && self.under_way == 0 && self.when_admitted.is_empty() {
            // Those put aside may have come back, and nothing is left to lose.
            self.at_once = std::mem::take(&mut self.aside);
        }
        if !self.at_once.is_empty() {
            self.under_way += self.at_once.len();
            return WriteStep::Write(std::mem::take(&mut self.at_once));
        }
        if !self.when_admitted.is_empty() {
            self.under_way += self.when_admitted.len();
            return WriteStep::WriteWhenAdmitted(std::mem::take(&mut self.when_admitted));
        }
        if self.durable >= self.ack {
            return WriteStep::Acknowledge;
        }
        if self.under_way == 0 {
            return WriteStep::Refuse;
        }
        WriteStep::Wait((!self.aside.is_empty()).then_some(ASIDE_AFTER))
    }

    /// A repository has it durably.
    pub(super) fn wrote(&mut self) {
        debug_assert!(self.under_way > 0, "a write has ended twice");
        self.under_way = self.under_way.saturating_sub(1);
        self.durable += 1;
    }

    /// A repository has failed; another way to it is tried where there is one.
    pub(super) fn failed(&mut self, another: Option<P>) {
        debug_assert!(self.under_way > 0, "a write has ended twice");
        self.under_way = self.under_way.saturating_sub(1);
        self.at_once.extend(another);
    }

    /// No outcome has come within the time of the last wait.
    pub(super) fn elapsed(&mut self) {
        self.at_once.append(&mut self.aside);
    }

    /// No outcome will come any more.
    pub(super) fn all_ended(&mut self) {
        self.under_way = 0;
        self.aside.clear();
    }

    /// How many are still at it.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }
}

/// The repositories that do not have it yet: each owes it.
pub(super) fn owed(targets: impl Iterator<Item = RepoKey>, has: impl Fn(RepoKey) -> bool) -> Vec<RepoKey> {
    targets.filter(|target| !has(*target)).collect()
}

/// Whether a write to a silent repository is given up. Before the acknowledgement the write always waits. Afterwards it
/// waits only while the repository is well: a healthy repository may need the memory that the write holds (invariant
/// 11), and the debt is recorded.
pub(super) fn is_given_up(is_acknowledged: bool, is_well: bool) -> bool {
    is_acknowledged && !is_well
}

/// The decision on a write to a repository that takes nothing more at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It is written now.
    Yes,
    /// It waits.
    NotYet,
    /// It is not written: it is owed.
    Never,
}

/// Decides on a write that has waited for so long until its repository takes more. The wait has an end. Before the
/// acknowledgement the write may be needed all the same, so it is sent after `before`. After the acknowledgement the
/// caller may have gone, so it is dropped after `behind`.
pub(super) fn admitted(
    takes_more: bool,
    is_abandoned: bool,
    is_acknowledged: bool,
    waited: Duration,
    (before, behind): (Duration, Duration),
) -> Admitted {
    match is_acknowledged {
        _ if takes_more => Admitted::Yes,
        _ if is_abandoned => Admitted::Never,
        true if waited >= behind => Admitted::Never,
        false if waited >= before => Admitted::Yes,
        _ => Admitted::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps of the plan, while it is told these outcomes in turn: `+` wrote, `-` failed, `-b` failed and b is
    /// another way, `~` the time is over, `.` all have ended.
    fn story(mut plan: WritePlan<&'static str>, told: &'static str) -> String {
        let mut story = Vec::new();
        let mut told = told.split_whitespace();
        loop {
            match plan.next() {
                WriteStep::Write(places) => {
                    story.push(format!("write {}", places.join(" ")));
                    continue;
                }
                WriteStep::WriteWhenAdmitted(places) => {
                    story.push(format!("later {}", places.join(" ")));
                    continue;
                }
                WriteStep::Wait(Some(limit)) => story.push(format!("{} s", limit.as_secs())),
                WriteStep::Wait(None) => story.push("wait".to_owned()),
                WriteStep::Acknowledge => {
                    story.push(format!("ok, {} late", plan.under_way()));
                    break;
                }
                WriteStep::Refuse => {
                    story.push("refuse".to_owned());
                    break;
                }
            }
            match told.next() {
                None => break,
                Some("+") => plan.wrote(),
                Some("~") => plan.elapsed(),
                Some(".") => plan.all_ended(),
                Some(failed) => plan.failed(failed.strip_prefix('-').filter(|way| !way.is_empty())),
            }
        }
        story.join(", ")
    }

    #[test]
    fn when_a_write_is_acknowledged_and_who_is_written_to() {
        use Admission::{PassOver, Wait};
        // The number of repositories that must have it; well repositories | repositories put aside; outcomes; expected
        // steps.
        let cases = [
            // `ack` is 1 of 2 repositories; the other write is late.
            (1, "a b |", PassOver, "+", "write a b, wait, ok, 1 late"),
            // Not before as many have it as must.
            (
                2,
                "a b c |",
                PassOver,
                "+ - +",
                "write a b c, wait, wait, wait, ok, 0 late",
            ),
            // Too few are left.
            (2, "a b |", PassOver, "+ -", "write a b, wait, wait, refuse"),
            (1, "|", PassOver, "", "refuse"),
            // A repository that is put aside is not needed.
            (1, "a | x", PassOver, "+", "write a, 2 s, ok, 0 late"),
            // It is, when the others are silent, have failed, or are too few.
            (1, "a | x", PassOver, "~ +", "write a, 2 s, write x, wait, ok, 1 late"),
            (1, "a | x", PassOver, "- -", "write a, 2 s, write x, wait, refuse"),
            (2, "a | x", PassOver, "+ +", "write a x, wait, wait, ok, 0 late"),
            (
                2,
                "a b | x",
                PassOver,
                "+ - +",
                "write a b, 2 s, 2 s, write x, wait, ok, 0 late",
            ),
            // A repository that has the objects before this one is waited for, unless it is needed at once.
            (1, "a | x", Wait, "+", "write a, later x, wait, ok, 1 late"),
            (2, "a | x", Wait, "+ +", "write a x, wait, wait, ok, 0 late"),
            // Another way takes the place of one that has failed.
            (1, "a |", PassOver, "-b +", "write a, wait, write b, wait, ok, 0 late"),
            // Nothing is heard any more.
            (1, "a | x", PassOver, ".", "write a, 2 s, refuse"),
            // `ack` is 0: all well repositories are written to, without a wait.
            (0, "a | x", PassOver, "", "write a, ok, 1 late"),
        ];
        for (ack, places, admission, told, expected) in cases {
            let (well, aside) = places.split_once('|').unwrap();
            let of = |places: &'static str| places.split_whitespace().collect();
            let plan = WritePlan::new(ack, of(well), of(aside), admission);
            assert_eq!(
                story(plan, told),
                expected,
                "{ack} of {places}, {admission:?}, told {told}"
            );
        }
    }

    #[test]
    fn who_owes_the_object() {
        let key = |number| RepoKey::new(number).unwrap();
        let has = |repo: RepoKey| repo.get() == 2;
        assert_eq!(owed([1, 2, 3].map(key).into_iter(), has), [key(1), key(3)]);
    }

    #[test]
    fn a_write_is_given_up_only_when_it_is_late_and_its_repository_silent() {
        for (is_acknowledged, is_well, expected) in [
            (false, false, false),
            (false, true, false),
            (true, true, false),
            (true, false, true),
        ] {
            let case = (is_acknowledged, is_well);
            assert_eq!(is_given_up(is_acknowledged, is_well), expected, "{case:?}");
        }
    }

    #[test]
    fn a_repository_that_takes_no_more_is_waited_for_but_not_for_ever() {
        use Admitted::{Never, NotYet, Yes};
        let limits = (Duration::from_secs(2), Duration::from_secs(10));
        let (yes, no) = (true, false);
        for (takes_more, is_abandoned, is_acknowledged, seconds, expected) in [
            (yes, no, no, 0, Yes),
            (yes, no, yes, 60, Yes),
            (no, no, no, 1, NotYet),
            // It may be needed.
            (no, no, no, 2, Yes),
            (no, no, yes, 2, NotYet),
            (no, no, yes, 10, Never),
            // The caller has given the file up.
            (no, yes, no, 0, Never),
            (no, yes, no, 2, Never),
        ] {
            let case = (takes_more, is_abandoned, is_acknowledged, seconds);
            let waited = Duration::from_secs(seconds);
            let decided = admitted(takes_more, is_abandoned, is_acknowledged, waited, limits);
            assert_eq!(decided, expected, "{case:?}");
        }
    }
}
