//! glibc's allocator, held to the memory that is in use.
//!
//! Buffers of some MiB are made by one thread and freed by another. glibc takes them from arenas, one for each thread,
//! raises the size from which it asks the system to the largest that was ever freed, and keeps twice that in every
//! arena: eight pushes of 16 MiB took a node 500 MiB where 200 are in use (invariant 11). Without those two habits it
//! gives back each buffer of a chunk as soon as it is free, and the system clears the pages of the next one. Three
//! settings prevent all that. glibc reads them from the environment when a program starts, and in no other way that
//! safe code can reach, so the program starts itself again.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Few arenas: threads share what is free. Large buffers come from the system and go back to it at once; those of a
/// chunk (1 MiB) do not, nor does what some dozens of them leave free, since clearing pages costs time.
const SETTINGS: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "4"),
    ("MALLOC_MMAP_THRESHOLD_", "4194304"),
    ("MALLOC_TRIM_THRESHOLD_", "33554432"),
];

/// Replaces this process by the same program with the settings, where the environment has none of them: whoever sets
/// one wants it otherwise. Does nothing where that is not possible: more memory is needed then, and no more is wrong.
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
    // Comes back only when it fails.
    let error = command.args(arguments).envs(SETTINGS).exec();
    tracing::debug!(%error, "the allocator's settings could not be made");
}
