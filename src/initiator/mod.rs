//! An AoE client of our own in user space: discover, load and verify, probe a path.
//!
//! Not a block device: it is the tool an administrator measures and debugs a target with, and the load generator
//! of our own tests. Invariant: `wire`, `session`, `identify`, `pattern`, `ledger` and `load` are pure (time and
//! frames are passed in); only `socket` touches the kernel, and nothing but it says `unsafe`.
#![deny(unsafe_code)]

pub mod contact;
pub mod discover;
mod error;
pub mod identify;
pub mod ledger;
pub mod load;
pub mod pattern;
pub mod report;
pub mod session;
pub mod socket;
pub mod wire;

pub use discover::Args as DiscoverArgs;
pub use error::Error;

use std::time::Duration;

/// Reads a time: a number of seconds, or one with `s` or `ms` behind it.
fn seconds(text: &str) -> Result<Duration, String> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 0.001),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, 1.0),
    };
    let value: f64 = number.trim().parse().map_err(|_| "write a time as 2, 0.5, 2s or 300ms".to_owned())?;
    let time =
        Duration::try_from_secs_f64(value * unit).map_err(|_| "not a time anybody can wait".to_owned())?;
    if time < Duration::from_millis(1) || time > Duration::from_secs(7 * 24 * 3600) {
        return Err("between 1ms and a week".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        for (text, ms) in [("1", 1000), ("0.5", 500), ("2s", 2000), ("300ms", 300), ("1.5s", 1500)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "x", "-1", "0", "nan", "inf", "1h", "99999999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
