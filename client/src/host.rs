//! This machine's name.

/// The machine's own name; `None` where it has no name.
pub fn name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The same, in words for people: the holder of a lock, the host that stopped a stanza.
pub fn name_for_people() -> String {
    name().unwrap_or_else(|| "a PostgreSQL host".to_owned())
}

/// This process, in words for people: the holder of a session.
pub fn this_process() -> String {
    format!("process {} on {}", std::process::id(), name_for_people())
}
