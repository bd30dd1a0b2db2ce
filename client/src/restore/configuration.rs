//! The configuration that the restored server will have, read out of the backup before anything is written:
//! `postgresql.conf`, the files that it includes, and `postgresql.auto.conf` as the restore writes it.

use super::source::{BackupSource, extent_of};
use super::survey::Survey;
use pgmesh_postgres::{RECOVERY_TARGETS, RecoverySettings, RecoveryTarget, SettingLine, setting_lines};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{EntryKind, FileEntry};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The file that the restore writes the recovery settings to.
const AUTO_CONF: &str = "postgresql.auto.conf";
/// No configuration has so many files: PostgreSQL itself ends where they include each other.
const MAX_FILES: usize = 1000;

/// A setting, and where it is set last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its value.
    pub value: String,
    /// The file, relative to PGDATA where it lies in it.
    pub file: String,
    /// The line.
    pub line: usize,
}

/// The settings that are in force, by name.
#[derive(Debug, Default)]
pub struct Configuration {
    settings: BTreeMap<String, Setting>,
    /// Whether there is a `postgresql.conf` in the backup. Some keep it elsewhere.
    pub is_known: bool,
}

/// A file that is being read.
struct Open {
    file: String,
    lines: std::vec::IntoIter<SettingLine>,
}

/// Reads files of the backup, and files of this host that an absolute path names outside of PGDATA.
struct Reader<'a> {
    source: &'a BackupSource,
    survey: &'a Survey,
    pgdata: &'a Path,
}

impl Configuration {
    /// The configuration of a backup, with the settings that the restore adds. An included file that is not there is
    /// passed over.
    ///
    /// # Errors
    /// A file of the backup cannot be read.
    pub async fn read(
        source: &BackupSource,
        survey: &Survey,
        pgdata: &Path,
        recovery: &RecoverySettings,
    ) -> Result<Self, Failure> {
        let reader = Reader { source, survey, pgdata };
        let mut found = Self::default();
        let mut budget = MAX_FILES;
        let mut stack = Vec::new();
        if let Some(text) = reader.text("postgresql.conf").await? {
            found.is_known = true;
            stack.push(open("postgresql.conf", &text));
        }
        while let Some(top) = stack.last_mut() {
            let Some(line) = top.lines.next() else {
                stack.pop();
                continue;
            };
            let from = top.file.clone();
            let included = match line.name.as_str() {
                "include" | "include_if_exists" => vec![reader.resolve(&from, &line.value)],
                "include_dir" => reader.files_in(&reader.resolve(&from, &line.value)),
                _ => {
                    found.set(&from, line);
                    continue;
                }
            };
            // The last one first, since the stack turns them round.
            for file in included.into_iter().rev() {
                if budget > 0
                    && let Some(text) = reader.text(&file).await?
                {
                    budget -= 1;
                    stack.push(open(&file, &text));
                }
            }
        }
        let existing = reader.text(AUTO_CONF).await?.unwrap_or_default();
        for line in setting_lines(&recovery.render_auto_conf(&existing)) {
            found.set(AUTO_CONF, line);
        }
        Ok(found)
    }

    fn set(&mut self, file: &str, line: SettingLine) {
        let setting = Setting {
            value: line.value,
            file: file.to_owned(),
            line: line.line,
        };
        self.settings.insert(line.name, setting);
    }

    /// The value of a setting, if one is set.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|setting| setting.value.as_str())
    }

    /// Refuses settings that would end the recovery elsewhere than the user asked for. The restore's own settings are
    /// the user's.
    ///
    /// # Errors
    /// 31, naming file and line.
    pub fn check_targets(&self, recovery: &RecoverySettings) -> Result<(), Failure> {
        if matches!(recovery.target, RecoveryTarget::Preserve | RecoveryTarget::None) {
            return Ok(());
        }
        let left = |name: &str| {
            let setting = self.settings.get(name)?;
            (setting.file != AUTO_CONF && !setting.value.is_empty()).then_some((name.to_owned(), setting))
        };
        let mut found: Vec<(String, &Setting)> = RECOVERY_TARGETS.iter().filter_map(|name| left(name)).collect();
        let is = |expected: &[&str], value: &str| expected.iter().any(|word| word.eq_ignore_ascii_case(value));
        found.extend(left("recovery_target_timeline").filter(|(_, setting)| !is(&["latest"], &setting.value)));
        let has_target = RECOVERY_TARGETS
            .iter()
            .any(|name| self.value(name).is_some_and(|value| !value.is_empty()));
        if has_target {
            let inclusive = ["on", "true", "tru", "tr", "t", "yes", "ye", "y", "1"];
            found.extend(left("recovery_target_inclusive").filter(|(_, setting)| !is(&inclusive, &setting.value)));
            found.extend(left("recovery_target_action").filter(|(_, setting)| !is(&["pause"], &setting.value)));
        }
        let Some((first, _)) = found.first() else { return Ok(()) };
        let neutral = match first.as_str() {
            "recovery_target_timeline" => "latest",
            "recovery_target_inclusive" => "on",
            "recovery_target_action" => "pause",
            _ => "",
        };
        let remedy = format!(
            "for this restore, override the line with --recovery-option={first}={neutral}; for later restores, remove \
             it from the file. If the target is wanted, give it as an option: --type, --target, --target-timeline"
        );
        let lines: Vec<String> = found
            .iter()
            .map(|(name, setting)| format!("{name} = '{}' in {} line {}", setting.value, setting.file, setting.line))
            .collect();
        Err(Failure::new(
            ExitCode::OptionInvalid,
            "the configuration in the backup has a recovery target that was not asked for",
        )
        .because(lines.join("; "))
        .remedy(remedy))
    }
}

fn open(file: &str, text: &str) -> Open {
    Open {
        file: file.to_owned(),
        lines: setting_lines(text).into_iter(),
    }
}

impl Reader<'_> {
    /// The file that an `include` names: relative to the file with the `include`. Within PGDATA the answer is relative
    /// to PGDATA.
    fn resolve(&self, from: &str, path: &str) -> String {
        let folder = Path::new(from).parent().unwrap_or(Path::new(""));
        let path = folder.join(path);
        let path = path.strip_prefix(self.pgdata).unwrap_or(&path);
        let mut plain = PathBuf::new();
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::ParentDir => drop(plain.pop()),
                other => plain.push(other),
            }
        }
        plain.display().to_string()
    }

    /// The files that `include_dir` reads, in the order of their names.
    fn files_in(&self, folder: &str) -> Vec<String> {
        let is_read = |name: &str| name.ends_with(".conf") && !name.starts_with('.');
        let mut names: Vec<String> = if folder.starts_with('/') {
            let names = fs::read_dir(folder).into_iter().flatten().flatten();
            names.filter_map(|name| name.file_name().into_string().ok()).collect()
        } else {
            let files = self.survey.configuration.keys();
            let name = |path: &String| {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                (parent == folder).then(|| name.to_owned())
            };
            files.filter_map(name).collect()
        };
        names.retain(|name| is_read(name));
        names.sort();
        names
            .into_iter()
            .take(MAX_FILES)
            .map(|name| format!("{folder}/{name}").trim_start_matches("./").to_owned())
            .collect()
    }

    async fn text(&self, file: &str) -> Result<Option<String>, Failure> {
        let bytes = if file.starts_with('/') {
            fs::read(file).ok()
        } else {
            match self.survey.configuration.get(file) {
                Some(entry) => Some(content(self.source, entry).await?),
                None => None,
            }
        };
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// The content of a small file of the backup.
async fn content(source: &BackupSource, entry: &FileEntry) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    for extent in entry.extents() {
        let chunk = source.chunk(extent.digest).await?;
        bytes.extend_from_slice(extent_of(&chunk, extent)?);
    }
    match &entry.kind {
        EntryKind::File { crc32c, .. } if *crc32c != crc32c::crc32c(&bytes) => Err(Failure::new(
            ExitCode::Checksum,
            format!(
                "the content of {} in the backup does not match its checksum",
                entry.path
            ),
        )),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(lines: &[(&str, usize, &str, &str)]) -> Configuration {
        let mut found = Configuration::default();
        for (file, line, name, value) in lines {
            let line = SettingLine {
                line: *line,
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            };
            found.set(file, line);
        }
        found
    }

    fn refusal(lines: &[(&str, usize, &str, &str)], target: RecoveryTarget) -> Option<String> {
        let checked = configuration(lines).check_targets(&RecoverySettings::new(target, 0));
        checked.err().map(|failure| failure.to_string())
    }

    #[test]
    fn a_target_that_was_left_behind_is_refused_with_file_and_line() {
        let left = ("postgresql.conf", 812, "recovery_target_time", "2026-11-23");
        let said = refusal(&[left], RecoveryTarget::Default).unwrap();
        assert!(
            said.contains("recovery_target_time = '2026-11-23' in postgresql.conf line 812"),
            "{said}"
        );
        assert!(refusal(&[left], RecoveryTarget::Standby).is_some());
        // A second target beside the user's: PostgreSQL would not start.
        let asked = (AUTO_CONF, 3, "recovery_target_name", "x");
        assert!(refusal(&[left, asked], RecoveryTarget::Name("x".to_owned())).is_some());
        for target in [RecoveryTarget::Preserve, RecoveryTarget::None] {
            assert_eq!(refusal(&[left], target), None);
        }
    }

    #[test]
    fn what_ends_no_recovery_is_let_pass() {
        let target = || RecoveryTarget::Default;
        for line in [
            ("postgresql.conf", 1, "recovery_target_time", ""),
            ("postgresql.conf", 1, "recovery_target_timeline", "Latest"),
            ("postgresql.conf", 1, "recovery_target_inclusive", "off"),
            ("postgresql.conf", 1, "recovery_target_action", "promote"),
            (AUTO_CONF, 1, "recovery_target_time", "2026-11-23"),
        ] {
            assert_eq!(refusal(&[line], target()), None, "{line:?}");
        }
        assert!(refusal(&[("conf.d/x.conf", 1, "recovery_target_timeline", "3")], target()).is_some());
        let asked = (AUTO_CONF, 3, "recovery_target_xid", "9");
        let xid = || RecoveryTarget::Xid("9".to_owned());
        assert!(
            refusal(
                &[asked, ("postgresql.conf", 1, "recovery_target_inclusive", "off")],
                xid()
            )
            .is_some()
        );
        assert_eq!(
            refusal(
                &[asked, ("postgresql.conf", 1, "recovery_target_inclusive", "yes")],
                xid()
            ),
            None
        );
        assert!(
            refusal(
                &[asked, ("postgresql.conf", 1, "recovery_target_action", "promote")],
                xid()
            )
            .is_some()
        );
    }
}
