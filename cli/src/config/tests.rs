//! Configurations as users write them, and how the program reads them.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::exit::{CommandError, ExitCode};

/// A configuration file for one test.
struct Sample {
    directory: tempfile::TempDir,
}

impl Sample {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgmesh.conf");
        std::fs::write(&path, text).unwrap();
        let this = Self { directory };
        this.set_mode(0o640);
        this
    }

    fn set_mode(&self, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join("pgmesh.conf");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn rewrite(&self, text: &str) {
        std::fs::write(self.directory.path().join("pgmesh.conf"), text).unwrap();
    }

    fn load_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Result<Config, CommandError> {
        let config = format!("--config={}", self.directory.path().join("pgmesh.conf").display());
        load_with(environment, &[&[config.as_str()], arguments].concat())
    }

    fn load(&self, arguments: &[&str]) -> Result<Config, CommandError> {
        self.load_with(&[], arguments)
    }
}

fn load_with(environment: &[(&str, &str)], arguments: &[&str]) -> Result<Config, CommandError> {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let environment: Vec<(OsString, OsString)> = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    Config::load(&arguments, &environment)
}

fn load(arguments: &[&str]) -> Result<Config, CommandError> {
    load_with(&[], &[&["--no-config"], arguments].concat())
}

const FILE: &str = "\
[global]
process-max=2
start-fast=y
mesh-node=node1:8433
mesh-node=node2:8433
[global:backup]
process-max=3
[main]
pg1-path=/pg/main/
process-max=4
[main:backup]
process-max=5
[other]
pg1-path=/pg/other
";

#[test]
fn the_most_specific_section_wins() {
    let sample = Sample::new(FILE);
    let process_max = |arguments: &[&str]| sample.load(arguments).unwrap().integer("process-max");
    assert_eq!(process_max(&["--stanza=main", "backup"]), 5);
    assert_eq!(process_max(&["--stanza=main", "restore"]), 4);
    assert_eq!(process_max(&["--stanza=other", "backup"]), 3);
    assert_eq!(process_max(&["--stanza=other", "restore"]), 2);
    assert_eq!(process_max(&["verify"]), 2);
}

#[test]
fn the_command_line_wins_over_the_environment_over_the_file() {
    let sample = Sample::new(FILE);
    let environment = [("PGMESH_PROCESS_MAX", "6"), ("PGMESH_STANZA", "main"), ("HOME", "/")];
    let config = sample.load_with(&environment, &["backup"]).unwrap();
    assert_eq!(config.integer("process-max"), 6);
    assert_eq!(config.stanza(), Some("main"));
    assert_eq!(
        config.source_of("process-max"),
        SettingSource::Environment {
            variable: "PGMESH_PROCESS_MAX".into()
        }
    );
    assert!(
        config
            .source_of("start-fast")
            .to_string()
            .ends_with("pgmesh.conf:3 in section [global]")
    );
    let config = sample
        .load_with(&environment, &["backup", "--process-max", "7"])
        .unwrap();
    assert_eq!(config.integer("process-max"), 7);
    assert_eq!(config.source_of("process-max"), SettingSource::CommandLine);
    let config = sample
        .load_with(&environment, &["backup", "--reset-process-max"])
        .unwrap();
    assert_eq!(
        (config.integer("process-max"), config.source_of("process-max")),
        (1, SettingSource::Default)
    );
}

#[test]
fn the_command_stands_anywhere() {
    for arguments in [
        ["--stanza=main", "--pg1-path=/pg", "archive-push", "pg_wal/x"],
        ["archive-push", "--stanza=main", "pg_wal/x", "--pg1-path=/pg"],
        ["archive-push", "pg_wal/x", "--pg1-path=/pg", "--stanza=main"],
    ] {
        let config = load(&arguments).unwrap();
        assert_eq!(
            (config.command(), config.stanza()),
            (Command::ArchivePush, Some("main"))
        );
        assert_eq!(config.argument(0).unwrap(), "pg_wal/x");
        assert_eq!(config.pg_path(), Some(Path::new("/pg")));
    }
    let config = load(&["node", "--node-name=n1", "init"]).unwrap();
    assert_eq!((config.command(), config.arguments().len()), (Command::NodeInit, 0));
}

#[test]
fn flags_are_negated_and_said_once() {
    let sample = Sample::new(FILE);
    let start_fast = |arguments: &[&str]| {
        sample
            .load(&[&["--stanza=main", "backup"], arguments].concat())
            .unwrap()
            .flag("start-fast")
    };
    assert!(start_fast(&[]));
    assert!(!start_fast(&["--no-start-fast"]));
    assert!(!start_fast(&["--start-fast=n"]));
    for twice in [
        ["backup", "--start-fast", "--no-start-fast"],
        ["backup", "--no-start-fast", "--no-start-fast"],
        ["backup", "--start-fast", "--reset-start-fast"],
        ["backup", "--process-max=2", "--process-max=3"],
        ["backup", "--stanza=main", "--stanza=main"],
    ] {
        let error = load(&twice).unwrap_err();
        assert_eq!(error.code, ExitCode::OptionInvalid, "{error}");
        assert!(error.to_string().contains("cannot be set multiple times"), "{error}");
    }
    let restore = ["--stanza=main", "--pg1-path=/pg", "restore", "--delta"];
    assert!(load(&restore).unwrap().flag("delta"));
    let config = load(&["--stanza=main", "--pg1-path=/pg", "backup", "--no-checksum-page"]).unwrap();
    assert_eq!(config.optional_flag("checksum-page"), Some(false));
    let error = load(&["backup", "--no-process-max"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionInvalid, "{error}");
    let error = load(&["backup", "--start-fast=maybe"]).unwrap_err();
    assert!(
        error.to_string().contains("'maybe'") && error.to_string().contains("y or n"),
        "{error}"
    );
}

#[test]
fn lists_come_from_one_place_as_a_whole() {
    let sample = Sample::new(FILE);
    let config = sample.load(&["info"]).unwrap();
    assert_eq!(config.list("mesh-node"), ["node1:8433", "node2:8433"]);
    let config = sample.load_with(&[("PGMESH_MESH_NODE", "a:1,b:2")], &["info"]).unwrap();
    assert_eq!(config.required_list("mesh-node").unwrap(), ["a:1", "b:2"]);
    let config = sample.load(&["info", "--mesh-node=c:3", "--mesh-node", "d:4"]).unwrap();
    assert_eq!(config.list("mesh-node"), ["c:3", "d:4"]);
    assert_eq!(
        load(&["info"]).unwrap().required_list("mesh-node").unwrap_err().code,
        ExitCode::OptionRequired
    );
    let arguments = [
        "--stanza=main",
        "--pg1-path=/pg",
        "restore",
        "--tablespace-map=a=/x",
        "--tablespace-map=b=/y",
    ];
    assert_eq!(load(&arguments).unwrap().map("tablespace-map").len(), 2);
}

#[test]
fn unknown_options() {
    let sample = Sample::new("[global]\nproces-max=2\n[main]\nrepo1-pth=/x\nno-delta=y\nrepo0-path=/x\nhunter 2=x\n");
    let warnings = sample.load(&["info"]).unwrap().warnings().join("\n");
    for part in [
        "pgmesh.conf:2: option 'proces-max' does not exist and is not used; did you mean 'process-max'?",
        "pgmesh.conf:4: option 'repo1-pth' does not exist and is not used; did you mean 'repo1-path'?",
        "pgmesh.conf:5: option 'no-delta' does not exist and is not used; write 'delta=n' instead",
        "pgmesh.conf:6: option 'repo0-path' is not used: the N in 'repoN-path' goes from 1 to 256",
    ] {
        assert!(warnings.contains(part), "{part} is not in\n{warnings}");
    }
    assert!(!warnings.contains("hunter"), "{warnings}");
    let error = load(&["info", "--proces-max=2"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionInvalid);
    assert!(error.to_string().contains("did you mean '--process-max'?"), "{error}");
    let error = load(&["info", "-x"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionInvalid, "{error}");
    let error = load(&["info", "--repo257-path=/x"]).unwrap_err();
    assert!(error.to_string().contains("1 to 256"), "{error}");
    let warnings = load_with(&[("PGMESH_PROCES_MAX", "1")], &["info", "--no-config"])
        .unwrap()
        .warnings()
        .join("\n");
    assert!(
        warnings.contains("PGMESH_PROCES_MAX") && warnings.contains("'process-max'"),
        "{warnings}"
    );
}

#[test]
fn options_that_only_pgbackrest_has_are_named_and_never_stop_a_command() {
    let sample =
        Sample::new("[global]\narchive-async=y\nrepo1-block=y\nstanza=main\n[global:manifest]\nprocess-max=3\n");
    let config = sample
        .load_with(&[("PGMESH_REPO1_SFTP_PRIVATE_KEY_PASSPHRASE", "hunter2")], &["info"])
        .unwrap();
    let warnings = config.warnings().join("\n");
    for part in [
        ":2: option 'archive-async' is not used: pgmesh pushes",
        ":3: option 'repo1-block' is not used",
        ":4: option 'stanza' is not used: it belongs on the command line",
        "section [global:manifest] is not used",
        "PGMESH_REPO1_SFTP_PRIVATE_KEY_PASSPHRASE is not used",
    ] {
        assert!(warnings.contains(part), "{part} is not in\n{warnings}");
    }
    assert!(!warnings.contains("hunter2"));
    assert!(config.repositories().is_empty());
    let error = load(&["info", "--archive-async"]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("pgmesh does not have pgBackRest's option 'archive-async'"),
        "{error}"
    );
    let error = load(&["manifest"]).unwrap_err();
    assert_eq!(error.code, ExitCode::CommandInvalid);
}

#[test]
fn values_that_are_not_allowed() {
    let sample = Sample::new("[global]\n\nprocess-max=many\n");
    let error = sample.load(&["verify"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionInvalid);
    let text = error.to_string();
    for part in [
        "option 'process-max': 'many' is not allowed",
        "pgmesh.conf:3 in section [global]",
        "from 1 to 999",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // A value that does not count is not checked.
    assert_eq!(
        sample
            .load(&["verify", "--process-max=2"])
            .unwrap()
            .integer("process-max"),
        2
    );
    assert!(sample.load(&["info"]).is_ok());
    for wrong in [
        "--io-timeout=soon",
        "--buffer-size=1",
        "--mesh-node=node1",
        "--stanza=a/b",
        "--output=xml",
    ] {
        assert_eq!(
            load(&["info", wrong]).unwrap_err().code,
            ExitCode::OptionInvalid,
            "{wrong}"
        );
    }
    let error = load_with(&[("PGMESH_OUTPUT", "")], &["info", "--no-config"]).unwrap_err();
    assert!(error.to_string().contains("PGMESH_OUTPUT is set but empty"), "{error}");
}

#[test]
fn sizes_durations_and_defaults() {
    let config = load(&[
        "--stanza=main",
        "--pg1-path=/pg",
        "backup",
        "--buffer-size=2MiB",
        "--io-timeout=30",
    ])
    .unwrap();
    assert_eq!(config.size("buffer-size"), 2 << 20);
    assert_eq!(config.duration("io-timeout"), Duration::from_secs(30));
    assert_eq!(config.duration("db-timeout"), Duration::from_secs(1800));
    assert_eq!(config.text("compress-type"), Some("zst"));
    assert_eq!(config.optional_integer("compress-level"), None);
    assert_eq!(config.optional_integer("archive-ack"), None);
    let config = load(&["--stanza=main", "--pg1-path=/pg", "restore"]).unwrap();
    assert_eq!(
        (config.text("type"), config.text("set")),
        (Some("default"), Some("latest"))
    );
    assert_eq!(
        load(&["node", "start", "--node-name=n"])
            .unwrap()
            .text("log-level-console"),
        Some("info")
    );
    assert_eq!(load(&["info"]).unwrap().text("log-level-console"), Some("warn"));
}

#[test]
fn options_are_for_their_commands() {
    let error = load(&["--stanza=main", "info", "--target=x"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionInvalid);
    assert!(error.to_string().contains("commands that take it: restore"), "{error}");
    // In a file, options of other commands are allowed.
    let sample = Sample::new("[global]\ntarget-action=promote\n");
    assert!(sample.load(&["info"]).unwrap().warnings().is_empty());
}

#[test]
fn missing_options_and_arguments() {
    let error = load(&["backup"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionRequired);
    assert!(error.to_string().contains("needs option 'stanza'"), "{error}");
    let sample = Sample::new(FILE);
    let error = sample.load(&["--stanza=mian", "backup"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionRequired);
    assert!(
        error
            .to_string()
            .contains("no section [mian]; it has sections for: main, other"),
        "{error}"
    );
    assert_eq!(
        load(&["archive-get", "--stanza=main", "x"]).unwrap_err().code,
        ExitCode::OptionRequired
    );
    assert_eq!(load(&["version", "x"]).unwrap_err().code, ExitCode::OptionInvalid);
    assert_eq!(load(&[]).unwrap_err().code, ExitCode::CommandInvalid);
    assert_eq!(load(&["node"]).unwrap_err().code, ExitCode::CommandInvalid);
    assert!(
        load(&["bakcup"])
            .unwrap_err()
            .to_string()
            .contains("did you mean 'backup'?")
    );
    assert_eq!(load(&["info", "--output"]).unwrap_err().code, ExitCode::OptionInvalid);
}

const REPOSITORIES: &str = "\
[global]
node-name=node1
repo1-path=/backup/repo1/
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=hunter2 = \\x
repo2-path=/backup/repo2
repo2-type=posix
";

#[test]
fn repositories_as_declared() {
    let config = Sample::new(REPOSITORIES).load(&["node", "start"]).unwrap();
    let repositories = config.repositories();
    assert_eq!(repositories.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(config.numbers(IndexKey::Repo), [1, 2]);
    let first = &repositories[&1];
    assert_eq!(first.definition["path"], "/backup/repo1");
    assert_eq!(first.definition["type"], "posix");
    assert_eq!(first.secrets["cipher-pass"].expose(), "hunter2 = \\x");
    assert!(!first.definition.contains_key("cipher-pass"));
    assert_eq!(repositories[&2].definition["cipher-type"], "none");
    assert_eq!(config.indexed_text(IndexKey::Repo, 2, "type"), Some("posix"));
    assert_eq!(config.indexed(IndexKey::Repo, 3, "type"), None);
    assert_eq!(config.indexed_integer(IndexKey::Pg, 1, "port"), Some(5432));
}

#[test]
fn repositories_that_cannot_be() {
    let refused = |text: &str| Sample::new(text).load(&["node", "start"]).unwrap_err();
    let error = refused("[global]\nnode-name=n\nrepo2-type=posix\n");
    assert!(
        error.code == ExitCode::OptionRequired && error.to_string().contains("repo2-path"),
        "{error}"
    );
    let error = refused("[global]\nnode-name=n\nrepo1-path=/x\nrepo1-cipher-type=aes-256-cbc\n");
    assert!(
        error.code == ExitCode::OptionRequired && error.to_string().contains("repo1-cipher-pass"),
        "{error}"
    );
    let error = refused("[global]\nnode-name=n\nrepo1-path=/x\nrepo1-cipher-pass=hunter2\n");
    assert!(
        error.to_string().contains("would not be encrypted") && !error.to_string().contains("hunter2"),
        "{error}"
    );
    let error = refused("[global]\nnode-name=n\nrepo1-path=/x\nrepo1-type=sftp\n");
    assert!(error.to_string().contains("allowed: posix"), "{error}");
    for (options, missing) in [
        ("type=s3", "s3-bucket"),
        (
            "type=s3\nrepo1-s3-bucket=b\nrepo1-s3-key=k\nrepo1-s3-key-secret=s",
            "s3-region",
        ),
        ("type=s3\nrepo1-s3-bucket=b\nrepo1-s3-endpoint=e", "s3-key"),
        ("type=s3\nrepo1-s3-bucket=b\nrepo1-s3-key-type=auto", "s3-region"),
        (
            "type=azure\nrepo1-azure-container=c\nrepo1-azure-key=k",
            "azure-account",
        ),
        ("type=gcs\nrepo1-gcs-bucket=b", "gcs-key"),
    ] {
        let error = refused(&format!("[global]\nnode-name=n\nrepo1-{options}\n"));
        let named = error.to_string().contains(&format!("'repo1-{missing}'"));
        assert!(error.code == ExitCode::OptionRequired && named, "{options}: {error}");
    }
}

#[test]
fn credentials_are_read_anew_when_they_rotate() {
    let file = |secret: &str| {
        format!(
            "[global]\nnode-name=n\nrepo1-type=s3\nrepo1-s3-bucket=b\nrepo1-s3-region=r\nrepo1-s3-key=k\n\
             repo1-s3-key-secret={secret}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=p\n"
        )
    };
    let sample = Sample::new(&file("old"));
    let config = sample.load(&["node", "start"]).unwrap();
    let settings = config.repositories()[&1].store_settings(&config, 1);
    let secret = |settings: &pgmesh_storage::StoreSettings| {
        let secrets = settings.secrets.read().unwrap();
        assert!(!secrets.contains_key("cipher-pass"));
        secrets["s3-key-secret"].expose().to_owned()
    };
    assert_eq!(secret(&settings), "old");
    sample.rewrite(&file("hunter3"));
    assert_eq!(secret(&settings), "hunter3");
    assert!(!format!("{settings:?}").contains("hunter3"));
    sample.rewrite("[global\n");
    assert!(settings.secrets.read().is_err());
}

#[test]
fn invariant_9_secrets_are_not_seen() {
    let sample = Sample::new(REPOSITORIES);
    let environment = [
        ("PGMESH_REPO2_CIPHER_TYPE", "aes-256-cbc"),
        ("PGMESH_REPO2_CIPHER_PASS", "swordfish"),
    ];
    let config = sample.load_with(&environment, &["node", "start"]).unwrap();
    assert_eq!(
        config
            .indexed_secret(IndexKey::Repo, 2, "cipher-pass")
            .unwrap()
            .expose(),
        "swordfish"
    );
    let shown = format!("{config:?} {:?} {:?}", config.repositories(), config.warnings());
    assert!(!shown.contains("hunter2") && !shown.contains("swordfish"), "{shown}");
    assert!(shown.contains("repo1-cipher-pass: \"<redacted>\""), "{shown}");
    let error = load(&["node", "start", "--repo1-cipher-pass=hunter2"]).unwrap_err();
    assert_eq!(error.code, ExitCode::OptionInvalid);
    assert!(error.to_string().contains("PGMESH_REPO1_CIPHER_PASS"), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let error = load(&["node", "start", "--repo1-cipher-pas=hunter2"]).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let config = load(&["join", "pgmesh1.hunter2"]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let restore = [
        "--stanza=main",
        "--pg1-path=/pg",
        "restore",
        "--recovery-option=primary_conninfo=password=hunter2",
    ];
    let config = load(&restore).unwrap();
    assert_eq!(config.map("recovery-option")[0].1, "password=hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    let wrong = [
        "--stanza=main",
        "--pg1-path=/pg",
        "restore",
        "--recovery-option==hunter2",
    ];
    assert!(!load(&wrong).unwrap_err().to_string().contains("hunter2"));
}

#[test]
fn invitations_name_several_stanzas() {
    let config = load(&["invite", "--stanza=main", "--stanza=reports", "--expires=15m"]).unwrap();
    assert_eq!(config.list("stanza"), ["main", "reports"]);
    assert_eq!(config.stanza(), None);
    assert_eq!(config.duration("expires"), Duration::from_secs(900));
    assert_eq!(config.text("role"), Some("client"));
}

#[test]
fn files_that_are_missing_broken_or_many() {
    let error = load_with(&[], &["--config=/nonexistent/pgmesh.conf", "info"]).unwrap_err();
    assert_eq!(error.code, ExitCode::FileMissing);
    let error = load_with(&[("PGMESH_CONFIG", "/nonexistent/pgmesh.conf")], &["info"]).unwrap_err();
    assert_eq!(error.code, ExitCode::FileMissing);
    let broken = Sample::new("[global]\nprocess-max\n");
    let error = broken.load(&["info"]).unwrap_err();
    assert_eq!(error.code, ExitCode::Config);
    assert!(error.to_string().contains("pgmesh.conf:2:"), "{error}");
    // Help and version work all the same.
    assert!(broken.load(&["version"]).is_ok() && broken.load(&["help", "info"]).is_ok());

    let sample = Sample::new("[global]\nprocess-max=2\nbuffer-size=1MiB\n");
    let more = sample.directory.path().join("conf.d");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(more.join("2.conf"), "[global]\nprocess-max=4\n").unwrap();
    std::fs::write(more.join("1.conf"), "[global]\nprocess-max=3\nmesh-node=a:1\n").unwrap();
    std::fs::write(more.join("ignored.txt"), "nonsense").unwrap();
    let include = format!("--config-include-path={}", more.display());
    let config = sample.load(&["verify", &include]).unwrap();
    assert_eq!(
        (config.integer("process-max"), config.list("mesh-node")),
        (4, &["a:1".to_owned()][..])
    );
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
}

#[test]
fn options_given_twice_in_a_section() {
    let sample = Sample::new("[global]\nprocess-max=2\nprocess-max=3\n");
    let config = sample.load(&["verify"]).unwrap();
    assert_eq!(config.integer("process-max"), 3);
    let warnings = config.warnings().join("\n");
    assert!(
        warnings.contains("'process-max' is given twice") && warnings.contains(":2 in section"),
        "{warnings}"
    );
    let sample = Sample::new("[global:archive-psuh]\nprocess-max=2\n");
    let warnings = sample.load(&["verify"]).unwrap().warnings().join("\n");
    assert!(warnings.contains("did you mean 'archive-push'?"), "{warnings}");
}

#[test]
fn a_file_with_a_secret_that_everybody_may_read_is_refused() {
    let text = "[global]\nrepo1-path=/r\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=secret\n";
    let sample = Sample::new(text);
    let load = || sample.load(&["--repo=1", "repo-check"]);
    load().unwrap();
    sample.set_mode(0o644);
    let refused = load().err().unwrap();
    assert_eq!(refused.code, ExitCode::Config);
    let said = refused.to_string();
    assert!(
        said.contains("everybody may read it") && !said.contains("secret\n"),
        "{said}"
    );
    // Without a secret anybody may read it.
    sample.rewrite("[global]\nrepo1-path=/r\n");
    sample.set_mode(0o644);
    load().unwrap();
}
