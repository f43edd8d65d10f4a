//! An AoE client of our own in user space: discover, load and verify, probe a path.
//!
//! Not a block device: it is the tool an administrator measures and debugs a target with, and the load generator
//! of our own tests. Invariant: `wire`, `session`, `identify`, `pattern`, `ledger` and `load` are pure (time and
//! frames are passed in); only `socket` touches the kernel, and nothing but it says `unsafe`.
#![deny(unsafe_code)]

pub mod bench;
pub mod contact;
pub mod discover;
mod error;
pub mod identify;
pub mod ledger;
pub mod load;
pub mod pattern;
pub mod probe;
pub mod report;
pub mod session;
pub mod socket;
pub mod wire;

pub use bench::Args as BenchArgs;
pub use discover::Args as DiscoverArgs;
pub use error::Error;
pub use probe::Args as ProbeArgs;

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

/// Reads a size: a number of bytes, or one with `K`, `M`, `G` or `T` behind it (powers of 1024).
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err("write a size as 65536, 64K, 64M or 1G".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "write a size as 65536, 64K, 64M or 1G".to_owned())?;
    number.checked_mul(unit).filter(|&n| n >= 512).ok_or_else(|| "between 512 bytes and 16 EiB".to_owned())
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

    #[test]
    fn sizes_take_units_of_1024() {
        for (text, want) in
            [("512", 512), ("64K", 65536), ("64M", 64 << 20), ("1GiB", 1 << 30), ("2tb", 2 << 40)]
        {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for bad in ["", "M", "1X", "1.5G", "-1", "511", "99999999999T", "1 G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_help_fits_a_narrow_terminal() {
        use clap::Args;
        for (name, command) in [
            ("discover", discover::Args::augment_args(clap::Command::new("discover"))),
            ("bench", bench::Args::augment_args(clap::Command::new("bench"))),
            ("probe", probe::Args::augment_args(clap::Command::new("probe"))),
        ] {
            let text = command.get_after_help().unwrap().to_string();
            for line in text.lines() {
                assert!(line.chars().count() < 80, "{name}: {line}");
            }
            for word in ["Examples:", "Exit codes:", "CAP_NET_RAW"] {
                assert!(text.contains(word), "{name} says nothing of {word}");
            }
        }
    }
}
