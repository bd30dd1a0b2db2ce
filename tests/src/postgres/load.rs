//! Traffic on a cluster.

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

    /// Makes a table of about so many mebibytes that compress to half, and no further.
    pub fn make_noise(&self, mebibytes: u32) {
        // A row has 256 bytes of digits and about 40 of its own.
        let rows = mebibytes * (1 << 20) / 296;
        self.query(&format!(
            "create table noise as select number, part.text from generate_series(1, {rows}) as number, lateral \
             (select string_agg(md5(number || '.' || piece), '') as text from generate_series(1, 8) as piece) as part"
        ));
        self.query("checkpoint");
    }

    /// Starts `clients` that run about `rate` transactions a second together: steady traffic that leaves the machine
    /// time for what is tested.
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
    /// When it had ended before: then the test had not the traffic it wanted.
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
