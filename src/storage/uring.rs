//! Storage by io_uring: one ring for one worker, which also is where that worker sleeps.
//!
//! Not here: opening and measuring files (`device`), sockets (only watched), ATA. Not movable to another thread:
//! the ring is made for the thread that made it.
//! Invariant: the kernel works only on memory whose token lies in the table of jobs, or on a bounce buffer that such a job
//! holds, and both are given up only with the kernel's last word on that job.
//!
//! Units. A device that is read and written in units of more than a sector (`O_DIRECT` on 4Kn disks) is served past the page
//! cache all the same: a job that is not made of whole units goes by a bounce buffer. A read fetches the units around its
//! bytes; a write fetches them, puts its bytes in, and writes the units back, durably where writes are. Whoever submits
//! sees to it that no two jobs that change the same unit are in flight together (`shelf::Order` does). When the power fails
//! in between, of a unit there is either the old or the new, as the device promises for its own blocks: sectors beside the
//! job's bytes are in both as they were.
//!
//! Threads. What blocks runs in threads of the kernel that are all this ring's together. A file gets some of them, but never
//! the last one of another file (`share`); what is beyond waits here. A transfer that need not block needs none: it is
//! tried with RWF_NOWAIT, and waits for a thread only when the kernel says that it would block. Of files, whose file systems
//! do not keep to that, only the first few are tried.
#![allow(unsafe_code)]

mod bounce;
mod share;
mod units;

use self::bounce::Bounces;
use self::share::Share;
use self::units::{BOUNCE, Span};
use super::device::{Access, Alignment, Backing, Device, Durability};
use super::{Done, Failure, FileId, Job, Sleep, Storage, Ticket, Verb, Woken};
use crate::frame::{Buffer, Chunk, Region};
use crate::limits;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Times one job is handed to the kernel again, after EAGAIN, EINTR or a part of its bytes.
const TRIES: u8 = 32;
/// How long the kernel is given to let go of memory or a descriptor.
const DRAIN: Duration = Duration::from_secs(2);
/// How often it is asked at least: after a pause of the whole machine the time is up before anything was tried.
const ASKS: u32 = 20;
/// Completions looked at in one go.
const BATCH: usize = 64;
/// Transfers of files that may be in flight, of all files with a disk together, for the next one to be tried without a
/// thread. File systems do not pass RWF_NOWAIT on to the disk (fs/iomap/direct-io.c), so that whoever submits waits when
/// its queue is full, for ever if it hangs: so fewer than any queue takes (`nr_requests`; SATA without a scheduler has 32).
const INLINE: u32 = 16;

static ABANDONED: AtomicU64 = AtomicU64::new(0);

/// Buffers that the kernel still owned when their storage was dropped, since the process started. Their memory is
/// never given out again. Anything but 0 names a device that hung during a stop.
#[must_use]
pub fn abandoned() -> u64 {
    ABANDONED.load(Ordering::Relaxed)
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The sysctl forbids io_uring.
    #[error(
        "io_uring is switched off here (kernel.io_uring_disabled = {value}); allow it with \
         `sysctl kernel.io_uring_disabled=0`{}",
        if *.value == 1 { ", or run in the group of kernel.io_uring_group" } else { "" }
    )]
    Disabled {
        /// The sysctl's value.
        value: u8,
    },
    /// Something else forbids it.
    #[error(
        "this process may not use io_uring ({source}): a seccomp filter or container profile forbids it; \
         allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Denied {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has none that serves.
    #[error("the kernel's io_uring lacks {what} ({source}); Linux 6.1 or newer is needed")]
    TooOld {
        /// What is missing.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory could not be locked.
    #[error(
        "cannot lock {bytes} bytes of memory for io_uring: the limit (RLIMIT_MEMLOCK) is {limit}; set \
         LimitMEMLOCK=infinity in the systemd unit, raise `ulimit -l`, or give CAP_IPC_LOCK"
    )]
    Memlock {
        /// What was to be locked.
        bytes: usize,
        /// The limit in bytes, or the word for none.
        limit: String,
    },
    /// No descriptor is left, or the table of files is full.
    #[error(
        "{files} files are more than this process may register (RLIMIT_NOFILE, at most {}); raise LimitNOFILE \
        or serve fewer slots",
        limits::FILES
    )]
    Files {
        /// How many there would be.
        files: usize,
    },
    /// The kernel refused for another reason.
    #[error("io_uring cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a file was not added or removed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The table is full.
    #[error("no more than {0} files can be open in one worker; use more workers or fewer slots")]
    Full(usize),
    /// Jobs of the file are in flight.
    #[error("{0} requests of the file are in flight; wait for them")]
    Busy(u32),
    /// There is no such file.
    #[error("there is no such file")]
    Unknown,
    /// The kernel refused.
    #[error("io_uring cannot change its table of files: {0}")]
    Io(#[source] io::Error),
}

/// What the ring did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of io_uring_enter, sleeps included.
    pub enters: u64,
    /// Calls of io_uring_enter that were allowed to block.
    pub sleeps: u64,
    /// Reads of event counters.
    pub drains: u64,
    /// Jobs handed to the kernel.
    pub started: u64,
    /// Jobs that ended, by the kernel or by us.
    pub ended: u64,
    /// Jobs handed to the kernel again after EAGAIN or EINTR.
    pub retried: u64,
    /// Jobs handed to the kernel again for the rest of their bytes.
    pub continued: u64,
    /// Jobs that went by a bounce buffer.
    pub bounced: u64,
    /// Times a job waited, for a kernel thread or a bounce buffer.
    pub waited: u64,
    /// Transfers that the kernel would not do at once, and that were given a thread for it.
    pub blocking: u64,
    /// Jobs refused because they did not have the alignment of their file, or because another one was changing the same
    /// unit. Anything but 0 is a defect.
    pub misaligned: u64,
    /// Watches armed again because the kernel had given them up.
    pub rearmed: u64,
    /// Watches that the kernel refused.
    pub deaf: u64,
    /// Completions that belong to nothing. Anything but 0 is a defect.
    pub stray: u64,
    /// Calls of io_uring_enter that a signal ended.
    pub interrupted: u64,
    /// Failed calls of io_uring_enter, other than for a signal or a timeout.
    pub errors: u64,
    /// The errno of the last of those; 0 for none.
    pub last_error: i32,
}

impl Stats {
    /// System calls made since the ring is up.
    #[must_use]
    pub fn syscalls(&self) -> u64 {
        self.enters + self.drains
    }
}

/// What of a job is on its way to the kernel: one thing at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// The job itself, and with its own memory if it has any.
    #[default]
    Whole,
    /// The units around some of its bytes, into its bounce buffer.
    Load,
    /// Those units out of its bounce buffer, with its bytes in them.
    Store,
    /// The whole units of what is discarded.
    Punch,
    /// The flush that makes a discard durable.
    Flush,
}

/// One place of the table of jobs.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    job: Option<Job>,
    step: Step,
    /// The bytes of the file that the step is about.
    span: Span,
    /// Bytes of the step transferred so far.
    moved: u32,
    tries: u8,
    bounce: Option<u16>,
    /// Pieces of a discard that are done, of those that [`Span::cut`] makes.
    pieces: u8,
    /// The kernel was told not to block.
    nowait: bool,
    /// It would have to, so the step needs a thread.
    blocks: bool,
    /// The job counts among those that may have a thread.
    threaded: bool,
    /// The job counts among those of files that have a disk.
    counted: bool,
}

impl Slot {
    /// The next step is this, about these bytes.
    fn take(&mut self, step: Step, span: Span) {
        (self.step, self.span) = (step, span);
        (self.moved, self.tries, self.nowait, self.blocks) = (0, 0, false, false);
    }
}

/// How a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// There is nothing to do.
    Nothing,
    /// With its own memory.
    Straight,
    /// By a bounce buffer.
    Bounced,
}

/// How transfers of a file come to their threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// They seldom need one: they are tried without first.
    Seldom,
    /// They often do, so as long as the file may have one, the kernel may use it.
    Often,
    /// They often do, and there is no disk that they could wait for.
    Memory,
    /// The file cannot do without (RWF_NOWAIT is refused).
    Always,
}

impl Manner {
    /// Direct transfers of a block device block only when its queue is full. Those of a file do at every hole, and when the
    /// time of its last change has to be written.
    fn of(device: &Device) -> Self {
        match (device.backing(), device.access()) {
            (Backing::Block, Access::Direct(_)) => Self::Seldom,
            _ if device.durability() == Durability::Ram => Self::Memory,
            _ => Self::Often,
        }
    }
}

#[derive(Debug)]
struct Watch {
    key: u16,
    /// Our own descriptor, so that arming again cannot meet another file under the same number.
    file: OwnedFd,
    generation: u32,
    /// Whether the counter of an eventfd must be read.
    counter: bool,
    /// Whether the kernel has a poll for it.
    armed: bool,
    ready: bool,
}

/// A completion's address: kind (2 bits), generation (30), index (32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Job { index: u32, generation: u32 },
    Watch { index: u32, generation: u32 },
    Cancel,
}

const GENERATIONS: u32 = (1 << 30) - 1;

impl Name {
    fn pack(self) -> u64 {
        let pack = |kind: u64, index: u32, generation: u32| {
            kind << 62 | u64::from(generation & GENERATIONS) << 32 | u64::from(index)
        };
        match self {
            Self::Job { index, generation } => pack(0, index, generation),
            Self::Watch { index, generation } => pack(1, index, generation),
            Self::Cancel => pack(2, 0, 0),
        }
    }

    fn unpack(data: u64) -> Option<Self> {
        // Both halves are cut to size on purpose.
        let (index, generation) = (data as u32, (data >> 32) as u32 & GENERATIONS);
        match data >> 62 {
            0 => Some(Self::Job { index, generation }),
            1 => Some(Self::Watch { index, generation }),
            2 => Some(Self::Cancel),
            _ => None,
        }
    }
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_usec: u32,
    timeout: u64,
}

/// What became of a call of io_uring_enter.
enum Entered {
    Done,
    TimedOut,
    Interrupted,
    Failed,
}

/// What to do with a job after a completion.
enum Next {
    End(Result<(), Failure>),
    Again,
}

/// [`Storage`] by io_uring.
pub struct UringStorage {
    ring: IoUring,
    /// What io_uring_enter is called with: a registered index, or the descriptor.
    enter: (RawFd, u32),
    region: Arc<Region>,
    files: Box<[Option<Device>]>,
    manners: Box<[Manner]>,
    /// Jobs in flight of each file.
    busy: Box<[u32]>,
    /// Of these, transfers of files that have a disk, of all files together.
    transfers: u32,
    /// Who may have a kernel thread.
    threads: Share,
    bounces: Bounces,
    /// Who may have a bounce buffer.
    bouncing: Share,
    /// The ring goes: nothing new is started.
    stopping: bool,
    /// Its end takes as long as its devices do.
    patient: bool,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    done: VecDeque<Done>,
    watches: Vec<Option<Watch>>,
    /// Watches made so far, to tell two in the same place apart.
    watched: u32,
    /// A watch has spoken since the last sleep.
    event: bool,
    stats: Stats,
    /// The ring belongs to the thread that made it.
    _thread: PhantomData<*mut ()>,
}

impl std::fmt::Debug for UringStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringStorage")
            .field("depth", &self.slots.len())
            .field("in_flight", &self.in_flight())
            .field("files", &self.files.iter().flatten().count())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl UringStorage {
    /// A ring for up to `depth` jobs at once (1 to 16384) on these files, whose numbers are their places in `files`,
    /// with all of `region` registered. Call it in the thread that will use it.
    ///
    /// # Errors
    /// See [`SetupError`]; the files are closed then.
    pub fn new(region: Arc<Region>, depth: usize, files: Vec<Device>) -> Result<Self, SetupError> {
        let depth = depth.clamp(1, 16384);
        // Each job and each watch has at most one submission on its way, so that the queue never is full; and
        // the kernel drops no completion while there is four times that room.
        let entries = (depth + limits::WATCHES + 1).next_power_of_two() as u32;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(entries * 4)
            .build(entries)
            .map_err(|e| setup_error(e, sysctl()))?;

        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let table =
            most.map_or(limits::FILES, |n| limits::FILES.min(usize::try_from(n).unwrap_or(usize::MAX)));
        if files.len() > table {
            return Err(SetupError::Files { files: files.len() });
        }
        let io = |what| move |source| SetupError::Io { what, source };
        let submitter = ring.submitter();
        submitter.register_files_sparse(table as u32).map_err(io("make a table of files"))?;
        register(&submitter, &region)?;
        // One of its own for each file that may come. They are made when they are needed. First number: bounded work, which
        // is files and devices. Second: the rest, which we do not have.
        let threads = limits::IO_THREADS + table as u32;
        submitter.register_iowq_max_workers(&mut [threads, 1]).map_err(io("limit its threads"))?;

        let enter = register_ring(ring.as_raw_fd());
        let mut storage = Self {
            ring,
            enter,
            region,
            files: (0..table).map(|_| None).collect(),
            manners: vec![Manner::Always; table].into_boxed_slice(),
            busy: vec![0; table].into_boxed_slice(),
            transfers: 0,
            threads: Share::new(limits::IO_THREADS, table, depth),
            bounces: Bounces::default(),
            bouncing: Share::new(limits::BOUNCES, table, depth),
            stopping: false,
            patient: false,
            slots: (0..depth).map(|_| Slot::default()).collect(),
            free: (0..depth as u32).rev().collect(),
            done: VecDeque::with_capacity(depth),
            watches: Vec::with_capacity(limits::WATCHES),
            watched: 0,
            event: false,
            stats: Stats::default(),
            _thread: PhantomData,
        };
        for file in files {
            storage.add_file(file).map_err(|e| match e {
                FileError::Io(source) => SetupError::Io { what: "register a file", source },
                FileError::Full(files) => SetupError::Files { files: files + 1 },
                FileError::Busy(_) | FileError::Unknown => {
                    SetupError::Io { what: "register a file", source: io::ErrorKind::InvalidInput.into() }
                }
            })?;
        }
        Ok(storage)
    }

    /// Adds a file, under the lowest free number.
    ///
    /// # Errors
    /// [`FileError::Full`] or [`FileError::Io`]; the file is closed then.
    pub fn add_file(&mut self, file: Device) -> Result<FileId, FileError> {
        let full = FileError::Full(self.files.len());
        let Some(index) = self.files.iter().position(Option::is_none) else { return Err(full) };
        let Ok(number) = u16::try_from(index) else { return Err(full) };
        self.set_file(index, file.as_fd().as_raw_fd())?;
        self.manners[index] = Manner::of(&file);
        self.files[index] = Some(file);
        self.reserve_bounces();
        Ok(FileId(number))
    }

    /// Takes a file out of the table. Its number may be given to the next file. The claim on it ends when the device
    /// is dropped and this thread has turned or slept again: the last request that used it may hold it until then.
    ///
    /// # Errors
    /// [`FileError::Busy`] while jobs of it are in flight, [`FileError::Unknown`] or [`FileError::Io`].
    pub fn remove_file(&mut self, file: FileId) -> Result<Device, FileError> {
        let index = usize::from(file.0);
        if self.file(file).is_none() {
            return Err(FileError::Unknown);
        }
        match self.busy[index] {
            0 => {}
            n => return Err(FileError::Busy(n)),
        }
        self.set_file(index, -1)?;
        self.files[index].take().ok_or(FileError::Unknown)
    }

    /// Puts another device behind a file's number, of which no job may be in flight, and gives the one that was there:
    /// closing a device that failed can take as long as it likes, so drop it where that stalls nobody. While somebody
    /// holds a copy of its descriptor (a [`super::device::Gauge`]) this ring is not the last to let go of it.
    ///
    /// # Errors
    /// [`FileError::Busy`] while jobs of the file are in flight, [`FileError::Unknown`] or [`FileError::Io`]; the new
    /// device comes back with it, and the old one stays in service.
    pub fn replace_file(&mut self, file: FileId, new: Device) -> Result<Device, Box<(FileError, Device)>> {
        let index = usize::from(file.0);
        if self.file(file).is_none() {
            return Err(Box::new((FileError::Unknown, new)));
        }
        if self.busy[index] > 0 {
            return Err(Box::new((FileError::Busy(self.busy[index]), new)));
        }
        if let Err(refused) = self.set_file(index, new.as_fd().as_raw_fd()) {
            return Err(Box::new((refused, new)));
        }
        self.manners[index] = Manner::of(&new);
        let old = match &mut self.files[index] {
            Some(current) => std::mem::replace(current, new),
            None => return Err(Box::new((FileError::Unknown, new))),
        };
        self.reserve_bounces();
        Ok(old)
    }

    /// Has as many bounce buffers as files that are there now can hold.
    fn reserve_bounces(&mut self) {
        let files = self.files.iter().flatten().filter(|file| bounced_for(file).is_some()).count();
        if files > 0 {
            self.bounces.reserve(limits::BOUNCES as usize + files);
        }
    }

    /// What is known of a file.
    #[must_use]
    pub fn file(&self, file: FileId) -> Option<&Device> {
        self.files.get(usize::from(file.0))?.as_ref()
    }

    fn set_file(&self, index: usize, fd: RawFd) -> Result<(), FileError> {
        self.ring.submitter().register_files_update(index as u32, &[fd]).map(drop).map_err(FileError::Io)
    }

    /// Ends a sleep when `file` becomes readable: a socket, whose data the caller reads. Keeps a descriptor of its
    /// own until [`UringStorage::unwatch`] or drop.
    ///
    /// # Errors
    /// When there are [`limits::WATCHES`] already or no descriptor is left.
    pub fn watch(&mut self, file: BorrowedFd<'_>, key: u16) -> io::Result<()> {
        self.add_watch(file, key, false)
    }

    /// Ends a sleep when the counter of an eventfd is raised, and sets it back. Makes it non-blocking.
    ///
    /// # Errors
    /// As [`UringStorage::watch`].
    pub fn watch_eventfd(&mut self, file: BorrowedFd<'_>, key: u16) -> io::Result<()> {
        use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        // Reading a counter that somebody else has read already must not block the worker.
        fcntl_setfl(file, fcntl_getfl(file)? | OFlags::NONBLOCK)?;
        self.add_watch(file, key, true)
    }

    fn add_watch(&mut self, file: BorrowedFd<'_>, key: u16, counter: bool) -> io::Result<()> {
        let file = file.try_clone_to_owned()?;
        let index = match self.watches.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.watches.len() < limits::WATCHES => {
                self.watches.push(None);
                self.watches.len() - 1
            }
            None => return Err(io::Error::other("too many descriptors to watch")),
        };
        self.watched = (self.watched + 1) & GENERATIONS;
        let generation = self.watched;
        self.watches[index] = Some(Watch { key, file, generation, counter, armed: false, ready: false });
        self.arm(index);
        Ok(())
    }

    /// Stops watching; returns when the kernel has let go of the descriptor, or after two seconds.
    pub fn unwatch(&mut self, key: u16) {
        for index in 0..self.watches.len() {
            let Some(watch) = &self.watches[index] else { continue };
            if watch.key != key {
                continue;
            }
            let name = Name::Watch { index: index as u32, generation: watch.generation }.pack();
            let cancel = opcode::PollRemove::new(name).build().user_data(Name::Cancel.pack());
            let end = Instant::now() + DRAIN;
            // The poll may wait in the submission queue yet: the kernel takes them in order.
            let (mut asked, mut waits) = (false, 0);
            while self.watches[index].as_ref().is_some_and(|w| w.armed)
                && (waits < ASKS || Instant::now() < end)
            {
                waits += 1;
                asked = asked || self.push(&cancel);
                let _ = self.wait(Some(Duration::from_millis(10)));
                self.harvest_rearming(Some(index));
            }
            self.watches[index] = None;
        }
    }

    /// Gives the keys of the watches that spoke since the last call.
    pub fn take_ready(&mut self, sink: &mut dyn FnMut(u16)) {
        for watch in self.watches.iter_mut().flatten() {
            if std::mem::take(&mut watch.ready) {
                sink(watch.key);
            }
        }
    }

    /// Sleeps until a job ends, a watch speaks, a signal comes, or the time is up (`None`: never); returns at once
    /// when one of these has happened since the last sleep. What was submitted is handed to the kernel first.
    ///
    /// No event is lost: the kernel publishes what it has before it wakes, so a caller that looks at its
    /// sockets, then sleeps, then looks again sees everything.
    pub fn wait_event(&mut self, timeout: Option<Duration>) -> Woken {
        // Alone, so that the result of the waiting call tells whether the time was up.
        self.turn();
        if self.pending() {
            return Woken::Event;
        }
        self.stats.sleeps += 1;
        let entered = self.wait(timeout);
        self.harvest();
        match entered {
            Entered::TimedOut if !self.pending() => return Woken::Timeout,
            // A ring that cannot even wait must not turn the worker into a busy loop.
            Entered::Failed => std::thread::sleep(Duration::from_millis(1)),
            Entered::TimedOut | Entered::Done | Entered::Interrupted => {}
        }
        self.event = false;
        Woken::Event
    }

    /// What the ring did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether something happened since the last sleep; forgets that of the watches.
    fn pending(&mut self) -> bool {
        std::mem::take(&mut self.event) || !self.done.is_empty()
    }

    /// Puts one entry on the submission queue. `false` when there is no room, which the sizes rule out.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: reads and writes are pushed only by `start`, which says why their memory is valid; all other
        // entries name no memory.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// io_uring_enter with everything on the submission queue.
    fn enter(&mut self, least: u32, wait: Option<&WaitArgument>) -> Entered {
        let submit = self.ring.submission().len();
        let mut flags = self.enter.1 | IORING_ENTER_GETEVENTS;
        let (argument, bytes) = match wait {
            None => (std::ptr::null(), 0),
            Some(wait) => {
                flags |= IORING_ENTER_EXT_ARG;
                (std::ptr::from_ref(wait), size_of::<WaitArgument>())
            }
        };
        self.stats.enters += 1;
        // SAFETY: the descriptor (or registered index) is that of our ring, which is open; the argument is null or
        // points to a structure that outlives the call, as does the time it points to (kept by `wait`).
        let got = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter.0,
                submit as u32,
                least,
                flags,
                argument,
                bytes,
            )
        };
        if got >= 0 {
            return Entered::Done;
        }
        match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
            libc::ETIME => Entered::TimedOut,
            libc::EINTR => {
                self.stats.interrupted += 1;
                Entered::Interrupted
            }
            errno => {
                // Memory for requests ran out or the like: what was not taken is still on the queue.
                self.stats.errors += 1;
                self.stats.last_error = errno;
                Entered::Failed
            }
        }
    }

    /// io_uring_enter until there is a completion or the time is up.
    fn wait(&mut self, timeout: Option<Duration>) -> Entered {
        let time = timeout.map(|t| types::Timespec::from(t.min(Duration::from_secs(1 << 30))));
        let wait = WaitArgument {
            sigmask: 0,
            sigmask_bytes: 0,
            min_wait_usec: 0,
            timeout: time.as_ref().map_or(0, |t| std::ptr::from_ref(t) as u64),
        };
        self.enter(1, Some(&wait))
    }

    fn arm(&mut self, index: usize) {
        let Some(Some(watch)) = self.watches.get(index) else { return };
        let name = Name::Watch { index: index as u32, generation: watch.generation };
        let poll = opcode::PollAdd::new(types::Fd(watch.file.as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(name.pack());
        let armed = self.push(&poll);
        debug_assert!(armed, "the submission queue has room for every watch");
        if let Some(Some(watch)) = self.watches.get_mut(index) {
            watch.armed = armed;
        }
    }

    /// Takes everything off the completion queue.
    fn harvest(&mut self) {
        self.harvest_rearming(None);
    }

    /// As `harvest`, but does not arm this watch again.
    fn harvest_rearming(&mut self, except: Option<usize>) {
        loop {
            let batch: arrayvec::ArrayVec<cqueue::Entry, BATCH> =
                self.ring.completion().take(BATCH).collect();
            for entry in &batch {
                match Name::unpack(entry.user_data()) {
                    Some(Name::Job { index, generation }) => {
                        self.completed(index, generation, entry.result())
                    }
                    Some(Name::Watch { index, generation }) => {
                        let again = except != Some(index as usize);
                        self.spoke(index as usize, generation, entry.result(), entry.flags(), again);
                    }
                    Some(Name::Cancel) => {}
                    None => self.stats.stray += 1,
                }
            }
            if batch.len() < BATCH {
                return;
            }
        }
    }

    fn spoke(&mut self, index: usize, generation: u32, result: i32, flags: u32, again: bool) {
        let Some(Some(watch)) = self.watches.get_mut(index) else { return };
        if watch.generation != generation {
            return;
        }
        let more = cqueue::more(flags);
        watch.armed = more;
        watch.ready = true;
        self.event = true;
        if watch.counter && result > 0 {
            let mut counter = [0; 8];
            // Empty already, or interrupted: the next event reads it.
            let _ = rustix::io::read(&watch.file, &mut counter);
            self.stats.drains += 1;
        }
        if more || !again {
            return;
        }
        if result < 0 {
            // Arming again would fail again, at once and for ever.
            self.stats.deaf += 1;
            return;
        }
        self.stats.rearmed += 1;
        self.arm(index);
    }

    fn completed(&mut self, index: u32, generation: u32, result: i32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            self.stats.stray += 1;
            return;
        };
        let (Some(job), true) = (&slot.job, slot.generation == generation) else {
            self.stats.stray += 1;
            return;
        };
        let (number, verb) = (job.file.0, job.verb);
        // What nearly always is: all that was asked for is done, at once.
        let usual = slot.step == Step::Whole
            && verb.transfers()
            && !flushes(&self.files, job)
            && slot.moved == 0
            && u32::try_from(result).is_ok_and(|bytes| bytes == slot.span.len);
        if usual {
            return self.end(index, Ok(()));
        }
        if std::mem::take(&mut slot.threaded) {
            self.threads.put(number);
            self.give_threads();
        }
        let slot = &mut self.slots[index as usize];
        if slot.nowait && matches!(-result, libc::EAGAIN | libc::EOPNOTSUPP) {
            // Nothing was transferred. This kernel's files of that kind may refuse the flag itself.
            slot.blocks = true;
            self.stats.blocking += 1;
            if -result == libc::EOPNOTSUPP {
                self.manners[usize::from(number)] = Manner::Always;
            }
            return self.launch(index);
        }
        let unit =
            self.files[usize::from(number)].as_ref().and_then(Device::alignment).map(|a| match slot.bounce {
                // The next part has to be aligned in memory as well.
                Some(_) => a.offset.max(a.memory),
                None => a.offset,
            });
        let verb = match slot.step {
            Step::Whole | Step::Punch => verb,
            Step::Load => Verb::Read,
            Step::Store => Verb::Write,
            Step::Flush => Verb::Flush,
        };
        let (moved, next) = judge(verb, slot.span.len, slot.moved, result, unit);
        slot.moved = moved;
        match next {
            Next::Again if slot.tries < TRIES => {
                slot.tries += 1;
                if result > 0 {
                    self.stats.continued += 1;
                } else {
                    self.stats.retried += 1;
                }
                self.launch(index);
            }
            Next::Again => {
                let errno = if result < 0 { -result } else { libc::EIO };
                self.failed(index, Failure::Errno(errno));
            }
            Next::End(Err(failure)) => self.failed(index, failure),
            Next::End(Ok(())) => self.advance(index),
        }
    }

    /// Ends a job of which a step failed.
    #[cold]
    fn failed(&mut self, index: u32, failure: Failure) {
        let slot = &self.slots[index as usize];
        let Some(job) = &slot.job else { return };
        let device = self.files[usize::from(job.file.0)].as_ref();
        let gone = device.is_some_and(Device::has_vanished);
        let failure = if gone { Failure::Errno(libc::ENODEV) } else { failure };
        let failure = match (slot.step, Some(job.verb), failure) {
            // A flush tells of all that was written, and what is stored holds bytes of others beside those that are
            // discarded: no room there is more than no room for this job.
            (Step::Flush, _, Failure::Errno(errno))
            | (Step::Store, Some(Verb::Discard), Failure::Errno(errno)) => Failure::Unsynced(errno),
            (Step::Load, Some(Verb::Write | Verb::WriteThrough), Failure::Errno(errno)) => {
                Failure::Unread(errno)
            }
            _ => failure,
        };
        self.end(index, Err(failure));
    }

    /// Goes on with a job of which a step is done.
    fn advance(&mut self, index: u32) {
        let Self { slots, bounces, files, region, .. } = self;
        let slot = &mut slots[index as usize];
        let Some(job) = &mut slot.job else { return };
        match (slot.step, slot.bounce) {
            (Step::Load, Some(bounce)) => {
                let (at, len) = (job.at as usize, job.len as usize);
                let inside = |span: Span| {
                    (span.offset - slot.span.offset) as usize..(span.end() - slot.span.offset) as usize
                };
                match job.verb {
                    Verb::Read => {
                        let bytes = &bounces.bytes(bounce)[inside(Span::new(job.offset, job.len))];
                        region.buffer_mut(&mut job.buffer, at, len).copy_from_slice(bytes);
                        return self.end(index, Ok(()));
                    }
                    Verb::Discard => {
                        let device = files[usize::from(job.file.0)].as_ref();
                        let piece = pieces(device, job).get(usize::from(slot.pieces)).copied();
                        bounces.bytes(bounce)[inside(piece.unwrap_or_default())].fill(0);
                    }
                    _ => {
                        let bytes = &mut bounces.bytes(bounce)[inside(Span::new(job.offset, job.len))];
                        bytes.copy_from_slice(region.buffer_mut(&mut job.buffer, at, len));
                    }
                }
                slot.take(Step::Store, slot.span);
                self.launch(index);
            }
            (Step::Store | Step::Punch, _) if job.verb == Verb::Discard => {
                slot.pieces += 1;
                self.discard(index);
            }
            (Step::Store | Step::Whole, _) if flushes(files, job) => {
                slot.take(Step::Flush, Span::default());
                self.launch(index);
            }
            _ => self.end(index, Ok(())),
        }
    }

    /// Starts a job that has its place in the table and is more than one transfer of its own memory: it has its bounce
    /// buffer if it needs one.
    fn begin(&mut self, index: u32) {
        let Self { slots, bounces, files, region, .. } = self;
        let slot = &mut slots[index as usize];
        let Some(job) = &mut slot.job else { return };
        let own = Span::new(job.offset, job.len);
        let unit = files[usize::from(job.file.0)].as_ref().and_then(bounced_for).map_or(1, |a| a.offset);
        match (job.verb, slot.bounce) {
            (Verb::Discard, _) => return self.discard(index),
            // Whole units, of which only the memory is not where the device wants it.
            (Verb::Write | Verb::WriteThrough, Some(bounce)) if own.is_whole(unit) => {
                let (at, len) = (job.at as usize, job.len as usize);
                bounces.bytes(bounce)[..len].copy_from_slice(region.buffer_mut(&mut job.buffer, at, len));
                slot.take(Step::Store, own);
            }
            _ => slot.take(Step::Load, own.around(unit)),
        }
        self.launch(index);
    }

    /// Goes on with a discard: parts of units are overwritten with zeroes, whole ones are freed, and all that is flushed.
    fn discard(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(job) = &slot.job else { return };
        let device = self.files[usize::from(job.file.0)].as_ref();
        let pieces = pieces(device, job);
        let left = (0..).zip(pieces).skip(usize::from(slot.pieces)).find(|(_, piece)| piece.len > 0);
        match left {
            Some((n @ MIDDLE, whole)) => {
                slot.pieces = n;
                slot.take(Step::Punch, whole);
            }
            Some((n, part)) => {
                slot.pieces = n;
                let unit = device.map_or(1, Device::unit);
                slot.take(Step::Load, part.around(unit));
            }
            // Freeing a range is no write to the kernel: there is no flag that makes it durable with it, neither the
            // journal's record of a hole nor what a device has in its cache. Not linked to the discard as a second
            // submission: each job has one on its way at most, and a flush needs no sending when the discard failed.
            None if device.is_some_and(|d| {
                let freed = pieces[usize::from(MIDDLE)].len > 0;
                d.durability().discard_needs_flush() && (freed || d.write_needs_flush(false))
            }) =>
            {
                slot.take(Step::Flush, Span::default());
            }
            None => return self.end(index, Ok(())),
        }
        self.launch(index);
    }

    /// Brings the step of a job, or the rest of it, on its way to the kernel; or lets it wait for a thread.
    fn launch(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(job) = &slot.job else { return };
        if self.stopping {
            return self.end(index, Err(Failure::Errno(libc::ECANCELED)));
        }
        let file = job.file.0;
        let transfers =
            matches!(slot.step, Step::Load | Step::Store) || slot.step == Step::Whole && job.verb.transfers();
        let manner = self.manners[usize::from(file)];
        if transfers && manner == Manner::Often {
            self.transfers += u32::from(!std::mem::replace(&mut slot.counted, true));
            let device = self.files[usize::from(file)].as_ref();
            // Where buffered writes are taken without a thread they are flushed there, too (FOP_BUFFER_WASYNC, XFS and btrfs).
            let flushes = job.verb != Verb::Read && device.is_some_and(|d| d.alignment().is_none());
            slot.blocks |= flushes || self.transfers > INLINE;
        }
        let may_try = transfers && !slot.blocks && manner != Manner::Always;
        slot.nowait = may_try && manner == Manner::Seldom;
        if !slot.nowait {
            slot.threaded = self.threads.take(file);
            if !slot.threaded && !may_try {
                self.stats.waited += 1;
                return self.threads.wait(file, index);
            }
            slot.nowait = !slot.threaded;
        }
        self.push_step(index);
    }

    /// Lets go on who waits for a thread and may have one now.
    fn give_threads(&mut self) {
        while !self.stopping {
            let Some(index) = self.threads.next() else { return };
            let slot = &mut self.slots[index as usize];
            (slot.threaded, slot.nowait) = (true, false);
            self.push_step(index);
        }
    }

    /// Lets start who waits for a bounce buffer and may have one now.
    fn give_bounces(&mut self) {
        while !self.stopping {
            let Some(index) = self.bouncing.next() else { return };
            self.slots[index as usize].bounce = self.bounces.take();
            self.begin(index);
        }
    }

    fn end(&mut self, index: u32, result: Result<(), Failure>) {
        let slot = &mut self.slots[index as usize];
        let Some(job) = slot.job.take() else { return };
        slot.generation = (slot.generation + 1) & GENERATIONS;
        let (bounce, threaded) = (slot.bounce.take(), std::mem::take(&mut slot.threaded));
        self.transfers -= u32::from(std::mem::take(&mut slot.counted));
        let file = job.file.0;
        self.free.push(index);
        self.busy[usize::from(file)] -= 1;
        self.finish(job, result);
        if threaded {
            self.threads.put(file);
            self.give_threads();
        }
        if let Some(bounce) = bounce {
            self.bounces.put(bounce);
            self.bouncing.put(file);
            self.give_bounces();
        }
    }

    fn finish(&mut self, job: Job, result: Result<(), Failure>) {
        self.stats.ended += 1;
        self.done.push_back(Done { ticket: job.ticket, buffer: job.buffer, result });
    }

    /// Puts the step of a job, or the rest of it, on the submission queue.
    fn push_step(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        let Some(job) = &slot.job else { return };
        let name = Name::Job { index, generation: slot.generation }.pack();
        let file = types::Fixed(u32::from(job.file.0));
        let device = self.files[usize::from(job.file.0)].as_ref();
        let start = device.map_or(0, Device::start);
        let (offset, len) = (start + slot.span.offset + u64::from(slot.moved), slot.span.len - slot.moved);
        let mut flags = match (slot.step, job.verb) {
            (Step::Load, _) | (_, Verb::Read) => 0,
            (_, verb) => device.map_or(0, |d| d.write_flags(verb == Verb::WriteThrough)),
        };
        if slot.nowait {
            flags |= libc::RWF_NOWAIT;
        }
        let flush = || opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build();
        let entry = match (slot.step, job.verb, slot.bounce) {
            (Step::Flush, ..) | (Step::Whole, Verb::Flush, _) => flush(),
            // Runs in a kernel thread of the ring, always (io_uring/sync.c, io_fallocate_prep), so it may take its time.
            // Of a block device it never writes zeroes itself where the device cannot free or zero (block/fops.c,
            // blkdev_fallocate), and drops what the page cache has of the range.
            (Step::Punch, ..) => opcode::Fallocate::new(file, u64::from(len))
                .offset(offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            (Step::Whole, verb, _) => {
                let address = job.buffer.address() as usize + (job.at + slot.moved) as usize;
                // SAFETY: `check` saw that `at + len` bytes are inside the buffer, whose token the slot holds until the
                // kernel's last completion, and tokens name chunks inside the region, which we keep alive.
                let memory = unsafe { self.region.base().as_ptr().add(address) };
                let piece = (address / limits::REGISTERED_PIECE) as u16;
                if verb == Verb::Read {
                    opcode::ReadFixed::new(file, memory, len, piece).offset(offset).rw_flags(flags).build()
                } else {
                    opcode::WriteFixed::new(file, memory, len, piece).offset(offset).rw_flags(flags).build()
                }
            }
            (step, _, Some(bounce)) => {
                debug_assert!(
                    slot.span.len as usize <= BOUNCE,
                    "{:?} is more than a bounce buffer",
                    slot.span
                );
                // SAFETY: the span is no longer than the buffer (`units`), which the slot holds until the kernel's last
                // completion, and which is never freed before the storage is.
                let memory = unsafe { self.bounces.address(bounce).add(slot.moved as usize) };
                if step == Step::Load {
                    opcode::Read::new(file, memory, len).offset(offset).rw_flags(flags).build()
                } else {
                    opcode::Write::new(file, memory, len).offset(offset).rw_flags(flags).build()
                }
            }
            // The shares see to it that there is one.
            (_, _, None) => {
                debug_assert!(false, "no bounce buffer for {job:?}");
                return self.end(index, Err(Failure::Errno(libc::ENOMEM)));
            }
        };
        // It would only be tried in vain once more.
        let entry = if slot.blocks { entry.flags(squeue::Flags::ASYNC) } else { entry };
        let pushed = self.push(&entry.user_data(name));
        debug_assert!(pushed, "the submission queue has room for every job");
        if !pushed {
            self.end(index, Err(Failure::Errno(libc::EAGAIN)));
        }
    }

    /// What is wrong with a job, or how it is done.
    fn check(&mut self, job: &Job) -> Result<Course, Failure> {
        let invalid = Failure::Errno(libc::EINVAL);
        let Some(file) = self.files.get(usize::from(job.file.0)).and_then(Option::as_ref) else {
            return Err(Failure::Errno(libc::EBADF));
        };
        if job.verb == Verb::Flush {
            return Ok(Course::Straight);
        }
        let (at, len) = (job.at as usize, job.len as usize);
        let start = job.buffer.address() as usize + at;
        let moves = job.verb.transfers();
        if moves && (at + len > job.buffer.capacity() || start + len > self.region.len()) {
            return Err(invalid);
        }
        if len == 0 {
            return Ok(Course::Nothing);
        }
        if moves && start / limits::REGISTERED_PIECE != (start + len - 1) / limits::REGISTERED_PIECE {
            return Err(invalid);
        }
        // Never past the measured end: a regular file would grow.
        if job.offset.checked_add(len as u64).is_none_or(|end| end > file.size()) {
            return Err(Failure::Short);
        }
        let Some(direct) = file.alignment() else { return Ok(Course::Straight) };
        // The kernel may let some of what is misaligned pass, and another kernel not: we never find out.
        let memory = self.region.base().as_ptr() as usize + start;
        let memory_fits = !moves || memory % direct.memory as usize == 0;
        let span = Span::new(job.offset, job.len);
        let course = if memory_fits && span.is_whole(direct.offset) {
            Course::Straight
        } else if bounced_for(file).is_some() && span.is_whole(limits::SECTOR as u32) {
            Course::Bounced
        } else {
            self.stats.misaligned += 1;
            debug_assert!(false, "a misaligned job for a direct file: {job:?}");
            return Err(invalid);
        };
        if cfg!(debug_assertions) && self.disturbs(job, direct.offset) {
            self.stats.misaligned += 1;
            debug_assert!(false, "two jobs change the same unit at once: {job:?}");
        }
        Ok(course)
    }

    /// Whether a job would change a unit of which another job in flight changes another part.
    fn disturbs(&self, job: &Job, unit: u32) -> bool {
        let changed = |job: &Job| (job.verb != Verb::Read).then(|| Span::new(job.offset, job.len));
        let Some(new) = changed(job) else { return false };
        let others =
            self.slots.iter().filter_map(|slot| slot.job.as_ref()).filter(|other| other.file == job.file);
        others.filter_map(changed).any(|old| {
            let whole = new.is_whole(unit) && old.is_whole(unit);
            !whole && !new.meets(old) && new.around(unit).meets(old.around(unit))
        })
    }

    /// Asks the kernel to give everything back and waits for it: a bounded time, unless it is patient.
    fn drain(&mut self) {
        let end = Instant::now() + DRAIN;
        // Neither retries nor next steps. What waits here was never seen by the kernel.
        self.stopping = true;
        while let Some(index) = self.threads.dismiss().or_else(|| self.bouncing.dismiss()) {
            self.end(index, Err(Failure::Errno(libc::ECANCELED)));
        }
        for watch in self.watches.iter_mut().flatten() {
            // No arming again: the ring goes.
            watch.generation = u32::MAX;
        }
        if self.patient {
            // What is watched is not kept open any longer.
            self.watches.iter_mut().for_each(|watch| *watch = None);
        }
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        let (mut asked, mut waits) = (false, 0);
        while self.free.len() < self.slots.len() && (self.patient || waits < ASKS || Instant::now() < end) {
            waits += 1;
            if self.patient {
                self.let_go();
            }
            asked = asked || self.push(&cancel.clone().user_data(Name::Cancel.pack()));
            let pause = Duration::from_millis(if waits <= ASKS { 50 } else { 1000 });
            let entered = self.wait(Some(pause));
            if waits > ASKS && matches!(entered, Entered::Failed) {
                std::thread::sleep(pause);
            }
            self.harvest();
        }
    }

    /// Closes the devices that have answered all they were sent.
    fn let_go(&mut self) {
        for index in (0..self.files.len()).filter(|&i| self.busy[i] == 0) {
            if let Some(device) = self.files[index].take() {
                let _ = self.set_file(index, -1);
                drop(device);
            }
        }
    }
}

/// What a device of larger units, or of stricter memory, than single sectors wants.
fn bounced_for(device: &Device) -> Option<Alignment> {
    device.alignment().filter(|a| a.offset.max(a.memory) as usize > limits::SECTOR)
}

/// Whether a job is a write that is done only when a flush behind it is.
fn flushes(files: &[Option<Device>], job: &Job) -> bool {
    let through = match job.verb {
        Verb::Write => false,
        Verb::WriteThrough => true,
        _ => return false,
    };
    files[usize::from(job.file.0)].as_ref().is_some_and(|device| device.write_needs_flush(through))
}

/// A discard in three pieces, of which the one in the [`MIDDLE`] is whole units.
fn pieces(device: Option<&Device>, job: &Job) -> [Span; 3] {
    let all = Span::new(job.offset, job.len);
    match device.and_then(bounced_for) {
        Some(alignment) => all.cut(alignment.offset),
        None => [Span::default(), all, Span::default()],
    }
}

/// See [`pieces`].
const MIDDLE: u8 = 1;

/// What a completion means for a job of which `moved` of `len` bytes were done before. `unit` is the alignment of
/// offsets in the file, if it has one. Gives the bytes done now.
fn judge(verb: Verb, len: u32, moved: u32, result: i32, unit: Option<u32>) -> (u32, Next) {
    let Ok(bytes) = u32::try_from(result) else {
        return match -result {
            // A flush is never tried again: the error that ended it is reported once and then forgotten by the
            // kernel, so that the next one would say that all is well.
            libc::EAGAIN | libc::EINTR if verb != Verb::Flush => (moved, Next::Again),
            errno => (moved, Next::End(Err(Failure::Errno(errno)))),
        };
    };
    if !verb.transfers() {
        return (moved, Next::End(Ok(())));
    }
    let moved = moved.saturating_add(bytes);
    if moved == len {
        (moved, Next::End(Ok(())))
    } else if moved > len {
        // More than was asked for: nothing the kernel says of this job can be trusted.
        (len, Next::End(Err(Failure::Errno(libc::EIO))))
    } else if bytes == 0 {
        (moved, Next::End(Err(Failure::Short)))
    } else if unit.is_some_and(|unit| moved % unit != 0) {
        // The rest would be misaligned. A direct read stops in the middle of a unit only where the file ends.
        let failure = if verb == Verb::Read { Failure::Short } else { Failure::Errno(libc::EIO) };
        (moved, Next::End(Err(failure)))
    } else {
        (moved, Next::Again)
    }
}

const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;
const IORING_ENTER_REGISTERED_RING: u32 = 1 << 4;
const IORING_REGISTER_RING_FDS: u32 = 20;
const IORING_UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RegisteredRing {
    index: u32,
    reserved: u32,
    fd: u64,
}

/// Registers the ring's own descriptor, which saves a look-up in each call. What cannot be registered is used as
/// it is. The crate does this too, but forgets the index with each `submitter()`.
fn register_ring(fd: RawFd) -> (RawFd, u32) {
    let mut ring = RegisteredRing { index: u32::MAX, reserved: 0, fd: fd as u64 };
    // SAFETY: the descriptor is an open ring, and the kernel reads and writes one such structure during the call.
    let got = unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, IORING_REGISTER_RING_FDS, &raw mut ring, 1u32)
    };
    match (got, RawFd::try_from(ring.index)) {
        (1, Ok(index)) => (index, IORING_ENTER_REGISTERED_RING),
        _ => (fd, 0),
    }
}

/// Undoes [`register_ring`]: the thread would keep the ring open otherwise.
fn unregister_ring(fd: RawFd, enter: (RawFd, u32)) {
    if enter.1 & IORING_ENTER_REGISTERED_RING == 0 {
        return;
    }
    let ring = RegisteredRing { index: enter.0 as u32, reserved: 0, fd: 0 };
    // SAFETY: as in `register_ring`; the kernel only reads.
    unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, IORING_UNREGISTER_RING_FDS, &raw const ring, 1u32)
    };
}

/// Registers the region in pieces that the kernel takes.
fn register(submitter: &io_uring::Submitter<'_>, region: &Region) -> Result<(), SetupError> {
    if region.is_empty() {
        return Ok(());
    }
    let pieces: Vec<libc::iovec> = (0..region.len())
        .step_by(limits::REGISTERED_PIECE)
        .map(|start| libc::iovec {
            // SAFETY: `start` is inside the region.
            iov_base: unsafe { region.base().as_ptr().add(start) }.cast(),
            iov_len: limits::REGISTERED_PIECE.min(region.len() - start),
        })
        .collect();
    // SAFETY: the memory is mapped as long as the region, of which the storage holds a reference beyond the life of
    // the ring (and for good, when the kernel does not let go).
    unsafe { submitter.register_buffers(&pieces) }.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOMEM) => SetupError::Memlock { bytes: region.len(), limit: memlock() },
        _ => SetupError::Io { what: "register the frame memory", source },
    })
}

fn memlock() -> String {
    match rustix::process::getrlimit(rustix::process::Resource::Memlock).current {
        Some(bytes) => format!("{bytes} bytes"),
        None => "infinite, so memory itself ran out".to_owned(),
    }
}

fn sysctl() -> u8 {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn setup_error(source: io::Error, disabled: u8) -> SetupError {
    match source.raw_os_error() {
        Some(libc::EPERM) if disabled != 0 => SetupError::Disabled { value: disabled },
        Some(libc::EPERM | libc::EACCES) => SetupError::Denied { source },
        // Profiles answer ENOSYS too, to make programs fall back.
        Some(libc::ENOSYS) if std::path::Path::new("/proc/sys/kernel/io_uring_disabled").exists() => {
            SetupError::Denied { source }
        }
        Some(libc::ENOSYS) => SetupError::TooOld { what: "everything", source },
        Some(libc::EINVAL) => SetupError::TooOld { what: "SINGLE_ISSUER and DEFER_TASKRUN", source },
        Some(libc::EMFILE | libc::ENFILE) => SetupError::Files { files: limits::FILES },
        _ => SetupError::Io { what: "be set up", source },
    }
}

impl Storage for UringStorage {
    type Backing = Device;

    fn replace(&mut self, file: FileId, new: Option<Device>) -> Result<Option<Device>, Option<Device>> {
        let known = self.file(file).is_some();
        match new {
            None if !known => Ok(None),
            None => self.remove_file(file).map(Some).map_err(|_| None),
            Some(new) if known => self.replace_file(file, new).map(Some).map_err(|refused| Some(refused.1)),
            Some(new) => {
                let index = usize::from(file.0);
                if index >= self.files.len() || self.set_file(index, new.as_fd().as_raw_fd()).is_err() {
                    return Err(Some(new));
                }
                self.manners[index] = Manner::of(&new);
                self.files[index] = Some(new);
                self.reserve_bounces();
                Ok(None)
            }
        }
    }

    fn submit(&mut self, job: Job) -> Result<(), Job> {
        if self.in_flight() >= self.slots.len() {
            return Err(job);
        }
        match self.check(&job) {
            Err(failure) => self.finish(job, Err(failure)),
            Ok(Course::Nothing) => self.finish(job, Ok(())),
            Ok(course) => {
                // There is a free place: fewer are in flight than there are places.
                let Some(index) = self.free.pop() else { return Err(job) };
                let file = job.file.0;
                self.busy[usize::from(file)] += 1;
                let slot = &mut self.slots[index as usize];
                self.stats.started += 1;
                if course == Course::Straight && job.verb != Verb::Discard {
                    slot.take(Step::Whole, Span::new(job.offset, job.len));
                    slot.job = Some(job);
                    self.launch(index);
                    return Ok(());
                }
                (slot.job, slot.pieces) = (Some(job), 0);
                if course == Course::Bounced {
                    self.stats.bounced += 1;
                    if !self.bouncing.take(file) {
                        self.stats.waited += 1;
                        self.bouncing.wait(file, index);
                        return Ok(());
                    }
                    slot.bounce = self.bounces.take();
                }
                self.begin(index);
            }
        }
        Ok(())
    }

    fn turn(&mut self) {
        let queue = self.ring.submission();
        // The kernel raises `taskrun` when a completion waits for this thread to come in and post it.
        let needed = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if needed {
            let _ = self.enter(0, None);
        }
        self.harvest();
    }

    fn reap(&mut self, most: usize, sink: &mut dyn FnMut(Done)) -> usize {
        let n = most.min(self.done.len());
        for done in self.done.drain(..n) {
            sink(done);
        }
        n
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.done.len()
    }

    fn lent(&self, ticket: Ticket) -> Option<&Buffer> {
        let jobs = self.slots.iter().filter_map(|slot| slot.job.as_ref());
        let job = jobs.filter(|job| job.verb.writes()).find(|job| job.ticket == ticket);
        let done = || self.done.iter().find(|done| done.ticket == ticket).map(|done| &done.buffer);
        job.map(|job| &job.buffer).or_else(done)
    }

    fn resized(&mut self, file: FileId, bytes: u64) {
        if let Some(Some(device)) = self.files.get_mut(usize::from(file.0)) {
            device.resized(bytes);
        }
    }
}

impl Sleep for UringStorage {
    fn sleep(&mut self, timeout: Duration) -> Woken {
        self.wait_event(Some(timeout))
    }

    fn end_patiently(&mut self) {
        self.patient = true;
    }
}

/// Gives the kernel a bounded time to let go. What it keeps stays out of use for the life of the process.
impl Drop for UringStorage {
    fn drop(&mut self) {
        if self.free.len() < self.slots.len() {
            self.drain();
        }
        unregister_ring(self.ring.as_raw_fd(), self.enter);
        let mut held = 0;
        for job in self.slots.iter_mut().filter_map(|slot| slot.job.take()) {
            retire(job.buffer);
            held += 1;
        }
        for done in self.done.drain(..) {
            retire(done.buffer);
        }
        if held > 0 {
            ABANDONED.fetch_add(held, Ordering::Relaxed);
            // The kernel may still write there, so the memory must never be unmapped and used for something else.
            std::mem::forget(Arc::clone(&self.region));
            // The devices that have answered are nobody's now. (Before Linux 6.13 the kernel lets go of them only together
            // with those that have not.)
            self.let_go();
            self.bounces.abandon();
            return;
        }
        // A closed ring is taken down later, by a kernel thread; whoever opens the same devices next, or locks the
        // same memory, should not have to wait for it. Errors mean that there was nothing to give back.
        let _ = self.ring.submitter().unregister_files();
        let _ = self.ring.submitter().unregister_buffers();
    }
}

/// The end of a worker: its buffers go with the region.
fn retire(buffer: Buffer) {
    match buffer {
        Buffer::None => {}
        Buffer::Chunk(chunk) => chunk.retire(),
        Buffer::Run(run) => run.split().into_iter().for_each(Chunk::retire),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_survive_packing() {
        for name in [
            Name::Job { index: 0, generation: 0 },
            Name::Job { index: u32::MAX, generation: GENERATIONS },
            Name::Watch { index: 63, generation: 1 },
            Name::Cancel,
        ] {
            assert_eq!(Name::unpack(name.pack()), Some(name));
        }
        assert_eq!(Name::unpack(u64::MAX), None);
    }

    #[test]
    fn only_a_complete_transfer_is_success() {
        enum Want {
            Ok,
            Again,
            Fail(Failure),
        }
        use Want::{Again, Fail};
        let errno = |n| Fail(Failure::Errno(n));
        for (verb, len, moved, result, unit, now, want) in [
            (Verb::Read, 4096, 0, 4096, None, 4096, Want::Ok),
            (Verb::Read, 4096, 0, 1024, None, 1024, Again),
            (Verb::Read, 4096, 1024, 3072, None, 4096, Want::Ok),
            (Verb::Read, 4096, 1024, 0, None, 1024, Fail(Failure::Short)),
            (Verb::Read, 4096, 0, 1000, None, 1000, Again),
            (Verb::Read, 4096, 0, 1000, Some(512), 1000, Fail(Failure::Short)),
            (Verb::Write, 4096, 0, 1000, Some(512), 1000, errno(libc::EIO)),
            (Verb::Write, 4096, 0, 1024, Some(512), 1024, Again),
            (Verb::Write, 4096, 1024, 0, None, 1024, Fail(Failure::Short)),
            (Verb::Write, 4096, 1024, 4096, None, 4096, errno(libc::EIO)),
            (Verb::Write, 4096, 1024, -libc::ENOSPC, None, 1024, errno(libc::ENOSPC)),
            (Verb::Write, 4096, 512, -libc::EINTR, None, 512, Again),
            (Verb::Read, 4096, 0, -libc::EAGAIN, None, 0, Again),
            (Verb::Flush, 0, 0, 0, Some(512), 0, Want::Ok),
            (Verb::Flush, 0, 0, -libc::EIO, None, 0, errno(libc::EIO)),
            (Verb::Flush, 0, 0, -libc::EINTR, None, 0, errno(libc::EINTR)),
            (Verb::Flush, 0, 0, -libc::EAGAIN, None, 0, errno(libc::EAGAIN)),
            (Verb::WriteThrough, 4096, 0, 1024, Some(512), 1024, Again),
            (Verb::WriteThrough, 4096, 1024, 3072, Some(512), 4096, Want::Ok),
            (Verb::Discard, 1 << 20, 0, 0, Some(512), 0, Want::Ok),
            (Verb::Discard, 1 << 20, 0, -libc::EINTR, None, 0, Again),
            (Verb::Discard, 1 << 20, 0, -libc::EOPNOTSUPP, None, 0, errno(libc::EOPNOTSUPP)),
        ] {
            let (after, next) = judge(verb, len, moved, result, unit);
            assert_eq!(after, now, "{verb:?} {moved} + {result} of {len}");
            match (next, want) {
                (Next::End(Ok(())), Want::Ok) | (Next::Again, Again) => {}
                (Next::End(Err(got)), Fail(want)) => {
                    assert_eq!(got, want, "{verb:?} {moved} + {result} of {len}")
                }
                _ => panic!("{verb:?} {moved} + {result} of {len} ended otherwise"),
            }
        }
    }

    fn ring() -> UringStorage {
        UringStorage::new(Arc::new(Region::heap(4)), 4, vec![]).unwrap()
    }

    #[test]
    fn a_watch_that_the_kernel_gives_up_is_armed_again_unless_it_failed() {
        use rustix::event::{EventfdFlags, eventfd};
        let mut ring = ring();
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        ring.watch_eventfd(event.as_fd(), 5).unwrap();
        let generation = ring.watches[0].as_ref().unwrap().generation;
        ring.turn();
        assert_eq!(ring.ring.submission().len(), 0);
        // A completion with F_MORE, without it, with an error, and of an earlier watch in the same place.
        for (generation, result, flags, armed, queued) in [
            (generation, 1, 2, true, 0),
            (generation, 1, 0, true, 1),
            (generation, -libc::ECANCELED, 0, false, 1),
            (generation + 1, 1, 0, false, 1),
        ] {
            ring.spoke(0, generation, result, flags, true);
            let watch = ring.watches[0].as_ref().unwrap();
            assert_eq!((watch.armed, ring.ring.submission().len()), (armed, queued), "{result} {flags}");
        }
        assert_eq!((ring.stats.rearmed, ring.stats.deaf), (1, 1));
        assert_eq!(ring.wait_event(None), Woken::Event);
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(ring.wait_event(None), Woken::Event, "armed again");
    }

    #[test]
    fn completions_of_nobody_change_nothing() {
        let mut ring = ring();
        ring.completed(0, 0, 512);
        ring.completed(99, 0, 512);
        assert_eq!((ring.stats.stray, ring.in_flight(), ring.free.len()), (2, 0, 4));
    }

    #[test]
    fn the_rest_of_a_job_goes_where_it_belongs() {
        use crate::storage::{FileId, Ticket, device};
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(16384).unwrap();
        let file = device::open(path.path(), device::Options::default()).unwrap();
        let region = Arc::new(Region::heap(2));
        let mut ring = UringStorage::new(Arc::clone(&region), 1, vec![file]).unwrap();
        let mut chunk = region.mint(1).unwrap();
        for (i, sector) in region.bytes_mut(&mut chunk, 0, 4096).chunks_mut(512).enumerate() {
            sector.fill(i as u8 + 1);
        }
        let buffer = Buffer::Chunk(chunk);
        let job = Job {
            ticket: Ticket(1),
            file: FileId(0),
            verb: Verb::Write,
            offset: 1024,
            buffer,
            at: 512,
            len: 2048,
        };
        // As if the kernel had done the first 1024 of 2048 bytes.
        let index = ring.free.pop().unwrap();
        ring.busy[0] += 1;
        ring.slots[0].job = Some(job);
        ring.slots[0].take(Step::Whole, Span::new(1024, 2048));
        ring.slots[0].moved = 1024;
        ring.launch(index);
        while ring.in_flight() > 0 {
            ring.turn();
            ring.reap(1, &mut |done| {
                assert_eq!(done.result, Ok(()));
                retire(done.buffer);
            });
        }
        let bytes = std::fs::read(path.path()).unwrap();
        assert_eq!(
            (bytes.len(), &bytes[2048..2560], &bytes[2560..3072]),
            (16384, &[4; 512][..], &[5; 512][..])
        );
        assert!(bytes[..2048].iter().chain(&bytes[3072..]).all(|&b| b == 0));
    }

    /// Fewer than the queue of any disk takes, so that the worker's own call never waits for one that hangs.
    #[test]
    fn of_files_with_a_disk_only_the_first_few_are_tried_without_a_thread() {
        use crate::storage::{FileId, Ticket, device};
        let transfers = |directory: &str, verb: Verb, options: device::Options| {
            let path = tempfile::NamedTempFile::new_in(directory).unwrap();
            path.as_file().set_len(1 << 20).unwrap();
            let file = device::open(path.path(), options).unwrap();
            let (memory, direct) = (file.durability() == Durability::Ram, file.alignment().is_some());
            let region = Arc::new(Region::heap(64));
            let mut ring = UringStorage::new(Arc::clone(&region), 64, vec![file]).unwrap();
            for n in 0..40 {
                let buffer = Buffer::Chunk(region.mint(n).unwrap());
                let (ticket, offset) = (Ticket(n), u64::from(n) * 4096);
                ring.submit(Job { ticket, file: FileId(0), verb, offset, buffer, at: 0, len: 4096 }).unwrap();
            }
            let tried = ring.slots.iter().filter(|slot| slot.job.is_some() && !slot.blocks).count();
            let mut left = 40;
            while left > 0 {
                ring.turn();
                left -= ring.reap(64, &mut |done| {
                    assert_eq!(done.result, Ok(()));
                    retire(done.buffer);
                });
            }
            assert_eq!(ring.transfers, 0);
            (memory, direct, tried)
        };
        let (memory, direct, tried) = transfers("/var/tmp", Verb::Read, device::Options::default());
        if memory {
            return println!("SKIPPED: /var/tmp is in memory, so there is no disk to wait for");
        }
        assert_eq!(tried, INLINE as usize, "direct {direct}");
        // What is no multiple of the alignment goes through the page cache, where a write may be flushed at once.
        let buffered =
            device::Options { offset: 512, length: Some(512 * 1024), ..device::Options::default() };
        let (_, direct, tried) = transfers("/var/tmp", Verb::Write, buffered);
        assert_eq!(tried, if direct { INLINE as usize } else { 0 });
        if std::path::Path::new("/dev/shm").is_dir() {
            let (memory, _, tried) = transfers("/dev/shm", Verb::Read, device::Options::default());
            assert_eq!(tried, if memory { 40 } else { INLINE as usize });
        }
    }

    /// A kernel that does what a script says: all of what it is asked for, some of it, nothing; and says so, or fails.
    #[derive(Clone, Copy, Debug)]
    enum Word {
        All,
        /// So many of 16 parts.
        Some(u8),
        /// So many of 16 parts, which need not end where a sector does.
        Odd(u8),
        Nothing,
        /// After so many of 16 parts.
        Error(u8, i32),
    }

    fn word() -> impl Strategy<Value = Word> {
        let errno =
            prop_oneof![Just(libc::EIO), Just(libc::ENOSPC), Just(libc::ETIMEDOUT), Just(libc::ENODEV)];
        prop_oneof![
            6 => Just(Word::All),
            3 => (0..16u8).prop_map(Word::Some),
            1 => (0..16u8).prop_map(Word::Odd),
            1 => Just(Word::Nothing),
            2 => (0..17u8, errno).prop_map(|(n, e)| Word::Error(n, e)),
            3 => Just(Word::Error(0, libc::EAGAIN)),
            1 => Just(Word::Error(0, libc::EINTR)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

        /// Whatever the kernel says and does: what is told to be done is done, all of it, and what is beside a job's bytes
        /// stays as it is, also when the job fails.
        #[test]
        fn nothing_is_acknowledged_that_was_not_done(
            (memory, unit) in prop_oneof![Just((512, 512)), Just((512, 1024)), Just((512, 4096)), Just((4096, 512)), Just((4096, 4096))],
            jobs in proptest::collection::vec((0..4u8, 0..64u64, 1..17u32), 1..6),
            words in proptest::collection::vec(word(), 0..60),
        ) {
            use crate::storage::{Ticket, device};
            const DISK: usize = 40960;
            let path = tempfile::NamedTempFile::new().unwrap();
            path.as_file().set_len(DISK as u64).unwrap();
            let options = device::Options::default();
            let device = device::open(path.path(), options).unwrap().pretend(Alignment { memory, offset: unit });
            let region = Arc::new(Region::heap(4));
            let mut runs = crate::frame::RunPool::new(&region, 0, 1).unwrap();
            let mut ring = UringStorage::new(Arc::clone(&region), 256, vec![device]).unwrap();
            let mut disk: Vec<u8> = (0..DISK).map(|i| (i / 512) as u8).collect();
            let mut words = words.into_iter();
            for (n, (kind, lba, sectors)) in (100u8..).zip(jobs) {
                let lba = lba.min(80 - u64::from(sectors));
                let (offset, len) = (lba * 512, sectors * 512);
                let own = offset as usize..offset as usize + len as usize;
                let before = disk.clone();
                let mut buffer = Buffer::Run(runs.take().unwrap());
                region.buffer_mut(&mut buffer, 0, limits::RUN).fill(n);
                let verb = [Verb::Read, Verb::Write, Verb::WriteThrough, Verb::Discard][usize::from(kind)];
                ring.submit(Job { ticket: Ticket(1), file: FileId(0), verb, offset, buffer, at: 0, len }).unwrap();
                while ring.done.is_empty() {
                    let word = words.next().unwrap_or(Word::All);
                    let index = ring.slots.iter().position(|slot| slot.job.is_some()).unwrap();
                    let slot = &mut ring.slots[index];
                    let (step, span, moved, bounce) = (slot.step, slot.span, slot.moved, slot.bounce);
                    let (generation, nowait) = (slot.generation, slot.nowait);
                    let left = span.len - moved;
                    let parts = |n: u8| (left / 16 * u32::from(n)).min(left);
                    let (does, says) = match word {
                        Word::All => (left, left as i32),
                        Word::Some(n) => (parts(n) / 512 * 512, (parts(n) / 512 * 512) as i32),
                        Word::Odd(n) => (parts(n) / 3, (parts(n) / 3) as i32),
                        Word::Nothing => (0, 0),
                        Word::Error(_, errno) if errno == libc::EAGAIN && nowait => (0, -errno),
                        Word::Error(n, errno) => (parts(n), -errno),
                    };
                    let place = span.offset as usize + moved as usize;
                    let place = place..place + does as usize;
                    let whole = moved as usize..(moved + does) as usize;
                    prop_assert!(span.end() <= DISK as u64);
                    let job = slot.job.as_mut().unwrap();
                    let says = match (step, verb) {
                        (Step::Whole, Verb::Read) => {
                            region.buffer_mut(&mut job.buffer, whole.start, whole.len()).copy_from_slice(&disk[place]);
                            says
                        }
                        (Step::Whole, _) => {
                            disk[place].copy_from_slice(region.buffer_mut(&mut job.buffer, whole.start, whole.len()));
                            says
                        }
                        (Step::Load, _) => {
                            ring.bounces.bytes(bounce.unwrap())[whole].copy_from_slice(&disk[place]);
                            says
                        }
                        (Step::Store, _) => {
                            disk[place].copy_from_slice(&ring.bounces.bytes(bounce.unwrap())[whole]);
                            says
                        }
                        // These do all and say 0, or fail.
                        (Step::Punch, _) => {
                            let all = span.offset as usize..span.end() as usize;
                            disk[if says < 0 { place } else { all }].fill(0);
                            says.min(0)
                        }
                        (Step::Flush, _) => says.min(0),
                    };
                    if matches!(step, Step::Load | Step::Store) {
                        prop_assert!(span.is_whole(unit), "{:?} of {}", span, unit);
                    }
                    ring.completed(index as u32, generation, says);
                }
                let mut done = ring.done.pop_front().unwrap();
                prop_assert!(ring.done.is_empty() && ring.in_flight() == 0);
                let memory = region.buffer_mut(&mut done.buffer, 0, limits::RUN);
                let (data, behind) = memory.split_at(len as usize);
                prop_assert!(behind.iter().all(|b| *b == n), "memory behind the data");
                for (i, (old, new)) in before.iter().zip(&disk).enumerate() {
                    prop_assert!(own.contains(&i) || old == new, "byte {} beside the job changed", i);
                }
                match (verb, done.result) {
                    (Verb::Read, Ok(())) => prop_assert!(*data == disk[own.clone()]),
                    (Verb::Discard, Ok(())) => prop_assert!(disk[own.clone()].iter().all(|b| *b == 0)),
                    (_, Ok(())) => prop_assert!(disk[own.clone()].iter().all(|b| *b == n)),
                    (Verb::Read, Err(_)) => {}
                    (_, Err(Failure::Unread(_))) => prop_assert!(before == disk, "written all the same"),
                    (_, Err(_)) => {}
                }
                prop_assert!(verb == Verb::Read || verb == Verb::Discard || data.iter().all(|b| *b == n));
                let Buffer::Run(run) = done.buffer else { panic!("another buffer") };
                runs.put_run(run);
            }
            // Nothing is kept: as many can be had as of a new one.
            let most = |share: &mut Share| (0..).take_while(|_| share.take(0)).count();
            prop_assert_eq!(most(&mut ring.threads), most(&mut Share::new(limits::IO_THREADS, 1, 1)));
            prop_assert_eq!(most(&mut ring.bouncing), most(&mut Share::new(limits::BOUNCES, 1, 1)));
            prop_assert_eq!(ring.free.len(), 256);
        }
    }

    #[test]
    fn a_discard_is_done_when_its_flush_is() {
        use crate::storage::{Ticket, device};
        let path = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        path.as_file().set_len(16384).unwrap();
        for (write_back, flushes) in [(false, true), (true, false)] {
            let options = device::Options { write_back, ..Default::default() };
            let file = device::open(path.path(), options).unwrap();
            if file.durability() == device::Durability::Ram {
                println!("SKIPPED: /var/tmp is in memory, so nothing is flushed there");
                return;
            }
            let mut ring = UringStorage::new(Arc::new(Region::heap(2)), 1, vec![file]).unwrap();
            // The kernel's word on the discard, then on the flush, and what comes of them.
            for (discard, flush, want) in [
                (0, 0, Ok(())),
                (0, -libc::EIO, Err(Failure::Unsynced(libc::EIO))),
                (0, -libc::EINTR, Err(Failure::Unsynced(libc::EINTR))),
                (-libc::EIO, 0, Err(Failure::Errno(libc::EIO))),
            ] {
                let index = ring.free.pop().unwrap();
                ring.busy[0] += 1;
                let slot = &mut ring.slots[index as usize];
                let job = Job {
                    ticket: Ticket(7),
                    file: FileId(0),
                    verb: Verb::Discard,
                    offset: 0,
                    buffer: Buffer::None,
                    at: 0,
                    len: 4096,
                };
                slot.job = Some(job);
                slot.pieces = MIDDLE;
                slot.take(Step::Punch, Span::new(0, 4096));
                let generation = slot.generation;
                ring.completed(index, generation, discard);
                if discard == 0 && flushes {
                    assert_eq!(ring.in_flight(), 1, "the flush is on its way");
                    assert_eq!(ring.ring.submission().len(), 1);
                    ring.completed(index, generation, flush);
                    // The one that was sent belongs to nothing now.
                    let stray = ring.stats.stray;
                    while ring.stats.stray == stray {
                        ring.turn();
                    }
                }
                let want = if flushes || discard != 0 { want } else { Ok(()) };
                let mut results = Vec::new();
                ring.reap(9, &mut |done| results.push(done.result));
                assert_eq!(results, [want], "{discard} {flush}");
            }
        }
    }

    #[test]
    fn a_write_whose_flag_is_doubted_is_done_when_its_flush_is() {
        use crate::storage::{Ticket, device};
        let path = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        path.as_file().set_len(16384).unwrap();
        for (write_back, verb, flushes) in [
            (false, Verb::Write, true),
            (false, Verb::WriteThrough, true),
            (false, Verb::Read, false),
            (true, Verb::Write, false),
            (true, Verb::WriteThrough, true),
        ] {
            let options = device::Options { write_back, ..Default::default() };
            let mut file = device::open(path.path(), options).unwrap();
            if file.durability() == device::Durability::Ram {
                println!("SKIPPED: /var/tmp is in memory, so nothing is flushed there");
                return;
            }
            file.doubt_flags();
            assert_eq!((file.write_flags(false), file.write_flags(true)), (0, 0));
            let mut ring = UringStorage::new(Arc::new(Region::heap(2)), 1, vec![file]).unwrap();
            // The kernel's word on the transfer, then on the flush, and what comes of them.
            for (transfer, flush, want) in [
                (4096, 0, Ok(())),
                (4096, -libc::EIO, Err(Failure::Unsynced(libc::EIO))),
                (4096, -libc::ENOSPC, Err(Failure::Unsynced(libc::ENOSPC))),
                (4096, -libc::EINTR, Err(Failure::Unsynced(libc::EINTR))),
                (-libc::EIO, 0, Err(Failure::Errno(libc::EIO))),
            ] {
                let index = ring.free.pop().unwrap();
                ring.busy[0] += 1;
                let slot = &mut ring.slots[index as usize];
                let (buffer, offset) = (Buffer::None, 0);
                slot.job =
                    Some(Job { ticket: Ticket(7), file: FileId(0), verb, offset, buffer, at: 0, len: 4096 });
                slot.take(Step::Whole, Span::new(0, 4096));
                let generation = slot.generation;
                ring.completed(index, generation, transfer);
                if transfer > 0 && flushes {
                    assert_eq!(ring.in_flight(), 1, "the flush is on its way");
                    assert_eq!(ring.ring.submission().len(), 1);
                    ring.completed(index, generation, flush);
                    // The one that was sent belongs to nothing now.
                    let stray = ring.stats.stray;
                    while ring.stats.stray == stray {
                        ring.turn();
                    }
                }
                let want = if flushes || transfer < 0 { want } else { Ok(()) };
                let mut results = Vec::new();
                ring.reap(9, &mut |done| results.push(done.result));
                assert_eq!(results, [want], "{verb:?} {transfer} {flush}");
            }
        }
    }

    #[test]
    fn the_thread_forgets_a_ring_with_its_storage() {
        // A thread can register 16, and one that stays registered stays open.
        for n in 0..40 {
            assert_eq!(ring().enter.1, IORING_ENTER_REGISTERED_RING, "ring {n}");
        }
    }

    #[test]
    fn refused_rings_say_what_to_do() {
        let error = |errno, disabled| setup_error(io::Error::from_raw_os_error(errno), disabled).to_string();
        assert!(error(libc::EPERM, 2).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(error(libc::EPERM, 1).contains("kernel.io_uring_group"));
        assert!(error(libc::EPERM, 0).contains("seccomp"));
        assert!(error(libc::EINVAL, 0).contains("Linux 6.1"));
    }
}
