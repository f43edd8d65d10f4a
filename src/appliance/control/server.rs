//! The listening end of the control socket: one thread, one connection after the other, one request each.
//!
//! Not here: what is answered (`overview`), or carrying out orders (`serve`).
//! Invariant: only the owner of the process can connect; a request has at most [`REQUEST`] bytes and its sender
//! [`PATIENCE`]; the socket file is removed at the end if it is still ours.

use super::overview::Overview;
use super::{Answer, Order, Request};
use crate::protocol::Address;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most bytes of a request.
pub const REQUEST: usize = 4096;
/// How long a client has for its request, and to take its answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long an order may take: the appliance looks for orders once in a round, which a busy machine delays.
const ORDER: Duration = Duration::from_secs(10);

/// How long its answer may take once it is looked at.
const GRACE: Duration = Duration::from_secs(3);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A running shelf has it.
    #[error(
        "another xshelf listens on the control socket {}; give this one a path of its own with --control PATH, or \
         control-socket in the configuration",
        .0.display()
    )]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} is there already and no socket; remove it, or name another path with --control", .0.display())]
    NoSocket(PathBuf),
    /// The kernel refused.
    #[error("cannot listen on the control socket {}: {source}; name another path with --control, or none", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The socket, before anybody is answered: who connects waits. Dropping it removes the socket.
#[derive(Debug)]
pub struct Claimed {
    listener: UnixListener,
    file: SocketFile,
}

impl Claimed {
    /// Makes the socket at `path`; one that a dead process left is replaced.
    ///
    /// # Errors
    /// [`ServerError`]
    pub fn new(path: &Path) -> Result<Self, ServerError> {
        let listener = claim(path)?;
        let identity =
            identity(path).map_err(|source| ServerError::Io { path: path.to_path_buf(), source })?;
        Ok(Self { listener, file: SocketFile { path: path.to_path_buf(), identity } })
    }
}

/// The file of a socket of ours, which ends with this.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // It is gone when somebody else was faster.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The thread, while it runs. Dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub struct Server {
    /// Taken when it ends.
    file: Option<SocketFile>,
    shown: Shown,
    /// Taken when it ends.
    orders: Option<Receiver<Order>>,
    /// The thread ends when it is dropped.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers from `overview`.
    ///
    /// # Errors
    /// [`ServerError::Io`]
    pub fn start(claimed: Claimed, overview: Arc<Overview>) -> Result<Self, ServerError> {
        let Claimed { listener, file } = claimed;
        let failed = |source| ServerError::Io { path: file.path.clone(), source };
        let (wake, ended) = UnixStream::pair().map_err(failed)?;
        let (sender, orders) = channel();
        let shown = Arc::new(Mutex::new(overview));
        let service = Service { shown: Arc::clone(&shown), orders: sender };
        let thread = std::thread::Builder::new()
            .name("xshelf-control".into())
            .spawn(move || service.run(&listener, &ended))
            .map_err(failed)?;
        Ok(Self { file: Some(file), shown, orders: Some(orders), wake: Some(wake), thread: Some(thread) })
    }

    /// Answers from this from now on.
    pub fn show(&self, overview: &Arc<Overview>) {
        let mut shown = lock(&self.shown);
        if !Arc::ptr_eq(&shown, overview) {
            *shown = Arc::clone(overview);
        }
    }

    /// The next order that somebody gave and still waits for, if there is one.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        self.orders.as_ref()?.try_iter().find(|order| Instant::now() < order.until)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // First, so that nobody connects to one that is about to end.
        drop(self.file.take());
        drop(self.wake.take());
        // Nobody carries out what was ordered last; whoever waits for it hears that at once.
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // It answers its client first, which is bounded. It does not panic.
            let _ = thread.join();
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Makes the socket; one that a dead process left is replaced.
fn claim(path: &Path) -> Result<UnixListener, ServerError> {
    let failed = |source| ServerError::Io { path: path.to_path_buf(), source };
    // Of the usual place only: what else is missing was not meant.
    if let Some(directory) = path.parent().filter(|directory| *directory == Path::new(super::DIRECTORY)) {
        match std::fs::DirBuilder::new().mode(0o755).create(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
    }
    match bound(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        done => return done.map_err(failed),
    }
    let found = std::fs::symlink_metadata(path).map_err(failed)?;
    if !found.file_type().is_socket() {
        return Err(ServerError::NoSocket(path.to_path_buf()));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(e) => return Err(failed(e)),
        Ok(_) => return Err(ServerError::Taken(path.to_path_buf())),
    }
    std::fs::remove_file(path).map_err(failed)?;
    bound(path).map_err(failed)
}

/// A listening socket that only its owner may connect to.
fn bound(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Before it has a name: the name gets the mode of the socket (net/unix/af_unix.c, unix_bind_bsd), and there is no
    // moment at which somebody else could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 8)?;
    Ok(UnixListener::from(socket))
}

/// What is answered from.
type Shown = Arc<Mutex<Arc<Overview>>>;

fn lock(shown: &Mutex<Arc<Overview>>) -> MutexGuard<'_, Arc<Overview>> {
    // What is in it is whole at any moment.
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Service {
    shown: Shown,
    orders: Sender<Order>,
}

impl Service {
    fn run(&self, listener: &UnixListener, ended: &UnixStream) {
        loop {
            let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
            if poll(&mut ready, None).is_err_and(|e| e != rustix::io::Errno::INTR) {
                return;
            }
            if !ready[1].revents().is_empty() {
                return;
            }
            if ready[0].revents().is_empty() {
                continue;
            }
            match listener.accept() {
                Ok((client, _)) => {
                    if let Err(e) = self.serve(client) {
                        tracing::debug!("a client of the control socket: {e}");
                    }
                }
                Err(e) => {
                    tracing::debug!("the control socket: {e}");
                    // No descriptor left, most likely: not again at once.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        client.set_write_timeout(Some(PATIENCE))?;
        let answer = match line(&mut client)? {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(request) => self.answer(request),
                Err(e) => Answer::Refused { text: format!("this is no request: {e}") },
            },
            Err(text) => Answer::Refused { text },
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        client.write_all(&text)
    }

    fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Status => {
                let overview = Arc::clone(&lock(&self.shown));
                Answer::Status(Box::new(overview.report()))
            }
            Request::Recover { slot } => {
                let Ok(slot) = slot.parse::<Address>() else {
                    return Answer::Refused { text: format!("{slot:?} is no address of a slot; write 7.0") };
                };
                let (reply, answered) = sync_channel(1);
                let refused = |text: &str| Answer::Refused { text: text.to_owned() };
                let until = Instant::now() + ORDER;
                if self.orders.send(Order { slot, until, reply }).is_err() {
                    return refused("xshelf is just stopping");
                }
                // A little longer, for what was begun in the last moment.
                answered.recv_timeout(ORDER + GRACE).unwrap_or_else(|e| match e {
                    RecvTimeoutError::Disconnected => {
                        refused("xshelf is just stopping, or starting again; ask once more")
                    }
                    RecvTimeoutError::Timeout => {
                        refused("xshelf is busy, and has done nothing; ask once more")
                    }
                })
            }
        }
    }
}

/// One line, or what is wrong with what came instead.
fn line(client: &mut UnixStream) -> io::Result<Result<Vec<u8>, String>> {
    let until = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        let n = match client.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            n => n?,
        };
        text.extend_from_slice(&buffer[..n]);
        if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            text.truncate(end);
            return Ok(Ok(text));
        }
        if text.len() > REQUEST {
            return Ok(Err(format!("a request has at most {REQUEST} bytes")));
        }
        if n == 0 {
            return Ok(Err("a request ends with a line feed".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
