//! SIGTERM and SIGINT: the first asks for a stop, the second ends the process at once.
//!
//! Not for other signals: they do what they always do.
//! Invariant: a signal that came before anybody waited is not lost.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The signals, from now on.
#[derive(Debug)]
pub struct Signals {
    told: Arc<AtomicBool>,
    wake: UnixStream,
}

impl Signals {
    /// Takes them over. `impatient` is the exit code of the process at the second signal; the kernel then takes back
    /// whatever was held.
    ///
    /// # Errors
    /// What the kernel says (no descriptors left).
    pub fn catch(impatient: u8) -> io::Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        let (wake, sender) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            use signal_hook::{flag, low_level::pipe};
            // In this order: at the first signal the flag is not yet set when it is asked.
            flag::register_conditional_shutdown(signal, i32::from(impatient), Arc::clone(&told))?;
            flag::register(signal, Arc::clone(&told))?;
            pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { told, wake })
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Waits for a signal, at most for `timeout`. Returns whether a stop was asked for.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        if !self.told() {
            let timeout = Timespec::try_from(timeout).ok();
            // Interrupted, or timed out, or told: the flag says which.
            let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], timeout.as_ref());
            let _ = self.wake.read(&mut [0; 16]);
        }
        self.told()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_first_signal_asks_for_a_stop() {
        let mut signals = Signals::catch(1).unwrap();
        let before = Instant::now();
        assert!(!signals.wait(Duration::from_millis(20)));
        assert!(before.elapsed() >= Duration::from_millis(20));
        signal_hook::low_level::raise(SIGTERM).unwrap();
        // Far longer than any scheduler: only a lost signal takes so long.
        assert!(signals.wait(Duration::from_secs(600)));
        assert!(signals.told() && signals.wait(Duration::from_secs(600)));
    }
}
