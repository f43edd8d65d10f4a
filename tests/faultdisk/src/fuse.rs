//! The file system: one directory, whose requests are let through, failed, or held back.
//!
//! Not here: what the disk keeps (`disk`), which requests fail (`faults`).
//! Invariant: every request is answered once: at once, when its file hangs no more, or with EIO once the power is back.
//! A file opened before a power cut is dead for ever: the numbers of files change with each cut, so that nothing the
//! kernel remembers of one can be mistaken for what came after.

use crate::disk::{BLOCK, Cut, Disk, Errno, Random};
use crate::faults::{Effect, Fault, Faults, Kind};
use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel is to remember nothing.
const NEVER: Duration = Duration::ZERO;
/// Blocks told by statfs(2) while there is no limit.
const BLOCKS: u64 = 1 << 20;

/// What becomes of a request.
enum Verdict {
    Go,
    Half,
    Fail(Errno),
}

type Job = Box<dyn FnOnce(&mut World, Verdict) + Send>;

/// How much was done.
#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    reads: u64,
    writes: u64,
    /// Writes that said O_DSYNC.
    dsync_writes: u64,
    fsyncs: u64,
    punches: u64,
    fsyncdirs: u64,
    failed: u64,
    cuts: u64,
    cut: Cut,
}

/// Everything behind one lock.
#[derive(Default)]
struct World {
    disk: Disk,
    faults: Faults,
    /// Files that hang, and whether all their requests do.
    hung: BTreeMap<String, bool>,
    held: Vec<(String, Kind, u64, Job)>,
    /// The power is cut, and not back.
    off: bool,
    in_the_dark: Vec<Job>,
    epoch: u64,
    cached: Vec<String>,
    all_cached: bool,
    stats: Stats,
}

/// The file system; copies are the same one.
#[derive(Clone, Default)]
pub struct FaultDisk(Arc<Mutex<World>>);

const ROOT: u64 = 1;
const EPOCH_SHIFT: u32 = 32;

impl World {
    fn number(&self, file: u64) -> u64 {
        self.epoch << EPOCH_SHIFT | (file + ROOT)
    }

    /// The file with a number the kernel knows.
    fn file(&self, number: u64) -> Result<u64, Errno> {
        if number >> EPOCH_SHIFT == self.epoch && number & 0xffff_ffff > ROOT {
            Ok((number & 0xffff_ffff) - ROOT)
        } else {
            Err(libc::EIO)
        }
    }

    fn attributes(&mut self, number: u64) -> Result<FileAttr, Errno> {
        let directory = number == ROOT;
        let (size, allocated, mode) = if directory {
            (0, 0, 0o755)
        } else {
            let id = self.file(number)?;
            let file = self.disk.file(id)?;
            (file.size(), file.allocated(), file.mode)
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: allocated / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: (mode & 0o7777) as u16,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        })
    }

    fn is_cached(&self, name: &str) -> bool {
        self.all_cached || self.cached.iter().any(|c| c == name)
    }

    fn open_flags(&self, file: u64) -> FopenFlags {
        // Parallel: the order of writes that overlap is the writer's own affair.
        let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        if self.is_cached(self.disk.name_of(file)) { FopenFlags::empty() } else { direct }
    }

    fn run(&mut self, name: &str, kind: Kind, number: u64, job: Job) {
        let struck = match self.faults.strike(name, kind) {
            Some(Effect::Error(errno)) => Verdict::Fail(errno),
            Some(Effect::Short) => Verdict::Half,
            None => Verdict::Go,
        };
        let dead = number != ROOT && self.file(number).is_err();
        let verdict = if dead { Verdict::Fail(libc::EIO) } else { struck };
        if let Verdict::Fail(_) = verdict {
            self.stats.failed += 1;
            if let (Kind::Fsync, false, Ok(file)) = (kind, dead, self.file(number)) {
                let _ = self.disk.fail_sync(file);
            }
        }
        job(self, verdict);
    }

    fn release_held(&mut self) {
        let (held, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(name, kind, ..)| !hangs(&self.hung, name, *kind));
        self.held = rest;
        for (name, kind, number, job) in held {
            self.run(&name, kind, number, job);
        }
    }
}

fn hangs(hung: &BTreeMap<String, bool>, name: &str, kind: Kind) -> bool {
    let usual = matches!(kind, Kind::Read | Kind::Write | Kind::Fsync | Kind::Punch);
    [name, "*"].iter().any(|n| hung.get(*n).is_some_and(|all| *all || usual))
}

fn errno(code: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(code)
}

impl FaultDisk {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a file of zeroes, durable; `cached`: the kernel may cache its pages.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn add(&self, name: &str, bytes: u64, cached: bool) -> Result<(), String> {
        let mut world = self.lock();
        let file = world.disk.create(name, 0o600).map_err(|_| format!("{name} is there already"))?;
        world.disk.resize(file, bytes).map_err(|_| "cannot resize".to_owned())?;
        world.disk.sync_all();
        if cached {
            world.cached.push(name.to_owned());
        }
        Ok(())
    }

    /// Every file goes through the page cache.
    pub fn cache_all(&self) {
        self.lock().all_cached = true;
    }

    /// Lets a request through, fails it, or holds it back.
    fn serve(&self, number: u64, kind: Kind, job: impl FnOnce(&mut World, Verdict) + Send + 'static) {
        let mut world = self.lock();
        let world = &mut *world;
        let job: Job = Box::new(job);
        if world.off {
            world.in_the_dark.push(job);
            return;
        }
        let name = match world.file(number) {
            _ if number == ROOT => "/".to_owned(),
            Ok(file) => world.disk.name_of(file).to_owned(),
            Err(_) => String::new(),
        };
        if hangs(&world.hung, &name, kind) {
            world.held.push((name, kind, number, job));
        } else {
            world.run(&name, kind, number, job);
        }
    }

    /// One that only `cut` holds back.
    fn always(&self, job: impl FnOnce(&mut World, Verdict) + Send + 'static) {
        let mut world = self.lock();
        if world.off {
            world.in_the_dark.push(Box::new(job));
        } else {
            job(&mut world, Verdict::Go);
        }
    }

    /// Executes a line of the control socket; the answer is one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn command(&self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("not a number: {text}"));
        let mut world = self.lock();
        let world = &mut *world;
        match *words.as_slice() {
            ["cut", seed] => {
                let seed = number(seed)?;
                if world.off {
                    return Err("the power is off already; say on first".into());
                }
                world.off = true;
                // What hangs hangs on in the dark, and comes back with an error like all else.
                let held = std::mem::take(&mut world.held);
                world.in_the_dark.extend(held.into_iter().map(|(.., job)| job));
                let cut = world.disk.cut(&mut Random(seed));
                world.epoch += 1;
                world.stats.cuts += 1;
                let total = &mut world.stats.cut;
                total.dropped += cut.dropped;
                total.kept += cut.kept;
                total.torn += cut.torn;
                total.names += cut.names;
                Ok(said(cut))
            }
            ["on"] => {
                if !world.off {
                    return Err("the power is on".into());
                }
                world.off = false;
                let jobs = std::mem::take(&mut world.in_the_dark);
                let count = jobs.len();
                for job in jobs {
                    job(world, Verdict::Fail(libc::EIO));
                }
                Ok(format!("failed={count}"))
            }
            ["hang", file] => {
                world.hung.insert(file.to_owned(), false);
                Ok(String::new())
            }
            ["hang", file, "all"] => {
                world.hung.insert(file.to_owned(), true);
                Ok(String::new())
            }
            ["unhang"] => {
                world.hung.clear();
                let held = world.held.len();
                world.release_held();
                Ok(format!("released={held}"))
            }
            ["unhang", file] => {
                world.hung.remove(file).ok_or_else(|| format!("{file} does not hang"))?;
                let held = world.held.len();
                world.release_held();
                Ok(format!("released={}", held - world.held.len()))
            }
            ["fail", file, kinds, effect, ref rest @ ..] => {
                let mut fault = Fault {
                    file: file.to_owned(),
                    kinds: kinds.split(',').map(str::parse).collect::<Result<_, _>>()?,
                    effect: effect.parse()?,
                    after: 0,
                    times: None,
                };
                for pair in rest.chunks(2) {
                    match *pair {
                        ["after", n] => fault.after = number(n)?,
                        ["times", n] => fault.times = Some(number(n)?),
                        _ => return Err("fail FILE KINDS ERRNO [after N] [times M]".into()),
                    }
                }
                world.faults.0.push(fault);
                Ok(String::new())
            }
            ["heal"] => {
                world.faults.0.clear();
                world.disk.room = None;
                Ok(String::new())
            }
            ["heal", file] => {
                world.faults.0.retain(|fault| fault.file != file);
                Ok(String::new())
            }
            ["full", "off"] => {
                world.disk.room = None;
                Ok(String::new())
            }
            ["full", bytes] => {
                world.disk.room = Some(number(bytes)?);
                Ok(String::new())
            }
            ["resize", file, bytes] => {
                let id = world.disk.find(file).ok_or_else(|| format!("no file {file}"))?;
                world.disk.resize(id, number(bytes)?).map_err(|e| format!("errno {e}"))?;
                world.disk.sync(id).map_err(|e| format!("errno {e}"))?;
                Ok(String::new())
            }
            ["sync"] => {
                world.disk.sync_all();
                Ok(String::new())
            }
            ["stats"] => {
                let Stats { reads, writes, dsync_writes, fsyncs, punches, fsyncdirs, failed, cuts, cut } =
                    world.stats;
                let (pending, names) = world.disk.pending();
                let mut text = format!(
                    "reads={reads} writes={writes} dsync_writes={dsync_writes} fsyncs={fsyncs} punches={punches} \
                     fsyncdirs={fsyncdirs} failed={failed} cuts={cuts} pending={pending} pending_names={names} \
                     held={} allocated={} {}",
                    world.held.len(),
                    world.disk.allocated(),
                    said(cut)
                );
                if let Some(room) = world.disk.room {
                    let _ = write!(text, " room={room}");
                }
                Ok(text)
            }
            _ => Err(
                "cut SEED, on, hang FILE [all], unhang [FILE], fail FILE KINDS ERRNO [after N] [times M], \
                      heal [FILE], full BYTES|off, resize FILE BYTES, sync, stats, quit"
                    .into(),
            ),
        }
    }
}

fn said(cut: Cut) -> String {
    let Cut { dropped, kept, torn, names } = cut;
    format!("dropped={dropped} kept={kept} torn={torn} names={names}")
}

/// The length that is done of what was asked for.
fn length(verdict: &Verdict, asked: u64) -> u64 {
    if let Verdict::Half = verdict { asked / 2 / 512 * 512 } else { asked }
}

/// What a verdict leaves of a result.
fn judged<T>(verdict: Verdict, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, fuser::Errno> {
    match verdict {
        Verdict::Fail(code) => Err(errno(code)),
        Verdict::Go | Verdict::Half => work().map_err(errno),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), fuser::Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Filesystem for FaultDisk {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Several direct requests of one system call at a time; a kernel without it does them one by one.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_background(256);
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_string_lossy().into_owned();
        self.always(move |world, verdict| {
            let found = judged(verdict, || {
                let file = world.disk.find(&name).ok_or(libc::ENOENT)?;
                world.attributes(world.number(file))
            });
            match found {
                Ok(attributes) => reply.entry(&NEVER, &attributes, Generation(0)),
                Err(e) => reply.error(e),
            }
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(ino.0, Kind::Size, move |world, verdict| {
            match judged(verdict, || world.attributes(ino.0)) {
                Ok(attributes) => reply.attr(&NEVER, &attributes),
                Err(e) => reply.error(e),
            }
        });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let kind = if size.is_some() { Kind::Write } else { Kind::Size };
        self.serve(ino.0, kind, move |world, verdict| {
            let done = judged(verdict, || {
                if ino.0 != ROOT {
                    let file = world.file(ino.0)?;
                    if let Some(size) = size {
                        world.disk.resize(file, size)?;
                    }
                    if let Some(mode) = mode {
                        world.disk.file(file)?.mode = mode;
                    }
                }
                world.attributes(ino.0)
            });
            match done {
                Ok(attributes) => reply.attr(&NEVER, &attributes),
                Err(e) => reply.error(e),
            }
        });
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_string_lossy().into_owned();
        self.serve(ROOT, Kind::Unlink, move |world, verdict| {
            empty(
                reply,
                judged(verdict, || {
                    world.disk.remove(&name)?;
                    world.disk.forget_files();
                    Ok(())
                }),
            );
        });
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (name.to_string_lossy().into_owned(), new_name.to_string_lossy().into_owned());
        self.serve(ROOT, Kind::Rename, move |world, verdict| {
            let result = judged(verdict, || {
                if flags.contains(RenameFlags::RENAME_EXCHANGE) {
                    return Err(libc::EINVAL);
                }
                world.disk.rename(&from, &to, flags.contains(RenameFlags::RENAME_NOREPLACE))?;
                world.disk.forget_files();
                Ok(())
            });
            empty(reply, result);
        });
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(ino.0, Kind::Open, move |world, verdict| {
            let opened = judged(verdict, || {
                let id = world.file(ino.0)?;
                let file = world.disk.file(id)?;
                file.open += 1;
                Ok(id)
            });
            match opened {
                Ok(id) => reply.opened(FileHandle(world.epoch), world.open_flags(id)),
                Err(e) => reply.error(e),
            }
        });
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_string_lossy().into_owned();
        self.serve(ROOT, Kind::Create, move |world, verdict| {
            let created = judged(verdict, || {
                let file = world.disk.create(&name, mode & !umask)?;
                world.disk.file(file)?.open += 1;
                Ok((file, world.attributes(world.number(file))?))
            });
            match created {
                Ok((file, attributes)) => {
                    let handle = FileHandle(world.epoch);
                    reply.created(&NEVER, &attributes, Generation(0), handle, world.open_flags(file));
                }
                Err(e) => reply.error(e),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(ino.0, Kind::Read, move |world, verdict| {
            world.stats.reads += 1;
            let length = length(&verdict, u64::from(size));
            let number = world.file(ino.0);
            match judged(verdict, || Ok(world.disk.file(number?)?.read(offset, length))) {
                Ok(data) => reply.data(data),
                Err(e) => reply.error(e),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.serve(ino.0, Kind::Write, move |world, verdict| {
            world.stats.writes += 1;
            // Counted, and no more: a server may pass a write on without looking at its flags, and many do.
            world.stats.dsync_writes += u64::from(flags.0 & libc::O_DSYNC != 0);
            let length = length(&verdict, data.len() as u64) as usize;
            let written = judged(verdict, || {
                let file = world.file(ino.0)?;
                world.disk.write(file, offset, &data[..length])
            });
            match written {
                Ok(()) => reply.written(length as u32),
                Err(e) => reply.error(e),
            }
        });
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.serve(ino.0, Kind::Close, move |_, verdict| empty(reply, judged(verdict, || Ok(()))));
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let mut world = self.lock();
        if let Ok(id) = world.file(ino.0) {
            if let Ok(file) = world.disk.file(id) {
                file.open = file.open.saturating_sub(1);
            }
            world.disk.forget_files();
        }
        reply.ok();
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.serve(ino.0, Kind::Fsync, move |world, verdict| {
            world.stats.fsyncs += 1;
            let file = world.file(ino.0);
            empty(reply, judged(verdict, || world.disk.sync(file?)));
        });
    }

    fn fsyncdir(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.serve(ROOT, Kind::Fsync, move |world, verdict| {
            world.stats.fsyncdirs += 1;
            let done = judged(verdict, || {
                world.disk.sync_names();
                Ok(())
            });
            empty(reply, done);
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.always(move |world, verdict| {
            if let Verdict::Fail(e) = verdict {
                return reply.error(errno(e));
            }
            let fixed = [".", ".."].map(|name| (name, ROOT, FileType::Directory));
            let files =
                world.disk.names().map(|(name, file)| (name, world.number(file), FileType::RegularFile));
            for (n, (name, number, kind)) in (1..).zip(fixed.into_iter().chain(files)) {
                if n > offset && reply.add(INodeNo(number), n, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.always(move |world, verdict| {
            let result = judged(verdict, || {
                let used = world.disk.allocated() / BLOCK;
                let free = world.disk.room.map_or(BLOCKS, |room| room / BLOCK);
                Ok((used + free, free))
            });
            match result {
                Ok((all, free)) => {
                    reply.statfs(all, free, free, 1 << 16, 1 << 16, BLOCK as u32, 255, BLOCK as u32)
                }
                Err(e) => reply.error(e),
            }
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve(ino.0, Kind::Punch, move |world, verdict| {
            world.stats.punches += 1;
            let done = judged(verdict, || {
                let file = world.file(ino.0)?;
                let end = offset.checked_add(length).ok_or(libc::EFBIG)?;
                let keeps = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
                match mode & !libc::FALLOC_FL_KEEP_SIZE {
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE if keeps => {
                        world.disk.punch(file, offset..end)
                    }
                    0 if !keeps && world.disk.file(file)?.size() < end => world.disk.resize(file, end),
                    0 => Ok(()),
                    _ => Err(libc::EOPNOTSUPP),
                }
            });
            empty(reply, done);
        });
    }
}
