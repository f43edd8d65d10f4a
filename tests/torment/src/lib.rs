//! What the tests torment xshelf with: a client that remembers every acknowledgement across deaths of the target, two
//! network namespaces with a cable between them, and an xshelf to kill.
//!
//! Not here: what is done to it (`tests/powercut` and others), or disks that fail (`tests/faultdisk`).
//! Invariant: the client accepts of a sector only what was acknowledged last, or what was in flight behind that when the
//! target was lost; it never forgets an acknowledgement.
//!
//! ```no_run
//! # use xshelf_torment::{Cable, Client, End, INITIATOR, Lab, Options, Shelf};
//! # use std::time::Duration;
//! let lab = Lab::new("example", Cable::default()).expect("root");
//! let image = lab.image("disk", 4 << 20);
//! let arguments = [format!("7.0={}", image.display())];
//! let mut shelf = Shelf::start(&lab, "/tmp/xshelf".as_ref(), &arguments);
//! let addresses = ["7.0".parse().unwrap()];
//! let mut client = lab.within(End::Initiator, move || Client::new(INITIATOR, &addresses, Options::default())).unwrap();
//! client.run_for(Duration::from_secs(1)).unwrap();
//! shelf.kill(); // what is in flight is sent again until the next one answers
//! shelf = Shelf::start(&lab, "/tmp/xshelf".as_ref(), &arguments);
//! client.run_for(Duration::from_secs(1)).unwrap();
//! let report = client.check_all().unwrap();
//! assert!(report.is_clean(), "{report}");
//! shelf.stop();
//! ```

mod client;
mod disk;
mod history;
mod lab;
mod shelf;

pub use client::{Client, Options, Report, Tally};
pub use disk::{FaultDisk, Loop};
pub use history::{Finding, Slot, Wrong};
pub use lab::{Cable, End, INITIATOR, Lab, TARGET, WIRE};
pub use shelf::Shelf;

/// A program of this workspace: what an environment variable says, or the one that was built with this program.
///
/// # Panics
/// When this program has no path.
#[must_use]
pub fn program(name: &str, variable: &str) -> std::path::PathBuf {
    std::env::var_os(variable).map_or_else(
        || {
            // target/debug/NAME, or target/debug/deps/NAME-HASH for a test.
            let own = std::env::current_exe().unwrap();
            let beside = own.with_file_name(name);
            if beside.exists() { beside } else { own.ancestors().nth(2).unwrap().join(name) }
        },
        Into::into,
    )
}
