//! `--type`, `--target` and `--set`: how far recovery goes, and which backup that demands.

use super::time_target::{self, TimeTarget};
use pgmesh_postgres::{Lsn, RecoveryTarget};
use pgmesh_protocol::choice::Wanted;
use pgmesh_protocol::{ExitCode, Failure};

/// A recovery target, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which backup it needs.
    pub wanted: Wanted,
    /// The target for PostgreSQL.
    pub recovery: RecoveryTarget,
    /// A time that was given without an offset, as it is in the time zone of this host.
    pub local_time: Option<String>,
}

impl Target {
    /// Understands the three options. `set`: a label, or `latest` like nothing at all.
    ///
    /// # Errors
    /// 31 for a target that is none of its type or has no place there, 37 for a missing one, 75 for a set that is no
    /// label.
    pub fn parse(kind: &str, target: Option<&str>, set: Option<&str>) -> Result<Self, Failure> {
        let set = match set {
            None | Some("latest") => None,
            Some(label) => Some(Wanted::Label(label.parse().map_err(|error| {
                Failure::new(ExitCode::BackupSetInvalid, format!("'{label}' is no label of a backup")).because(error)
            })?)),
        };
        let (recovery, wanted) = recovery(kind, target, set.is_some())?;
        let local_time = target.filter(|_| kind == "time").and_then(|target| {
            let time = time_target::parse(target, &time_target::local).ok()?;
            time.is_local.then_some(time.text)
        });
        Ok(Self {
            wanted: set.unwrap_or(wanted),
            recovery,
            local_time,
        })
    }
}

/// The target, and the backup that it needs by itself. With a set, a time may be in any form that PostgreSQL takes.
fn recovery(kind: &str, target: Option<&str>, has_set: bool) -> Result<(RecoveryTarget, Wanted), Failure> {
    let plain = match kind {
        "default" => Some(RecoveryTarget::Default),
        "immediate" => Some(RecoveryTarget::Immediate),
        "none" => Some(RecoveryTarget::None),
        "preserve" => Some(RecoveryTarget::Preserve),
        "standby" => Some(RecoveryTarget::Standby),
        _ => None,
    };
    match (plain, target) {
        (Some(plain), None) => Ok((plain, Wanted::Newest)),
        (Some(_), Some(_)) => Err(Failure::new(
            ExitCode::OptionInvalid,
            format!("option target does not go with --type={kind}"),
        )
        .remedy("give the target's type: --type=lsn, name, time or xid")),
        (None, None) => Err(Failure::new(
            ExitCode::OptionRequired,
            format!("--type={kind} needs option target"),
        )),
        (None, Some(target)) => pointed(kind, target, has_set),
    }
}

fn pointed(kind: &str, target: &str, has_set: bool) -> Result<(RecoveryTarget, Wanted), Failure> {
    let refused = |cause: &dyn std::fmt::Display| {
        Failure::new(
            ExitCode::OptionInvalid,
            format!("'{target}' is no target of --type={kind}"),
        )
        .because(cause)
    };
    match kind {
        "time" => match time_target::parse(target, &time_target::local) {
            Ok(TimeTarget { unix_seconds, text, .. }) => {
                Ok((RecoveryTarget::Time(text), Wanted::EndedBefore(unix_seconds)))
            }
            // PostgreSQL knows more forms; the backup is given, so nothing has to be compared here.
            Err(_) if has_set => Ok((RecoveryTarget::Time(target.to_owned()), Wanted::Newest)),
            Err(error) => {
                Err(refused(&error).remedy("write it as '2026-11-23 04:29:57+00', or choose the backup with --set"))
            }
        },
        "lsn" => {
            let lsn: Lsn = target.parse().map_err(|error| refused(&error))?;
            Ok((RecoveryTarget::Lsn(lsn), Wanted::ConsistentBy(lsn)))
        }
        "xid" => {
            let is_number = !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number || target.parse::<u64>().is_err() {
                return Err(refused(&"a transaction's number is expected"));
            }
            Ok((RecoveryTarget::Xid(target.to_owned()), Wanted::Newest))
        }
        "name" => {
            // MAXFNAMELEN of xlogdefs.h: PostgreSQL takes no longer one.
            if target.is_empty() || target.len() >= 64 {
                return Err(refused(&"the name of a restore point has 1 to 63 bytes"));
            }
            Ok((RecoveryTarget::Name(target.to_owned()), Wanted::Newest))
        }
        _ => Err(Failure::new(
            ExitCode::OptionInvalid,
            format!("--type={kind} is not known"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_demands_its_own_backup() {
        let parsed = |kind, target| Target::parse(kind, target, Some("latest"));
        for kind in ["default", "immediate", "none", "preserve", "standby"] {
            assert_eq!(parsed(kind, None).unwrap().wanted, Wanted::Newest);
            assert_eq!(parsed(kind, Some("x")).unwrap_err().code, ExitCode::OptionInvalid);
        }
        let time = parsed("time", Some("2025-02-15 03:00:01+01")).unwrap();
        assert_eq!(time.wanted, Wanted::EndedBefore(1_739_584_801));
        assert_eq!(time.local_time, None);
        let local = parsed("time", Some("2025-02-15 03:00:01")).unwrap().local_time.unwrap();
        assert!(local.starts_with("2025-02-15 03:00:01"), "{local}");
        assert_eq!(
            time.recovery,
            RecoveryTarget::Time("2025-02-15 03:00:01+01:00".to_owned())
        );
        assert_eq!(
            parsed("lsn", Some("16/B374D848")).unwrap().wanted,
            Wanted::ConsistentBy(Lsn(0x16_B374_D848))
        );
        assert_eq!(
            parsed("xid", Some("744")).unwrap().recovery,
            RecoveryTarget::Xid("744".to_owned())
        );
        assert_eq!(parsed("name", Some("before")).unwrap().wanted, Wanted::Newest);
        for (kind, wrong) in [
            ("time", "yesterday"),
            ("lsn", "16"),
            ("xid", "-1"),
            ("xid", ""),
            ("name", ""),
        ] {
            assert_eq!(
                parsed(kind, Some(wrong)).unwrap_err().code,
                ExitCode::OptionInvalid,
                "{kind} {wrong}"
            );
        }
        assert_eq!(parsed("time", None).unwrap_err().code, ExitCode::OptionRequired);
    }

    #[test]
    fn a_given_set_wins() {
        let label = "20250215-020001F";
        let target = Target::parse("time", Some("2025-02-15 02:00:01 Europe/Rome"), Some(label)).unwrap();
        assert_eq!(target.wanted, Wanted::Label(label.parse().unwrap()));
        assert_eq!(
            target.recovery,
            RecoveryTarget::Time("2025-02-15 02:00:01 Europe/Rome".to_owned())
        );
        let wrong = Target::parse("default", None, Some("newest")).unwrap_err();
        assert_eq!(wrong.code, ExitCode::BackupSetInvalid);
    }
}
