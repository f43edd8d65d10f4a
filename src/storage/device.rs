//! Opens and measures what a slot stores on: a block device or a regular file.
//!
//! Not here: reading and writing (`uring`), slots and addresses (the caller adds the slot to an error).
//! Invariant: a [`Device`] is ours alone (claimed or locked until its descriptor closes; its own window of it, where
//! several slots share a backing), its size is a non-zero multiple of 512, and its [`Durability`] is never better than what the kernel says of it.

#![forbid(unsafe_code)]

use super::health::{Patient, Tongue};
use super::ioctl;
use crate::limits::{BOUNCE_UNIT, SECTOR};
use rustix::fs::{self, AtFlags, FallocateFlags, FileType, FlockOperation, OFlags, StatxFlags};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a backing that another program has is tried again. A process that was killed keeps its registered files
/// for some milliseconds after its end, until the kernel has taken its io_uring apart (io_ring_exit_work); the next
/// start must not stumble over that. Nor over a child process, which has copies of all descriptors until it executes
/// its program, nor over a ring that still serves other files and frees its last request with its next turn.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two tries.
const CLAIM_PAUSE: Duration = Duration::from_millis(20);

/// What the administrator chose for a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Open for reading only; nothing is ever written.
    pub read_only: bool,
    /// Acknowledge writes before they are durable; only a flush makes them so.
    pub write_back: bool,
    /// First byte that is served; a multiple of 512.
    pub offset: u64,
    /// Bytes that are served, a multiple of 512 and not 0; `None` for all behind `offset`.
    pub length: Option<u64>,
}

impl Options {
    /// What is served of a backing of so many bytes: whole sectors, 0 when the backing does not reach that far.
    fn served(self, whole: u64) -> u64 {
        let behind = whole.saturating_sub(self.offset) / SECTOR as u64 * SECTOR as u64;
        self.length.map_or(behind, |length| length.min(behind))
    }
}

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A block device.
    Block,
    /// A regular file.
    File,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block device",
            Self::File => "file",
        })
    }
}

/// When a write is on stable storage. `Display` is the word for the log and the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Each write carries RWF_DSYNC: it is durable before it is acknowledged.
    EachWrite,
    /// The device has no volatile cache, so a completed direct write is durable as it is.
    WriteThrough,
    /// Only a flush makes writes durable: the administrator chose write-back.
    OnFlush,
    /// Never: the backing is memory.
    Ram,
    /// Nothing is written.
    ReadOnly,
}

impl Durability {
    /// The flags of a write (`rw_flags` of pwritev2(2)); `through` when it must be durable whatever was chosen.
    #[must_use]
    pub fn write_flags(self, through: bool) -> i32 {
        match self {
            Self::EachWrite => libc::RWF_DSYNC,
            Self::OnFlush if through => libc::RWF_DSYNC,
            Self::WriteThrough | Self::OnFlush | Self::Ram | Self::ReadOnly => 0,
        }
    }

    /// Whether a discard is followed by a flush before it is done: where each write is durable, so that what a host was
    /// told to be zero does not come back with a power failure.
    #[must_use]
    pub fn discard_needs_flush(self) -> bool {
        self == Self::EachWrite
    }

    /// Whether an acknowledged write survives a power failure.
    #[must_use]
    pub fn holds(self) -> bool {
        matches!(self, Self::EachWrite | Self::WriteThrough)
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EachWrite => "yes (each write is synced)",
            Self::WriteThrough => "yes (write-through cache)",
            Self::OnFlush => "no (write-back, only after a flush)",
            Self::Ram => "no (RAM)",
            Self::ReadOnly => "read-only",
        })
    }
}

/// What O_DIRECT wants: powers of two, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of the memory address.
    pub memory: u32,
    /// Of offset and length in the file.
    pub offset: u32,
}

impl Alignment {
    fn fits(self, most: u32) -> bool {
        [self.memory, self.offset].into_iter().all(|n| n.is_power_of_two() && n <= most)
    }

    /// What a window has to begin and end on to be served by this: nothing beyond sectors where they fit, and whole pages
    /// elsewhere, so that neither a unit nor a page of the cache ever belongs to two slots.
    fn grain(self) -> u64 {
        if self.offset <= SECTOR as u32 { SECTOR as u64 } else { u64::from(BOUNCE_UNIT) }
    }
}

/// How the page cache is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// O_DIRECT, with this alignment. Where it is more than a sector, a write of less than a unit reads the unit, changes it
    /// and writes it back.
    Direct(Alignment),
    /// Through the page cache, because the backing cannot do O_DIRECT.
    Buffered,
    /// Through the page cache, because O_DIRECT would want units of this, which are too large, or of which what is served
    /// does not begin or end on one.
    Coarse(Alignment),
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(a) if a.offset as usize > SECTOR => {
                write!(f, "direct, in units of {} bytes", a.offset)
            }
            Self::Direct(_) => f.write_str("direct"),
            Self::Buffered => f.write_str("buffered (no O_DIRECT here)"),
            Self::Coarse(a) if a.fits(BOUNCE_UNIT) => write!(
                f,
                "buffered (O_DIRECT wants units of {} bytes, and offset or size are no multiple of {})",
                a.offset,
                a.grain()
            ),
            Self::Coarse(a) => write!(f, "buffered (O_DIRECT wants {} bytes)", a.offset.max(a.memory)),
        }
    }
}

/// Which file or device it is, whatever path it was reached by. Equal identities are the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A block device, by its number.
    Block {
        /// `st_rdev`.
        device: u64,
    },
    /// A regular file.
    File {
        /// `st_dev` of the file system.
        device: u64,
        /// `st_ino` in it.
        inode: u64,
    },
}

/// Why a backing cannot be served. Every message names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("{} does not exist; check {}", .0.display(), if .0.starts_with("/dev") { "the path, and that the device is there" } else { "the path (a file can be made with `truncate -s SIZE`)" })]
    Missing(PathBuf),
    /// It is something that cannot be served.
    #[error("{} is a {what}; name a block device or a regular file", .path.display())]
    NotStorage {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The permissions forbid it.
    #[error("{} may not be opened for {}; {}", .path.display(), if *.read_only { "reading" } else { "writing" },
        if *.read_only { "fix its permissions or run as a user who may" }
        else { "fix its permissions, or use `ro` to serve it read-only" })]
    NotPermitted {
        /// Where.
        path: PathBuf,
        /// Whether only reading was asked for.
        read_only: bool,
    },
    /// The medium or its file system is read-only.
    #[error("{} cannot be written: its device or file system is read-only; use `ro` to serve it read-only",
        .0.display())]
    NotWritable(PathBuf),
    /// Somebody else has it.
    #[error("{} is {by}", .path.display())]
    InUse {
        /// Where.
        path: PathBuf,
        /// Who has it.
        by: User,
    },
    /// It has no byte.
    #[error("{} is empty; give it a size (`truncate -s SIZE` for a file) or insert a medium", .0.display())]
    Empty(PathBuf),
    /// It does not hold whole sectors.
    #[error("{} has {size} bytes, which is not a multiple of 512; the nearest sizes are {} and {}",
        .path.display(), .size / 512 * 512, (.size / 512 + 1) * 512)]
    NotSectors {
        /// Where.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The window is not made of sectors.
    #[error("{}: offset {offset} and length {} must be multiples of 512 bytes{}", .path.display(),
        .length.map_or("(all)".to_owned(), |l| l.to_string()),
        if *.length == Some(0) { ", and the length not 0" } else { "" })]
    OddWindow {
        /// Where.
        path: PathBuf,
        /// The first byte to serve.
        offset: u64,
        /// Bytes to serve; `None` for all behind.
        length: Option<u64>,
    },
    /// The window reaches beyond the end.
    #[error("{} has {size} bytes, so there {} behind offset {offset}; lower offset or length, or enlarge it",
        .path.display(), .length.map_or("is nothing".to_owned(), |l| format!("are no {l} bytes")))]
    Outside {
        /// Where.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The first byte to serve.
        offset: u64,
        /// Bytes to serve; `None` for all behind.
        length: Option<u64>,
    },
    /// The path led somewhere else a moment later.
    #[error("{} was replaced while it was being opened; start again when it is left alone", .0.display())]
    Replaced(PathBuf),
    /// The kernel refused for another reason.
    #[error("{}: cannot {what}: {source}; the kernel log may say more", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Who uses a backing that we wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// It is mounted.
    Mount(PathBuf),
    /// Another block device is built on it.
    Holder(String),
    /// Some program; perhaps another slot.
    Program,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(at) => write!(f, "mounted on {}; unmount it first", at.display()),
            Self::Holder(name) => {
                write!(
                    f,
                    "used by {name} (device mapper, RAID or the like); release it there, or serve {name}"
                )
            }
            Self::Program => f.write_str(
                "mounted or used by another program, perhaps another target or another slot; \
                 `lsblk` and `fuser -v` name it",
            ),
        }
    }
}

/// An open backing and what is known of it.
#[derive(Debug)]
pub struct Device {
    file: OwnedFd,
    /// What keeps others away, where `file` does not: a backing of which several slots serve a part.
    _claim: Option<OwnedFd>,
    path: PathBuf,
    options: Options,
    backing: Backing,
    identity: Identity,
    size: u64,
    access: Access,
    durability: Durability,
    flag_doubted: bool,
    logical_block: u32,
    physical_block: u32,
    misalignment: u32,
    trims: bool,
    tongue: Option<Tongue>,
    rotational: Option<bool>,
    serial: String,
}

impl Device {
    /// The disk to ask for its health; `None` where there is none that could answer. As a [`Gauge`] it holds the claim.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn patient(&self) -> io::Result<Option<Patient>> {
        let Some(tongue) = self.tongue else { return Ok(None) };
        Ok(Some(Patient { file: self.file.try_clone()?, tongue }))
    }

    /// A descriptor that holds the claim on it, to open it again by.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn hold(&self) -> io::Result<OwnedFd> {
        self._claim.as_ref().unwrap_or(&self.file).try_clone()
    }

    /// What the administrator chose.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of thing it is.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Which one it is, to see that two slots name the same.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Bytes that are served; a multiple of 512, not 0 unless the backing shrank.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First byte that is served; a multiple of 512.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.options.offset
    }

    /// So many bytes are served from now on, or what of them is whole units.
    pub(super) fn resized(&mut self, bytes: u64) {
        self.size = bytes / self.grain() * self.grain();
    }

    /// What its size is a multiple of.
    fn grain(&self) -> u64 {
        self.alignment().map_or(SECTOR as u64, Alignment::grain)
    }

    /// What measures it again later, from any thread. Holds the claim as long as the device does: drop it as well to
    /// give the backing back.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn gauge(&self) -> io::Result<Gauge> {
        Ok(Gauge {
            file: self.file.try_clone()?,
            backing: self.backing,
            options: self.options,
            path: self.path.clone(),
            grain: self.grain(),
            cut: AtomicU64::new(0),
        })
    }

    /// Whether only reads are allowed.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.options.read_only
    }

    /// How the page cache is dealt with.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The alignment every transfer must have; `None` where none is needed.
    #[must_use]
    pub fn alignment(&self) -> Option<Alignment> {
        match self.access {
            Access::Direct(alignment) => Some(alignment),
            Access::Buffered | Access::Coarse(_) => None,
        }
    }

    /// Bytes that are written as a whole, from the first that is served on: a power of two, 512 where single sectors are.
    /// Two jobs that change the same unit must not be in flight together: each would write back what the other has changed.
    #[must_use]
    pub fn unit(&self) -> u32 {
        self.alignment().map_or(SECTOR as u32, |a| a.offset.max(SECTOR as u32))
    }

    /// Whether it is a block device that is not there any more: then it has no size. What the kernel says of a transfer
    /// there depends on how far it came: EIO, that no room is left, or that the end is reached (block/fops.c). Never waits.
    pub(super) fn has_vanished(&self) -> bool {
        self.backing == Backing::Block && ioctl::size(self.file.as_fd()).unwrap_or(0) == 0
    }

    /// As if O_DIRECT wanted this here.
    #[cfg(test)]
    pub(super) fn pretend(mut self, alignment: Alignment) -> Self {
        self.access = Access::Direct(alignment);
        self
    }

    /// When a write is durable.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The flags of a write (`rw_flags` of pwritev2(2)); `through` when it must be durable whatever was chosen.
    #[must_use]
    pub fn write_flags(&self, through: bool) -> i32 {
        if self.flag_doubted { 0 } else { self.durability.write_flags(through) }
    }

    /// Whether a write is followed by a flush before it is done, since nobody knows that its flag makes it durable.
    ///
    /// A file system has to heed RWF_DSYNC itself, and some do not in all their ways to write. FUSE only tells its server
    /// the flag where that serves a file around the page cache (fs/fuse/file.c, fuse_direct_write_iter), and servers that
    /// pass writes on do not look at it. 9p, SMB and others without cache do nothing about it at all (fs/netfs/direct_write.c,
    /// netfs_unbuffered_write_iter). Layers such as overlayfs are as good as what is below. Which way it goes cannot be
    /// seen from here.
    #[must_use]
    pub fn write_needs_flush(&self, through: bool) -> bool {
        self.flag_doubted && self.durability.write_flags(through) != 0
    }

    /// As a file of a file system that is not known to heed RWF_DSYNC.
    #[cfg(test)]
    pub(super) fn doubt_flags(&mut self) {
        self.flag_doubted = true;
    }

    /// Bytes of the smallest unit the device addresses; 512 for a file.
    #[must_use]
    pub fn logical_block(&self) -> u32 {
        self.logical_block
    }

    /// Bytes of the unit that is written without reading first; of the file system for a file.
    #[must_use]
    pub fn physical_block(&self) -> u32 {
        self.physical_block
    }

    /// Bytes from the start of a physical block to the first byte that is served; less than
    /// [`Device::physical_block`], and a multiple of 512.
    #[must_use]
    pub fn misalignment(&self) -> u32 {
        self.misalignment
    }

    /// Whether it can free what is not needed any more, and reads zeroes there.
    #[must_use]
    pub fn trims(&self) -> bool {
        self.trims
    }

    /// Whether it is a spinning disk; `None` where the kernel does not say.
    #[must_use]
    pub fn rotational(&self) -> Option<bool> {
        self.rotational
    }

    /// A serial number for IDENTIFY, 1 to 20 printable ASCII characters: the same after a restart, and different
    /// for different backings. A block device has its own (a partition one made from its disk's), a file one
    /// made from the machine's id and its path, a window that does not start at 0 one made from that of the whole.
    ///
    /// The path and not device and inode numbers: device numbers change between boots, and the inode does when
    /// an image is restored or replaced by renaming, while initiators keep names made from the serial.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Measures an open backing again.
#[derive(Debug)]
pub struct Gauge {
    file: OwnedFd,
    backing: Backing,
    options: Options,
    path: PathBuf,
    /// What is served is a multiple of so many bytes.
    grain: u64,
    /// Bytes behind the last whole unit, when last told.
    cut: AtomicU64,
}

impl Gauge {
    /// Bytes that could be served now, in whole units of the backing: 0 when it has become too short for any. Where that
    /// leaves sectors out, the log says so, once. A network or FUSE file system can take its time to answer; call it where
    /// that hurts nobody.
    ///
    /// # Errors
    /// What the kernel says: the device is gone, or the file system failed.
    pub fn size(&self) -> io::Result<u64> {
        let whole = whole(&self.file, self.backing)?;
        if whole == 0 && self.backing == Backing::Block {
            // A device that has vanished has no size any more (block/genhd.c, __blk_mark_disk_dead), nor has one without a
            // medium; it had one when it was opened.
            return Err(Errno::NXIO.into());
        }
        let all = self.options.served(whole);
        let cut = all % self.grain;
        if cut != self.cut.swap(cut, Ordering::Relaxed) && cut > 0 {
            tracing::warn!(
                "{}: its last {cut} bytes are not served, because it is written in units of {}; make its size a multiple \
                 of that, or start xshelf again to serve it through the page cache",
                self.path.display(),
                self.grain
            );
        }
        Ok(all - cut)
    }
}

/// Bytes of all of an open backing.
fn whole(file: &OwnedFd, backing: Backing) -> io::Result<u64> {
    match backing {
        Backing::Block => ioctl::size(file.as_fd()),
        // Never negative.
        Backing::File => Ok(u64::try_from(fs::fstat(file)?.st_size).unwrap_or(0)),
    }
}

/// Opens and measures a backing, and claims it: a block device exclusively (O_EXCL), a file with a lock (flock(2);
/// shared among read-only slots). The claim ends when the descriptor is closed.
///
/// # Errors
/// See [`OpenError`]; nothing was changed then.
pub fn open(path: &Path, options: Options) -> Result<Device, OpenError> {
    measure(claim(path, options)?, path, options)
}

/// Which backing a path leads to, without opening it.
///
/// # Errors
/// [`OpenError::Missing`], [`OpenError::NotStorage`], [`OpenError::NotPermitted`] or [`OpenError::Io`].
pub fn identity(path: &Path) -> Result<Identity, OpenError> {
    Ok(look(path)?.1)
}

/// Opens and claims a backing, without measuring it: all that needs privilege. One that another program has is tried
/// for [`CLAIM_PATIENCE`].
///
/// # Errors
/// See [`OpenError`].
pub fn claim(path: &Path, options: Options) -> Result<OwnedFd, OpenError> {
    let until = Instant::now() + CLAIM_PATIENCE;
    loop {
        match claim_now(path, options) {
            Err(OpenError::InUse { by: User::Program, .. }) if Instant::now() < until => {
                std::thread::sleep(CLAIM_PAUSE);
            }
            done => return done,
        }
    }
}

fn claim_now(path: &Path, options: Options) -> Result<OwnedFd, OpenError> {
    let system = System::default();
    let (backing, identity) = look(path)?;
    let in_use = |by| OpenError::InUse { path: path.into(), by };
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::LARGEFILE;
    flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if let Identity::Block { device } = identity {
        flags |= OFlags::EXCL;
        if !options.read_only && system.value(device, "ro").as_deref() == Some("1") {
            return Err(OpenError::NotWritable(path.into()));
        }
    }
    let file = loop {
        break match fs::open(path, flags, fs::Mode::empty()) {
            Ok(file) => file,
            Err(Errno::INTR) => continue,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(OpenError::Missing(path.into())),
            Err(Errno::ACCESS | Errno::PERM) => {
                return Err(OpenError::NotPermitted { path: path.into(), read_only: options.read_only });
            }
            Err(Errno::ROFS) => return Err(OpenError::NotWritable(path.into())),
            // A running program or an active swap file cannot be written.
            Err(Errno::TXTBSY) => return Err(in_use(User::Program)),
            Err(Errno::BUSY) => return Err(in_use(system.user(identity))),
            Err(Errno::NOMEDIUM) => return Err(OpenError::Empty(path.into())),
            Err(e) => return Err(OpenError::Io { path: path.into(), what: "open it", source: e.into() }),
        };
    };
    let stat = fs::fstat(&file).map_err(|e| OpenError::Io {
        path: path.into(),
        what: "look at it",
        source: e.into(),
    })?;
    if classify(path, &stat)?.1 != identity {
        return Err(OpenError::Replaced(path.into()));
    }
    if backing == Backing::File {
        let lock = if options.read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match fs::flock(&file, lock) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Err(in_use(User::Program)),
            Err(e) => return Err(OpenError::Io { path: path.into(), what: "lock it", source: e.into() }),
        }
    }
    Ok(file)
}

/// Opens a backing once more that `claimed` holds for this process, for another slot that serves another part of it. A
/// descriptor of its own and not a copy: the kernel tells the loss of cached data to each opened file once, and what one
/// slot lost must not be told to another.
///
/// # Errors
/// See [`OpenError`].
pub fn open_again(claimed: BorrowedFd<'_>, path: &Path, options: Options) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::LARGEFILE;
    let flags = flags | if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    // Not by its path, which may lead somewhere else by now.
    let same = format!("/proc/self/fd/{}", claimed.as_raw_fd());
    fs::open(same, flags, fs::Mode::empty()).map_err(|e| match e {
        Errno::ACCESS | Errno::PERM => {
            OpenError::NotPermitted { path: path.into(), read_only: options.read_only }
        }
        e => OpenError::Io { path: path.into(), what: "open it for a second slot", source: e.into() },
    })
}

/// Measures a backing that [`claim`] opened with the same path and options.
///
/// # Errors
/// See [`OpenError`].
pub fn measure(file: OwnedFd, path: &Path, options: Options) -> Result<Device, OpenError> {
    measure_with(file, None, path, options)
}

/// Measures a backing that [`open_again`] opened, and keeps `claim` for it.
///
/// # Errors
/// See [`OpenError`].
pub fn measure_part(
    file: OwnedFd,
    claim: OwnedFd,
    path: &Path,
    options: Options,
) -> Result<Device, OpenError> {
    measure_with(file, Some(claim), path, options)
}

fn measure_with(
    file: OwnedFd,
    claim: Option<OwnedFd>,
    path: &Path,
    options: Options,
) -> Result<Device, OpenError> {
    let system = System::default();
    let io = |what| move |e: Errno| OpenError::Io { path: path.into(), what, source: e.into() };
    let stat = fs::fstat(&file).map_err(io("look at it"))?;
    let (backing, identity) = classify(path, &stat)?;
    let size = whole(&file, backing)
        .map_err(|source| OpenError::Io { path: path.into(), what: "measure it", source })
        .and_then(|whole| window(path, whole, options))?;

    let file_system = fs::fstatfs(&file).map_err(io("look at its file system"))?;
    let (logical_block, physical_block, memory, disk) = match identity {
        Identity::Block { device } => {
            let logical = fs::ioctl_blksszget(&file).map_err(io("ask for its block size"))?;
            let physical = fs::ioctl_blkpbszget(&file).unwrap_or(logical).max(logical);
            (logical, physical, system.is_memory(device), device)
        }
        Identity::File { device, .. } => {
            let block = u32::try_from(file_system.f_bsize).ok().filter(|b| (512..=65536).contains(b));
            let block = block.filter(|b| b.is_power_of_two()).unwrap_or(4096);
            (SECTOR as u32, block, MEMORY.contains(&magic(&file_system)), device)
        }
    };

    let reported = fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN)
        .ok()
        .filter(|x| x.stx_mask & StatxFlags::DIOALIGN.bits() != 0)
        .map(|x| Alignment { memory: x.stx_dio_mem_align, offset: x.stx_dio_offset_align });
    let known = match backing {
        Backing::Block => Some(logical_block),
        Backing::File if KNOWN_GOOD.contains(&magic(&file_system)) => system.logical_block(disk),
        Backing::File => None,
    };
    let known = known.map(|b| Alignment { memory: b, offset: b });
    let mut access = access(reported, known, memory, (options.offset, size));
    if let Access::Direct(_) = access {
        let set = fs::fcntl_getfl(&file)
            .and_then(|flags| fs::fcntl_setfl(&file, flags | OFlags::DIRECT))
            .and_then(|()| Ok(fs::fcntl_getfl(&file)?.contains(OFlags::DIRECT)));
        if !matches!(set, Ok(true)) {
            access = Access::Buffered;
        }
    }
    let durability = durability(Facts {
        backing,
        memory,
        direct: matches!(access, Access::Direct(_)),
        write_through: system.write_through(disk),
        options,
    });
    let unit = match access {
        Access::Direct(a) => a.offset.max(SECTOR as u32),
        Access::Buffered | Access::Coarse(_) => SECTOR as u32,
    };
    let physical_block = physical_block.max(unit);
    let misalignment = system.misalignment(identity, physical_block, options.offset);
    let trims = !options.read_only
        && match identity {
            // What is less than one of its blocks is overwritten with zeroes, where we write such parts ourselves.
            Identity::Block { device } => logical_block <= unit && system.trims(device),
            Identity::File { .. } => punches(&file, physical_block),
        };
    let tongue = match identity {
        Identity::Block { device } => system.tongue(device),
        Identity::File { .. } => None,
    };
    let rotational = system.queue(disk, "rotational").and_then(|v| match v.as_str() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    });
    let serial = part_serial(system.serial(path, identity), options.offset);
    Ok(Device {
        file,
        _claim: claim,
        path: path.into(),
        options,
        backing,
        identity,
        size,
        access,
        durability,
        flag_doubted: backing == Backing::File && !HEEDS_DSYNC.contains(&magic(&file_system)),
        logical_block,
        physical_block,
        misalignment,
        trims,
        tongue,
        rotational,
        serial,
    })
}

/// Bytes that are served of a backing of `whole` bytes.
fn window(path: &Path, whole: u64, options: Options) -> Result<u64, OpenError> {
    let Options { offset, length, .. } = options;
    let unit = SECTOR as u64;
    let path = || path.to_path_buf();
    if whole == 0 {
        return Err(OpenError::Empty(path()));
    }
    if offset % unit != 0 || length.is_some_and(|l| l == 0 || l % unit != 0) {
        return Err(OpenError::OddWindow { path: path(), offset, length });
    }
    if length.is_none() && whole % unit != 0 {
        return Err(OpenError::NotSectors { path: path(), size: whole });
    }
    match options.served(whole) {
        0 => Err(OpenError::Outside { path: path(), size: whole, offset, length }),
        served if length.is_some_and(|l| l != served) => {
            Err(OpenError::Outside { path: path(), size: whole, offset, length })
        }
        served => Ok(served),
    }
}

/// Whether holes can be punched into a file, by punching one behind its end. There is nothing to lose: the file has no
/// data there and keeps its size. Asking beats knowing: it depends on file system, server (NFS, FUSE) and mount.
fn punches(file: &OwnedFd, block: u32) -> bool {
    let Ok(stat) = fs::fstat(file) else { return false };
    let block = u64::from(block);
    // A block of its own, so that not even what is left of the last one is touched.
    let Some(behind) = u64::try_from(stat.st_size).ok().and_then(|s| s.checked_next_multiple_of(block))
    else {
        return false;
    };
    fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, behind, block).is_ok()
}

/// The serial of a part of a backing. The whole, and what starts with it, is known by its own.
fn part_serial(whole: String, offset: u64) -> String {
    if offset == 0 { whole } else { hashed(&["part", &whole, &offset.to_string()]) }
}

/// File systems in memory (statfs(2)): tmpfs, ramfs, hugetlbfs.
const MEMORY: [u32; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// File systems whose O_DIRECT wants what the disk below wants, should they not say so: ext2/3/4, XFS.
const KNOWN_GOOD: [u32; 2] = [0xef53, 0x5846_5342];

/// File systems that sync behind every write with RWF_DSYNC (statfs(2)): ext2/3/4, XFS, Btrfs, F2FS, NFS, ZFS.
const HEEDS_DSYNC: [u32; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x6969, 0x2fc1_2fc1];

/// Whether a file or directory lies in memory, and is gone after a reboot; not, if the kernel does not say.
#[must_use]
pub fn in_memory(file: impl AsFd) -> bool {
    fs::fstatfs(file).is_ok_and(|file_system| MEMORY.contains(&magic(&file_system)))
}

fn magic(file_system: &fs::StatFs) -> u32 {
    // A 32-bit number, whatever the type of the field on this machine.
    file_system.f_type as u32
}

fn look(path: &Path) -> Result<(Backing, Identity), OpenError> {
    match fs::stat(path) {
        Ok(stat) => classify(path, &stat),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(OpenError::Missing(path.into())),
        Err(Errno::ACCESS) => Err(OpenError::NotPermitted { path: path.into(), read_only: true }),
        Err(e) => Err(OpenError::Io { path: path.into(), what: "look at it", source: e.into() }),
    }
}

fn classify(path: &Path, stat: &fs::Stat) -> Result<(Backing, Identity), OpenError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            return Ok((Backing::File, Identity::File { device: stat.st_dev, inode: stat.st_ino }));
        }
        FileType::BlockDevice => return Ok((Backing::Block, Identity::Block { device: stat.st_rdev })),
        FileType::Directory => "directory",
        FileType::CharacterDevice => "character device",
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        FileType::Symlink | FileType::Unknown => "thing without data",
    };
    Err(OpenError::NotStorage { path: path.into(), what })
}

/// O_DIRECT only where the kernel says (or, when it says nothing, is known to mean) that sectors fit, or units that the window
/// (its first byte and its bytes) is made of.
fn access(
    reported: Option<Alignment>,
    known: Option<Alignment>,
    memory: bool,
    (offset, size): (u64, u64),
) -> Access {
    if memory && reported.is_none() {
        return Access::Buffered;
    }
    match reported.or(known) {
        None | Some(Alignment { memory: 0, .. } | Alignment { offset: 0, .. }) => Access::Buffered,
        Some(a) if a.fits(BOUNCE_UNIT) && offset % a.grain() == 0 && size % a.grain() == 0 => {
            Access::Direct(a)
        }
        Some(a) => Access::Coarse(a),
    }
}

/// What the durability of a backing depends on.
#[derive(Clone, Copy, Debug)]
struct Facts {
    backing: Backing,
    memory: bool,
    direct: bool,
    /// `None` when the kernel does not say.
    write_through: Option<bool>,
    options: Options,
}

/// The Linux initiator never sends a flush, so a write must be durable before it is acknowledged. Files need
/// RWF_DSYNC even on a write-through disk: a hole or an unwritten extent is only there after its journal commit.
fn durability(facts: Facts) -> Durability {
    if facts.memory {
        Durability::Ram
    } else if facts.options.read_only {
        Durability::ReadOnly
    } else if facts.options.write_back {
        Durability::OnFlush
    } else if facts.backing == Backing::Block && facts.direct && facts.write_through == Some(true) {
        Durability::WriteThrough
    } else {
        Durability::EachWrite
    }
}

/// What /sys, /proc and /etc say of devices; another root in tests.
struct System {
    root: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

impl System {
    fn read(&self, path: &Path) -> Option<String> {
        let text = std::fs::read(self.root.join(path)).ok()?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn directory(device: u64) -> PathBuf {
        PathBuf::from(format!("sys/dev/block/{}:{}", fs::major(device), fs::minor(device)))
    }

    fn value(&self, device: u64, name: &str) -> Option<String> {
        self.read(&Self::directory(device).join(name))
    }

    /// Number of the partition, when it is one.
    fn partition(&self, device: u64) -> Option<String> {
        self.value(device, "partition")
    }

    /// The directory of the whole disk: a partition's is below it.
    fn disk(&self, device: u64) -> PathBuf {
        let directory = Self::directory(device);
        if self.partition(device).is_none() {
            return directory;
        }
        // Not `..` in the path: the entry is a symbolic link, and a lexical clean-up would lead elsewhere.
        std::fs::canonicalize(self.root.join(&directory))
            .ok()
            .and_then(|p| p.parent().map(Path::to_path_buf))
            .unwrap_or(directory)
    }

    fn queue(&self, device: u64, name: &str) -> Option<String> {
        self.read(&self.disk(device).join("queue").join(name))
    }

    fn write_through(&self, device: u64) -> Option<bool> {
        match self.queue(device, "write_cache")?.as_str() {
            "write through" => Some(true),
            "write back" => Some(false),
            _ => None,
        }
    }

    /// Whether a device frees what is discarded, and reads zeroes there without writing them itself: what
    /// FALLOC_FL_PUNCH_HOLE on a block device needs (block/fops.c, blkdev_fallocate). A device that zeroes but frees
    /// nothing would only wear out.
    fn trims(&self, device: u64) -> bool {
        let more_than_none =
            |name| self.queue(device, name).and_then(|v| v.parse::<u64>().ok()).is_some_and(|n| n > 0);
        more_than_none("discard_max_bytes") && more_than_none("write_zeroes_max_bytes")
    }

    /// See [`Device::misalignment`]. The kernel tells the distance to the first boundary of a physical block, and -1
    /// where it cannot be told (Documentation/ABI/stable/sysfs-block, alignment_offset). A file starts on one.
    fn misalignment(&self, identity: Identity, physical_block: u32, offset: u64) -> u32 {
        let block = u64::from(physical_block.max(1));
        let to_boundary = match identity {
            Identity::Block { device } => {
                self.value(device, "alignment_offset").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0)
            }
            Identity::File { .. } => 0,
        };
        // Less than a block, which has 32 bits.
        ((block - to_boundary % block + offset % block) % block) as u32
    }

    fn logical_block(&self, device: u64) -> Option<u32> {
        self.queue(device, "logical_block_size")?.parse().ok()
    }

    /// The kernel's name of the disk, without the partition.
    fn name(&self, device: u64) -> String {
        let name = std::fs::canonicalize(self.root.join(self.disk(device))).ok();
        let name = name.as_deref().and_then(Path::file_name).and_then(|n| n.to_str());
        name.unwrap_or_default().to_owned()
    }

    /// The language in which a disk can be asked for its health. libata and SAS controllers call the vendor of every ATA
    /// disk so (SAT-3, section 8.1.2); a USB adapter usually names itself.
    fn tongue(&self, device: u64) -> Option<Tongue> {
        let name = self.name(device);
        if name.starts_with("nvme") {
            return Some(Tongue::Nvme);
        }
        let vendor = self.read(&self.disk(device).join("device/vendor"));
        (name.starts_with("sd") && vendor.as_deref() == Some("ATA")).then_some(Tongue::Ata)
    }

    /// Whether the disk is memory: brd and zram.
    fn is_memory(&self, device: u64) -> bool {
        let name = self.name(device);
        ["ram", "zram"]
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix))
            .any(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    }

    /// Who has a device that was busy.
    fn user(&self, identity: Identity) -> User {
        let Identity::Block { device } = identity else { return User::Program };
        let number = format!("{}:{}", fs::major(device), fs::minor(device));
        // proc_pid_mountinfo(5): ID, parent, major:minor, root, mount point; blanks in it are octal.
        let mounts = self.read(Path::new("proc/thread-self/mountinfo")).unwrap_or_default();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(2);
            if fields.next() == Some(&number) {
                if let Some(at) = fields.nth(1) {
                    return User::Mount(at.replace("\\040", " ").into());
                }
            }
        }
        let holders = self.root.join(Self::directory(device)).join("holders");
        let holder = std::fs::read_dir(holders).ok().and_then(|mut d| d.next()?.ok());
        match holder {
            Some(entry) => User::Holder(entry.file_name().to_string_lossy().into_owned()),
            None => User::Program,
        }
    }

    fn serial(&self, path: &Path, identity: Identity) -> String {
        if let Identity::Block { device } = identity {
            let disk = self.disk(device);
            let own = ["serial", "device/serial", "wwid", "device/wwid", "dm/uuid", "md/uuid"]
                .iter()
                .filter_map(|name| self.read(&disk.join(name)))
                .find(|text| names_something(text));
            if let Some(own) = own {
                return match self.partition(device) {
                    None if own.len() <= SERIAL && own.bytes().all(|b| b.is_ascii_graphic()) => own,
                    None => hashed(&["disk", &own]),
                    Some(number) => hashed(&["partition", &own, &number]),
                };
            }
            if let Some(file) = self.read(&disk.join("loop/backing_file")) {
                let number = self.partition(device).unwrap_or_default();
                return hashed(&["loop", &self.machine(), &file, &number]);
            }
        }
        let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        hashed(&["path", &self.machine(), &full.to_string_lossy()])
    }

    /// The machine's id. Without one, serials of equal paths on two machines are equal: they can be configured.
    fn machine(&self) -> String {
        self.read(Path::new("etc/machine-id")).unwrap_or_default()
    }
}

/// Characters of an ATA serial number (ACS-2, 7.12.7.10, words 10 to 19).
const SERIAL: usize = 20;

/// Cheap adapters report one and the same digit.
fn names_something(serial: &str) -> bool {
    let mut bytes = serial.bytes();
    bytes.next().is_some_and(|first| bytes.any(|b| b != first))
}

/// A serial from these parts. FNV-1a, because the answer must be the same in every release; its 64 bits do not
/// give the machine's id away.
fn hashed(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("XS{hash:016X}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SD: u64 = 0x0800;

    fn system() -> (tempfile::TempDir, System) {
        let root = tempfile::tempdir().unwrap();
        let system = System { root: root.path().into() };
        for (path, text) in [
            ("sys/devices/a/block/sda/queue/write_cache", "write through\n"),
            ("sys/devices/a/block/sda/queue/rotational", "1\n"),
            ("sys/devices/a/block/sda/queue/logical_block_size", "512\n"),
            ("sys/devices/a/block/sda/device/wwid", "naa.5000c500a1b2c3d4\n"),
            ("sys/devices/a/block/sda/device/vendor", "ATA     \n"),
            ("sys/devices/c/block/sdb/device/vendor", "SEAGATE \n"),
            ("sys/devices/c/block/nvme0n1/nvme0n1p1/partition", "1\n"),
            ("sys/devices/a/block/sda/alignment_offset", "0\n"),
            ("sys/devices/a/block/sda/queue/discard_max_bytes", "2147450880\n"),
            ("sys/devices/a/block/sda/queue/write_zeroes_max_bytes", "2147450880\n"),
            ("sys/devices/a/block/sda/sda2/alignment_offset", "512\n"),
            ("sys/devices/a/block/sda/sda3/alignment_offset", "-1\n"),
            ("sys/devices/b/block/vdb/queue/discard_max_bytes", "2147450880\n"),
            ("sys/devices/b/block/vdb/queue/write_zeroes_max_bytes", "0\n"),
            ("sys/devices/b/block/vdc/queue/discard_max_bytes", "0\n"),
            ("sys/devices/b/block/vdc/queue/write_zeroes_max_bytes", "2147450880\n"),
            ("sys/devices/a/block/sda/sda2/partition", "2\n"),
            ("sys/devices/a/block/sda/sda3/partition", "3\n"),
            ("sys/devices/b/block/zram0/queue/write_cache", "write back\n"),
            ("sys/devices/b/block/ramses/queue/write_cache", "nonsense\n"),
            ("sys/devices/b/block/vdb/serial", "0000000000\n"),
            ("sys/devices/b/block/vdc/serial", "t10.ATA  a long name with blanks\n"),
            ("sys/devices/b/block/loop0/loop/backing_file", "/var/lib/image\n"),
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("proc/thread-self/mountinfo", "22 1 8:0 / /mnt/a\\040b rw - ext4 /dev/sda rw\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(root.path().join("sys/devices/a/block/sda/sda3/holders/dm-7")).unwrap();
        std::fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
        for (number, to) in [
            ("8:0", "a/block/sda"),
            ("8:2", "a/block/sda/sda2"),
            ("8:3", "a/block/sda/sda3"),
            ("253:0", "b/block/zram0"),
            ("253:1", "b/block/ramses"),
            ("254:1", "b/block/vdb"),
            ("254:2", "b/block/vdc"),
            ("7:0", "b/block/loop0"),
            ("8:16", "c/block/sdb"),
            ("259:0", "c/block/nvme0n1"),
            ("259:1", "c/block/nvme0n1/nvme0n1p1"),
        ] {
            symlink(format!("../../devices/{to}"), root.path().join("sys/dev/block").join(number)).unwrap();
        }
        (root, system)
    }

    fn block(major: u32, minor: u32) -> u64 {
        fs::makedev(major, minor)
    }

    #[test]
    fn partitions_look_at_their_disk() {
        let (_root, s) = system();
        assert_eq!(block(8, 0), SD);
        for minor in [0, 2, 3] {
            assert_eq!(s.write_through(block(8, minor)), Some(true));
            assert_eq!(s.queue(block(8, minor), "rotational").as_deref(), Some("1"));
            assert_eq!(s.logical_block(block(8, minor)), Some(512));
        }
        assert_eq!(s.write_through(block(253, 0)), Some(false));
        assert_eq!(s.write_through(block(253, 1)), None, "an unknown word is no promise");
        assert_eq!(s.write_through(block(9, 9)), None, "nor is silence");
    }

    #[test]
    fn only_disks_that_understand_are_asked_for_their_health() {
        let (_root, s) = system();
        for (device, want) in [
            (block(8, 0), Some(Tongue::Ata)),
            (block(8, 2), Some(Tongue::Ata)),
            (block(8, 16), None),
            (block(259, 0), Some(Tongue::Nvme)),
            (block(259, 1), Some(Tongue::Nvme)),
            (block(7, 0), None),
            (block(9, 9), None),
        ] {
            assert_eq!(s.tongue(device), want, "{device:#x}");
        }
    }

    #[test]
    fn only_what_frees_and_zeroes_trims() {
        let (_root, s) = system();
        for (device, want) in [
            (block(8, 0), true),
            (block(8, 2), true),
            (block(254, 1), false),
            (block(254, 2), false),
            (block(9, 9), false),
        ] {
            assert_eq!(s.trims(device), want, "{device:#x}");
        }
    }

    #[test]
    fn the_first_sector_is_so_far_into_a_physical_block() {
        let (_root, s) = system();
        for (device, physical, offset, want) in [
            (block(8, 0), 4096, 0, 0),
            (block(8, 0), 512, 0, 0),
            (block(8, 0), 4096, 512, 512),
            (block(8, 0), 4096, 4096 * 3 + 1024, 1024),
            // A partition at sector 63: one sector to the boundary, seven into the block.
            (block(8, 2), 4096, 0, 3584),
            (block(8, 2), 4096, 512, 0),
            (block(8, 2), 4096, 1024, 512),
            (block(8, 3), 4096, 0, 0),
            (block(9, 9), 4096, 512, 512),
        ] {
            let got = s.misalignment(Identity::Block { device }, physical, offset);
            assert_eq!(got, want, "{device:#x} {physical} {offset}");
        }
        assert_eq!(s.misalignment(Identity::File { device: SD, inode: 1 }, 4096, 63 * 512), 3584);
    }

    #[test]
    fn a_window_lies_within_its_backing() {
        let path = Path::new("/srv/a");
        let part = |offset, length| Options { offset, length, ..Options::default() };
        for (whole, offset, length, want) in [
            (4096, 0, None, 4096),
            (4096, 512, None, 3584),
            (4096, 512, Some(512), 512),
            (4096, 3584, Some(512), 512),
            (4100, 512, Some(3584), 3584),
        ] {
            assert_eq!(window(path, whole, part(offset, length)).unwrap(), want);
        }
        for (whole, offset, length, want) in [
            (0, 0, None, "/srv/a is empty"),
            (4100, 0, None, "has 4100 bytes, which is not a multiple of 512"),
            (4096, 1, None, "offset 1 and length (all) must be multiples of 512 bytes"),
            (4096, 0, Some(100), "offset 0 and length 100 must be"),
            (4096, 0, Some(0), "and the length not 0"),
            (4096, 4096, None, "has 4096 bytes, so there is nothing behind offset 4096; lower"),
            (4096, 512, Some(4096), "has 4096 bytes, so there are no 4096 bytes behind offset 512; lower"),
            (4096, u64::MAX - 511, Some(512), "so there are no 512 bytes behind"),
        ] {
            let e = window(path, whole, part(offset, length)).unwrap_err().to_string();
            assert!(e.contains(want) && e.starts_with("/srv/a"), "{e}");
        }
        // What is measured later may be anything.
        for (whole, offset, length, want) in [
            (0, 0, None, 0),
            (511, 0, None, 0),
            (1000, 0, None, 512),
            (1000, 512, None, 0),
            (4096, 1024, Some(1024), 1024),
            (1600, 1024, Some(1024), 512),
            (1000, 1024, Some(1024), 0),
        ] {
            assert_eq!(part(offset, length).served(whole), want);
        }
    }

    #[test]
    fn parts_have_serials_of_their_own() {
        assert_eq!(part_serial("A".into(), 0), "A");
        let parts =
            [part_serial("A".into(), 512), part_serial("A".into(), 1024), part_serial("B".into(), 512)];
        assert!(parts.iter().all(|s| s.len() <= SERIAL && s.starts_with("XS")), "{parts:?}");
        assert!(parts[0] != parts[1] && parts[0] != parts[2]);
    }

    #[test]
    fn memory_disks_are_known_by_name() {
        let (_root, s) = system();
        assert!(s.is_memory(block(253, 0)));
        assert!(!s.is_memory(block(253, 1)));
        assert!(!s.is_memory(block(8, 2)));
    }

    #[test]
    fn a_busy_device_names_who_has_it() {
        let (_root, s) = system();
        let user = |minor| s.user(Identity::Block { device: block(8, minor) });
        assert_eq!(user(0), User::Mount("/mnt/a b".into()));
        assert_eq!(user(3), User::Holder("dm-7".into()));
        assert_eq!(user(2), User::Program);
        assert_eq!(s.user(Identity::File { device: SD, inode: 1 }), User::Program);
    }

    #[test]
    fn serials_are_short_printable_stable_and_different() {
        let (_root, s) = system();
        let dev = Path::new("/dev/does-not-exist");
        let of = |device| s.serial(dev, Identity::Block { device });
        assert_eq!(of(block(8, 0)), "naa.5000c500a1b2c3d4");
        // Fixed: initiators keep names made from these.
        assert_eq!(of(block(8, 2)), hashed(&["partition", "naa.5000c500a1b2c3d4", "2"]));
        assert_eq!(hashed(&["a", "b"]), "XSAB40D7820D408076");
        let file = |path: &str| s.serial(Path::new(path), Identity::File { device: 1, inode: 1 });
        let all = [
            of(block(8, 0)),
            of(block(8, 2)),
            of(block(8, 3)),
            of(block(254, 1)),
            of(block(254, 2)),
            of(block(7, 0)),
            file("/nowhere/a"),
            file("/nowhere/b"),
        ];
        for (i, serial) in all.iter().enumerate() {
            assert!((1..=SERIAL).contains(&serial.len()), "{serial}");
            assert!(serial.bytes().all(|b| b.is_ascii_graphic()), "{serial}");
            assert!(!all[..i].contains(serial), "{serial} twice");
        }
        let (other_root, other) = system();
        assert_eq!(other.serial(Path::new("/nowhere/a"), Identity::File { device: 2, inode: 9 }), all[6]);
        std::fs::write(other_root.path().join("etc/machine-id"), "ffffffffffffffffffffffffffffffff\n")
            .unwrap();
        assert_ne!(other.serial(Path::new("/nowhere/a"), Identity::File { device: 1, inode: 1 }), all[6]);
    }

    #[test]
    fn direct_only_where_sectors_fit() {
        let a = |memory, offset| Alignment { memory, offset };
        for (reported, known, memory, want) in [
            (Some(a(512, 512)), None, false, Access::Direct(a(512, 512))),
            (Some(a(4, 512)), None, false, Access::Direct(a(4, 512))),
            (Some(a(512, 4096)), Some(a(512, 512)), false, Access::Direct(a(512, 4096))),
            (Some(a(4096, 512)), None, false, Access::Direct(a(4096, 512))),
            (Some(a(512, 8192)), None, false, Access::Coarse(a(512, 8192))),
            (Some(a(8192, 512)), None, false, Access::Coarse(a(8192, 512))),
            (Some(a(0, 0)), Some(a(512, 512)), false, Access::Buffered),
            (Some(a(3, 512)), None, false, Access::Coarse(a(3, 512))),
            (None, Some(a(512, 512)), false, Access::Direct(a(512, 512))),
            (None, Some(a(4096, 4096)), false, Access::Direct(a(4096, 4096))),
            (None, None, false, Access::Buffered),
            (None, Some(a(512, 512)), true, Access::Buffered),
        ] {
            let got = access(reported, known, memory, (8192, 1 << 20));
            assert_eq!(got, want, "{reported:?} {known:?} {memory}");
        }
        for (alignment, offset, size, direct) in [
            (a(512, 4096), 4096, 4096, true),
            (a(512, 4096), 0, 4096 + 512, false),
            (a(512, 4096), 512, 4096, false),
            // Pages of the cache are not to be shared with the slot beside it either.
            (a(512, 1024), 1024, 4096, false),
            (a(512, 1024), 4096, 8192, true),
            (a(4096, 512), 512, 512, true),
        ] {
            let got = access(Some(alignment), None, false, (offset, size));
            assert_eq!(matches!(got, Access::Direct(_)), direct, "{alignment:?} {offset} {size}");
        }
    }

    #[test]
    fn durability_is_never_promised_without_proof() {
        let file = Facts {
            backing: Backing::File,
            memory: false,
            direct: true,
            write_through: Some(true),
            options: Options::default(),
        };
        let block = Facts { backing: Backing::Block, ..file };
        let write_back = Options { write_back: true, ..Options::default() };
        let read_only = Options { read_only: true, ..Options::default() };
        for (facts, want) in [
            (file, Durability::EachWrite),
            (Facts { direct: false, ..file }, Durability::EachWrite),
            (block, Durability::WriteThrough),
            (Facts { direct: false, ..block }, Durability::EachWrite),
            (Facts { write_through: Some(false), ..block }, Durability::EachWrite),
            (Facts { write_through: None, ..block }, Durability::EachWrite),
            (Facts { options: write_back, ..file }, Durability::OnFlush),
            (Facts { options: write_back, ..block }, Durability::OnFlush),
            (Facts { options: read_only, ..block }, Durability::ReadOnly),
            (Facts { memory: true, ..file }, Durability::Ram),
            (Facts { memory: true, ..block }, Durability::Ram),
            (Facts { memory: true, options: write_back, ..file }, Durability::Ram),
        ] {
            assert_eq!(durability(facts), want, "{facts:?}");
        }
        const SYNC: i32 = libc::RWF_DSYNC;
        for (durability, flags, through, flush, holds) in [
            (Durability::EachWrite, SYNC, SYNC, true, true),
            (Durability::WriteThrough, 0, 0, false, true),
            (Durability::OnFlush, 0, SYNC, false, false),
            (Durability::Ram, 0, 0, false, false),
            (Durability::ReadOnly, 0, 0, false, false),
        ] {
            assert_eq!((durability.write_flags(false), durability.write_flags(true)), (flags, through));
            assert_eq!(
                (durability.discard_needs_flush(), durability.holds()),
                (flush, holds),
                "{durability}"
            );
        }
    }
}
