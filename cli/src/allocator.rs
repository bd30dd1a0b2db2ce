//! Settings of glibc's allocator that keep the process near the memory that it uses.
//!
//! One thread makes a buffer of some MiB and another frees it. glibc takes such buffers from arenas, one for each
//! thread. It raises the size from which it asks the system to the largest buffer that was ever freed, and keeps twice
//! that size in every arena: eight pushes of 16 MiB took a node 500 MiB where 200 are in use (invariant 11). Without
//! those two habits, glibc gives back each buffer of a chunk as soon as it is free, and the system clears the pages of
//! the next one. Three settings prevent both. glibc reads them from the environment when a program starts, and safe
//! code can reach them in no other way, so the program starts itself again.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Few arenas, so that threads share free memory. Buffers of 4 MiB and more come from the system and go back to it at
/// once. Buffers of a chunk (1 MiB) come from the arenas, which keep up to 32 MiB of free memory, since clearing pages
/// costs time.
const SETTINGS: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "4"),
    ("MALLOC_MMAP_THRESHOLD_", "4194304"),
    ("MALLOC_TRIM_THRESHOLD_", "33554432"),
];

/// Replaces this process by the same program with the settings. If the environment has one of them already, the user
/// wants other values, and nothing is done. If the program cannot be started again, this process goes on: it needs more
/// memory, and nothing else changes.
pub fn bound_memory() {
    if SETTINGS.iter().any(|(name, _)| env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // `exec` returns only when it fails.
    let error = command.args(arguments).envs(SETTINGS).exec();
    tracing::debug!(%error, "the allocator's settings could not be made");
}
