//! The appliance: configuration, checks, start and stop.
//!
//! Not here: anything a single frame goes through. It names every other module, and none names it.
//! Invariant: what was started is stopped, in reverse order, whatever failed in between.

pub mod check;
pub mod config;
pub mod log;
pub mod topology;

use std::io::{self, Read};
use std::path::Path;

/// Most bytes of a configuration file; a full set of 65,000 slots takes less.
const CONFIG_BYTES: u64 = 16 << 20;

/// Reads a configuration file.
///
/// # Errors
/// What the kernel says, and a file that is no configuration because of its size.
fn read_config(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a configuration"));
    }
    Ok(bytes)
}
