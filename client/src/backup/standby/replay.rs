//! Whether a standby's files are as new as the backup's start, and whether it is a standby still.

use super::Standby;
use crate::pg::{OpenCluster, ReplayState, database_failure};
use pgmesh_postgres::{ControlFile, Lsn, TimelineId};
use pgmesh_protocol::{ExitCode, Failure};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;

/// The first pause between two questions.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a long wait is mentioned.
const MENTIONED: Duration = Duration::from_secs(10);
/// How often the standby is looked at while its files are read.
const WATCHED: Duration = Duration::from_secs(2);

/// The identity of a checkpoint: two servers that agree about all of it have the same history up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Checkpoint {
    record: Lsn,
    redo: Lsn,
    timeline: TimelineId,
    time: i64,
}

impl Checkpoint {
    fn of(control: &ControlFile) -> Self {
        Self {
            record: control.checkpoint,
            redo: control.redo,
            timeline: control.checkpoint_timeline,
            time: control.checkpoint_time,
        }
    }
}

/// Waits until the standby has made a restartpoint of a checkpoint that the primary made at or after `start`. From then
/// on its files hold all changes from before `start`, and the later changes are in the WAL.
///
/// # Errors
/// Not within `limit` (82); the standby follows another server than the primary, or is none any more (56).
pub async fn catch_up(standby: &Standby, primary: &OpenCluster, start: Lsn, limit: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    let mut wait = Wait::new(start);
    let mut pause = FIRST_PAUSE;
    let mut switched = false;
    loop {
        wait.saw_primary(Checkpoint::of(&standby.primary_control(primary).await?));
        let state = state(standby).await?;
        let own = Checkpoint::of(&standby.control().await?);
        match wait.judge(own, state.replayed) {
            Step::Ready => {
                tracing::info!(
                    "standby pg{}: replayed up to {}, its files hold checkpoint {}",
                    standby.number,
                    shown(state.replayed),
                    own.record
                );
                return Ok(());
            }
            Step::OtherServer => return Err(other_server(standby, own)),
            Step::Restartpoint => standby.client.restartpoint().await.map_err(|e| standby.failure(&e))?,
            Step::Wait => {}
        }
        if Instant::now() >= deadline {
            return Err(too_slow(standby, start, state, own, limit));
        }
        if !switched && !state.streams {
            // It gets WAL from the archive, where a segment comes when it is finished.
            primary
                .client
                .switch_wal()
                .await
                .map_err(|error| database_failure(&error))?;
            switched = true;
        }
        wait.mention(standby, &state);
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(3).div_f64(2.0).min(LONGEST_PAUSE);
    }
}

/// The primary's checkpoints that were seen while waiting.
struct Wait {
    start: Lsn,
    /// The checkpoints since the start. The standby makes a restartpoint of any of them, perhaps not of the last.
    checkpoints: Vec<Checkpoint>,
    mentioned: Option<Instant>,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Ready,
    OtherServer,
    Restartpoint,
    Wait,
}

impl Wait {
    fn new(start: Lsn) -> Self {
        Self {
            start,
            checkpoints: Vec::new(),
            mentioned: None,
        }
    }

    fn saw_primary(&mut self, checkpoint: Checkpoint) {
        if checkpoint.redo >= self.start && self.checkpoints.last() != Some(&checkpoint) {
            self.checkpoints.push(checkpoint);
        }
    }

    fn judge(&self, own: Checkpoint, replayed: Option<Lsn>) -> Step {
        if own.redo >= self.start {
            if self.checkpoints.contains(&own) {
                return Step::Ready;
            }
            // The same place in the WAL, or the same stretch of it, and another content: another server wrote it.
            let differs = |known: &Checkpoint| known.record == own.record || known.timeline != own.timeline;
            if self.checkpoints.iter().any(differs) {
                return Step::OtherServer;
            }
        }
        // The end of the last record lies behind the beginning of the checkpoint's.
        let replayed_one =
            |known: &Checkpoint| known.record > own.record && replayed.is_some_and(|end| end > known.record);
        if self.checkpoints.iter().any(replayed_one) {
            Step::Restartpoint
        } else {
            Step::Wait
        }
    }

    fn mention(&mut self, standby: &Standby, state: &ReplayState) {
        if self.mentioned.is_none_or(|at| at.elapsed() >= MENTIONED) {
            self.mentioned = Some(Instant::now());
            tracing::info!(
                "waiting for standby pg{}: it has replayed up to {}, the backup starts at {}",
                standby.number,
                shown(state.replayed),
                self.start
            );
        }
    }
}

/// The state of the standby's replay. An error, when it is a standby no more.
async fn state(standby: &Standby) -> Result<ReplayState, Failure> {
    let state = standby.client.replay_state().await.map_err(|e| standby.failure(&e))?;
    if state.in_recovery {
        Ok(state)
    } else {
        Err(promoted(standby))
    }
}

impl Standby {
    /// Looks at the standby from time to time, and ends when it is a standby no more: files that are read from then on
    /// are useless.
    pub async fn watch(&self) -> Failure {
        let never = async {
            loop {
                tokio::time::sleep(WATCHED).await;
                state(self).await?;
            }
        };
        let ended: Result<Infallible, Failure> = never.await;
        match ended {
            Err(failure) => failure,
            Ok(never) => match never {},
        }
    }

    /// Checks, when everything was read, that the standby was one all the time and followed the backup's timeline.
    ///
    /// # Errors
    /// It was promoted, or follows another timeline (56). Its server was restarted: then the connection has ended.
    pub async fn check_end(&self, timeline: TimelineId) -> Result<(), Failure> {
        let state = state(self).await?;
        let control = self.control().await?;
        let others = [
            Some(control.checkpoint_timeline),
            // None before the first restartpoint.
            Some(control.min_recovery_timeline).filter(|known| known.0 != 0),
            state.received_timeline,
        ];
        match others.into_iter().flatten().find(|known| *known != timeline) {
            None => Ok(()),
            Some(other) => {
                let what = format!(
                    "the standby pg{} is on timeline {other} at the end of the backup, which is on timeline {timeline}",
                    self.number
                );
                Err(Failure::new(ExitCode::DbConnect, what)
                    .because(
                        "the standby follows another primary now: WAL of the primary that is backed up cannot be \
                         replayed on its files",
                    )
                    .remedy("let it follow the primary that is backed up, then run the backup again"))
            }
        }
    }
}

fn promoted(standby: &Standby) -> Failure {
    let what = format!(
        "the standby pg{} was promoted while the backup was made",
        standby.number
    );
    Failure::new(ExitCode::DbConnect, what)
        .because("since its promotion, its files belong to another timeline")
        .remedy("run the backup again: pgmesh then asks the servers again which of them is the primary")
}

fn other_server(standby: &Standby, own: Checkpoint) -> Failure {
    let what = format!("the standby pg{} does not follow the primary", standby.number);
    Failure::new(ExitCode::DbConnect, what)
        .because(format!(
            "its checkpoint at {} on timeline {} is not a checkpoint of the primary",
            own.record, own.timeline
        ))
        .remedy("let primary_conninfo of the standby name the primary that pgN-… names")
}

fn too_slow(standby: &Standby, start: Lsn, state: ReplayState, own: Checkpoint, waited: Duration) -> Failure {
    let what = format!(
        "the standby pg{} has replayed up to {} and its last restartpoint begins at {}: within {} s (archive-timeout) it \
         has not reached {start}, where the backup starts",
        standby.number,
        shown(state.replayed),
        own.redo,
        waited.as_secs()
    );
    Failure::new(ExitCode::ArchiveTimeout, what)
        .because(if state.streams {
            "it lags behind the primary: recovery_min_apply_delay, a long query, or slow disks"
        } else {
            "it receives no stream, and gets WAL from the archive only as segments are finished"
        })
        .remedy("raise archive-timeout, or back up from the primary with backup-standby=n")
}

fn shown(position: Option<Lsn>) -> String {
    position.map_or_else(|| "nothing".to_owned(), |position| position.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(redo: u64, timeline: u32) -> Checkpoint {
        Checkpoint {
            record: Lsn(redo + 0x38),
            redo: Lsn(redo),
            timeline: TimelineId(timeline),
            time: i64::try_from(redo).unwrap(),
        }
    }

    #[test]
    fn the_standby_is_ready_when_it_has_one_of_the_primarys_checkpoints() {
        let mut wait = Wait::new(Lsn(0x100));
        let old = checkpoint(0x40, 1);
        wait.saw_primary(old);
        assert_eq!(wait.judge(old, Some(Lsn(0x90))), Step::Wait, "it may be an old one");
        wait.saw_primary(checkpoint(0x100, 1));
        assert_eq!(
            wait.judge(old, Some(Lsn(0x138))),
            Step::Wait,
            "the record was not replayed"
        );
        assert_eq!(wait.judge(old, Some(Lsn(0x139))), Step::Restartpoint);
        assert_eq!(wait.judge(old, None), Step::Wait);
        assert_eq!(wait.judge(checkpoint(0x100, 1), Some(Lsn(0x139))), Step::Ready);
        // The primary has made another one meanwhile, and the standby is not as far.
        wait.saw_primary(checkpoint(0x900, 1));
        assert_eq!(wait.judge(checkpoint(0x100, 1), Some(Lsn(0x200))), Step::Ready);
        assert_eq!(
            wait.judge(checkpoint(0x500, 1), Some(Lsn(0x600))),
            Step::Wait,
            "one that was not seen"
        );
        assert_eq!(wait.judge(checkpoint(0x500, 1), Some(Lsn(0x940))), Step::Restartpoint);
    }

    #[test]
    fn a_standby_of_another_server_is_found_out() {
        let mut wait = Wait::new(Lsn(0x100));
        wait.saw_primary(checkpoint(0x100, 1));
        assert_eq!(wait.judge(checkpoint(0x200, 2), Some(Lsn(0x300))), Step::OtherServer);
        let other = Checkpoint {
            time: 7,
            ..checkpoint(0x100, 1)
        };
        assert_eq!(wait.judge(other, Some(Lsn(0x300))), Step::OtherServer);
        assert_eq!(
            wait.judge(checkpoint(0x80, 2), Some(Lsn(0x90))),
            Step::Wait,
            "it may follow yet"
        );
    }
}
