//! What systemd is told: ready, stopping, a status line, and that we are alive (sd_notify(3)).
//!
//! Not here: deciding whether we are alive (`serve`).
//! Invariant: nothing is sent where nobody asked, and a failure to send changes nothing.

use sd_notify::NotifyState;
use std::time::Duration;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}

/// Serving has begun.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What is to be known has changed.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The end has begun.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// We are alive.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] has to be said, if at all: twice as often as systemd looks.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    Some(sd_notify::watchdog_enabled()? / 2)
}
