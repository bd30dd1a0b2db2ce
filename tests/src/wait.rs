//! Waiting for conditions.

use std::thread;
use std::time::{Duration, Instant};

/// Asks again and again, 20 ms apart, until `condition` holds.
///
/// # Panics
/// When it does not within `limit`: the message names `what` was waited for.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < limit,
            "waited {} s in vain for {what}",
            limit.as_secs()
        );
        thread::sleep(Duration::from_millis(20));
    }
}
