//! Traffic on a cluster.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::outcome::run;
use crate::postgres::Postgres;
use crate::process::Process;

/// pgbench, running until this value is dropped.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Postgres {
    /// Makes pgbench's tables, about 15 MiB for each unit of `scale`.
    pub fn make_accounts(&self, scale: u32) {
        let mut command = self.program("pgbench");
        command.args(["--initialize", "--quiet", "--scale", &scale.to_string()]);
        run(command).succeeds();
    }

    /// Makes a table of about so many mebibytes that compress to half their size, and no further.
    pub fn make_noise(&self, mebibytes: u32) {
        // A row has 256 bytes of digits and about 40 of its own.
        let rows = mebibytes * (1 << 20) / 296;
        self.query(&format!(
            "create table noise as select number, part.text from generate_series(1, {rows}) as number, lateral \
             (select string_agg(md5(number || '.' || piece), '') as text from generate_series(1, 8) as piece) as part"
        ));
        self.query("checkpoint");
    }

    /// Makes files like those of a database with many small relations: most are empty, and one in fifty has the size of
    /// a page. These lie beside each other, so that they share chunks. PostgreSQL does not know of the files.
    ///
    /// # Panics
    /// If a file cannot be made.
    pub fn make_files(&self, files: u32) {
        let folder = self.default_database();
        for number in 0..files {
            let path = folder.join((100_000_000 + number).to_string());
            let words = if number % 1000 < 20 { 2048 } else { 0 };
            self.account().write(&path, number.to_le_bytes().repeat(words));
        }
        // Synced now, or the next checkpoint would wait for all of them.
        let folder = File::open(&folder).expect("opening the database's directory");
        rustix::fs::syncfs(folder).expect("syncing the files");
    }

    /// The directory of the database `postgres`, which initdb makes after the templates.
    ///
    /// # Panics
    /// If there is no data directory.
    #[must_use]
    pub fn default_database(&self) -> PathBuf {
        let folders = fs::read_dir(self.data().join("base")).expect("reading the directory of databases");
        let oid = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        let paths = folders.map(|folder| folder.expect("reading the directory of databases").path());
        paths.max_by_key(oid).expect("a database")
    }

    /// Starts `clients` that together run about `rate` transactions a second: steady traffic that leaves the machine
    /// time for the test.
    #[must_use]
    pub fn load(&self, clients: u32, rate: u32) -> Load {
        let mut command = self.program("pgbench");
        command.args(["--no-vacuum", "--time", "3600"]).args([
            "--client",
            &clients.to_string(),
            "--rate",
            &rate.to_string(),
        ]);
        Load {
            process: Process::start("pgbench", command, &self.home.join("pgbench.log")),
        }
    }
}

impl Load {
    /// Ends it.
    ///
    /// # Panics
    /// If pgbench had ended before: then the test had less traffic than it wanted.
    pub fn stop(mut self) {
        let ended = self.process.ended();
        assert!(ended.is_none(), "pgbench ended early:\n{}", self.process.log());
        self.process.kill();
    }

    /// Leaves it running when this value is dropped.
    pub fn keep(&mut self) {
        self.process.keep();
    }
}
