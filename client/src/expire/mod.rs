//! Retention: the backups and the WAL that a repository need not keep any longer, and their expiry.
//!
//! ```text
//! retention   the options of a repository, their defaults, the warnings about them
//! history     the facts: the backups of one repository, their dependents, holds
//! select      which backups go (count, time, differentials, --set, --oldest) and which calendar keeps
//! archives    which WAL stays, for each database
//! plan        all of it for one repository: pure
//! run         facts from the mesh → plan → requests → log lines and a report
//! ```
//!
//! The rules are pgBackRest's, for each repository by itself; `docs/retention.md` has them with an example each. Beyond
//! them: a backup that a repository does not have whole yet does not count there; a held backup neither expires nor
//! counts; days, weeks, months and years can be kept; and `retention-min` full backups stay whatever is asked. A
//! backup that was interrupted is no backup of the catalog, so nothing of it is ever in the list.

mod archives;
mod calendar;
#[cfg(test)]
mod cases;
mod history;
mod lines;
mod plan;
#[cfg(test)]
mod property;
mod report;
mod retention;
mod run;
#[cfg(test)]
mod run_cases;
mod runs;
#[cfg(test)]
mod sample;
mod select;
#[cfg(test)]
mod wal_cases;

pub use calendar::{UnknownZone, Zone};
pub use history::{Ask, History};
pub use lines::{Level, Line};
pub use plan::{Plan, plan};
pub use report::{ArchiveReport, BackupReport, ErrorReport, ExpireReport, RepositoryReport, StretchReport};
pub use retention::{FullType, Retention};
pub use run::{ExpireSettings, run};
pub use select::ExpiredSet;
