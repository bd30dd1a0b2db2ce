//! Disks that are soon full, and slow disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::account::Account;
use crate::outcome::run;
use crate::process::Process;
use crate::wait::wait_for;

/// A small file system in memory, mounted on a folder; unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of `mebibytes` on a folder, which it creates. `None` if the tests may not mount file
    /// systems.
    #[must_use]
    pub fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        let account = Account::current();
        account.create_folder(path);
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={mebibytes}m"))
            .arg("tmpfs")
            .arg(path);
        if run(command).code() != Some(0) {
            return None;
        }
        let disk = Self { path: path.to_owned() };
        account.create_folder(path);
        Some(disk)
    }
}

/// Makes each sync of a process take longer, until it is dropped.
#[derive(Debug)]
pub struct SlowDisk {
    tracer: Child,
}

impl SlowDisk {
    /// Slows down the disk of a running process.
    ///
    /// # Panics
    /// If there is no strace, or it may not trace the process.
    #[must_use]
    pub fn of(process: &Process, delay: Duration) -> Self {
        let micros = delay.as_micros();
        let mut tracer = Command::new("strace");
        tracer
            .args(["--follow-forks", "--quiet=attach,exit", "--trace=fsync,fdatasync"])
            .arg(format!("--inject=fsync,fdatasync:delay_exit={micros}"))
            .args(["--output=/dev/null", "--attach"])
            .arg(process.id().to_string());
        let mut tracer = tracer.spawn().expect("this test needs strace (apt-get install strace)");
        let traced = format!("/proc/{}/status", process.id());
        wait_for("strace to be attached", Duration::from_secs(20), || {
            assert!(
                tracer.try_wait().expect("asking for strace").is_none(),
                "strace has ended"
            );
            let status = fs::read_to_string(&traced).unwrap_or_default();
            status
                .lines()
                .any(|line| line == format!("TracerPid:\t{}", tracer.id()))
        });
        Self { tracer }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // strace lets go of the process, and ends.
        let pid = rustix::process::Pid::from_child(&self.tracer);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.tracer.wait();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        // Lazy: a program that still has a file open there does not keep it mounted.
        command.arg("--lazy").arg(&self.path);
        let _ = run(command);
    }
}
