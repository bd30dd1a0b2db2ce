//! Waiting for conditions.

use std::thread;
use std::time::{Duration, Instant};

/// Checks again and again, 20 ms apart, until `condition` holds.
///
/// # Panics
/// If it does not hold within `limit`: the message names `what` was waited for.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for_some(what, limit, || if condition() { Ok(()) } else { Err(String::new()) });
}

/// Asks again and again, 20 ms apart, until there is an answer.
///
/// # Panics
/// If there is no answer within `limit`: the message names `what` was waited for, and the last error.
pub fn wait_for_some<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(matter) => assert!(
                began.elapsed() < limit,
                "waited {} s in vain for {what} {matter}",
                limit.as_secs()
            ),
        }
        thread::sleep(Duration::from_millis(20));
    }
}
