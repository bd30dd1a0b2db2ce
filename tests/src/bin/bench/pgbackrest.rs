//! Debian's pgbackrest, with a local repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgmesh_tests::{Account, Postgres, Repository, Scratch, run};

use crate::contestant::Contestant;
use crate::measure::{Figures, measure};

const PROGRAM: &str = "/usr/bin/pgbackrest";

/// A repository and the configuration for it.
pub struct PgBackRest {
    account: Account,
    home: PathBuf,
    configuration: PathBuf,
    /// The options of its backups.
    options: &'static [&'static str],
}

impl PgBackRest {
    /// Writes its configuration and creates its stanza.
    #[must_use]
    pub fn set_up(scratch: &Scratch, postgres: &Postgres, round: &str, workers: u32) -> Self {
        let account = scratch.account();
        let home = scratch.folder(format!("pgbackrest-{round}"));
        for folder in ["repo", "lock", "log", "spool"] {
            account.create_folder(&home.join(folder));
        }
        let path = home.display();
        let settings = format!(
            "[global]\nrepo1-path={path}/repo\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=correct horse\n\
             compress-type=zst\ncompress-level=3\nprocess-max={workers}\nstart-fast=y\nlog-level-file=off\n\
             lock-path={path}/lock\nlog-path={path}/log\nspool-path={path}/spool\n\
             [main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            postgres.data().display(),
            postgres.port(),
            postgres.socket().display(),
        );
        let configuration = home.join("pgbackrest.conf");
        account.write(&configuration, settings);
        let contestant = Self {
            account,
            home,
            configuration,
            options: &[],
        };
        run(contestant.command(&["stanza-create"])).succeeds();
        contestant
    }

    /// The same with block incremental backups, which Debian's version calls beta.
    #[must_use]
    pub fn with_blocks(self) -> Self {
        let options = &["--beta", "--repo1-bundle", "--repo1-block"];
        Self { options, ..self }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.account.command(PROGRAM, &self.home);
        command
            .arg(format!("--config={}", self.configuration.display()))
            .arg("--stanza=main")
            .args(arguments);
        command
    }
}

impl Contestant for PgBackRest {
    fn archive_command(&self) -> String {
        format!(
            "{PROGRAM} --config={} --stanza=main archive-push %p",
            self.configuration.display()
        )
    }

    fn push(&self, segment: &Path) -> Figures {
        measure(self.command(&["archive-push", &segment.display().to_string()]), None).0
    }

    fn backup(&self, kind: &str) -> Figures {
        let mut command = self.command(&["backup", &format!("--type={kind}")]);
        command.args(self.options);
        measure(command, None).0
    }

    fn restore(&self, target: &Postgres) -> Figures {
        let path = format!("--pg1-path={}", target.data().display());
        measure(self.command(&["restore", &path, "--archive-mode=off"]), None).0
    }

    fn repository(&self) -> Repository {
        Repository::new(self.home.join("repo"))
    }
}
