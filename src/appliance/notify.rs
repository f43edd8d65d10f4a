//! What systemd is told: ready, stopping, a status line, and that we are alive (sd_notify(3)).
//!
//! Not here: deciding whether we are alive (`serve`).
//! Invariant: nothing is sent where nobody asked; a failure to send changes nothing, and nor does a service manager that
//! reads nothing.

use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long the service manager may take to make room for a message. Its queue is short (net.unix.max_dgram_qlen), and
/// whoever waited for it without end could neither watch over the slots nor stop.
const PATIENCE: Duration = Duration::from_millis(500);

fn send(states: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send_to(&socket, states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}

fn send_to(socket: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(message.as_bytes(), &address).map(|_| ())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives_and_a_manager_that_reads_nothing_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let tell = || send_to(path.as_os_str(), &[NotifyState::Ready, NotifyState::Status("7.0 serves")]);
        tell().unwrap();
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=7.0 serves\n");
        // In a thread of its own, for without a bound it never ends.
        let (full, refused) = std::sync::mpsc::channel();
        let socket = path.clone();
        std::thread::spawn(move || {
            let error = (0..).find_map(|_| send_to(socket.as_os_str(), &[NotifyState::Ready]).err());
            let _ = full.send(error.unwrap().kind());
        });
        let refused =
            refused.recv_timeout(Duration::from_secs(60)).expect("a message is not waited for without end");
        assert_eq!(refused, io::ErrorKind::WouldBlock);
        // Room again, and it is told again.
        manager.recv(&mut buffer).unwrap();
        tell().unwrap();
    }

    #[test]
    fn a_name_without_a_path_is_a_name_of_the_kernel() {
        let name = format!("xshelf-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send_to(format!("@{name}").as_ref(), &[NotifyState::Stopping]).unwrap();
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1\n");
    }
}
