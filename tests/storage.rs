//! The storage port, held against memory and against io_uring on everything this machine can make: files on disk and
//! in tmpfs, loop devices with all kinds of caches, read-only, write-back, full, frozen, truncated.
//!
//! What needs root says SKIPPED without it. Loop devices and mounts are undone when their guard is dropped, mounts
//! besides are seen only by the test's own thread.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use rustix::event::{EventfdFlags, eventfd};
use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use xshelf::frame::{Buffer, Chunk, Region, RunPool};
use xshelf::limits;
use xshelf::storage::device::{
    self, Access, Backing, Device, Durability, Identity, OpenError, Options, User, open,
};
use xshelf::storage::health;
use xshelf::storage::memory::MemoryStorage;
use xshelf::storage::uring::{self, FileError, SetupError, UringStorage};
use xshelf::storage::{Done, Failure, FileId, Job, Storage, Ticket, Verb, Woken};

/// No verdict depends on it: only a test that would hang for ever meets it. The disk of a machine that is used for other
/// things as well may stand still for two minutes.
const HANG: Duration = Duration::from_secs(600);
const SIZE: usize = 1 << 20;
const FILE: FileId = FileId(0);

const READ_WRITE: Options = Options { read_only: false, write_back: false, offset: 0, length: None };
const READ_ONLY: Options = Options { read_only: true, ..READ_WRITE };
const WRITE_BACK: Options = Options { write_back: true, ..READ_WRITE };

// ---- memory ------------------------------------------------------------------------------------------------------

/// All buffers of a test, counted.
struct Stock {
    region: Arc<Region>,
    chunks: Vec<Chunk>,
    runs: RunPool,
    all: usize,
}

impl Stock {
    fn new() -> Self {
        let region = Arc::new(Region::heap(256));
        let runs = RunPool::new(&region, 0, 64).unwrap();
        let chunks: Vec<_> = (128..256).map(|i| region.mint(i).unwrap()).collect();
        Self { region, chunks, runs, all: 256 }
    }

    fn chunk(&mut self) -> Buffer {
        Buffer::Chunk(self.chunks.pop().expect("a free chunk"))
    }

    fn run(&mut self) -> Buffer {
        Buffer::Run(self.runs.take().expect("a free run"))
    }

    fn put(&mut self, buffer: Buffer) {
        match buffer {
            Buffer::None => {}
            Buffer::Chunk(chunk) => self.chunks.push(chunk),
            Buffer::Run(run) => self.runs.put_run(run),
        }
    }

    fn fill(&self, buffer: &mut Buffer, at: usize, bytes: &[u8]) {
        self.region.buffer_mut(buffer, at, bytes.len()).copy_from_slice(bytes);
    }

    #[track_caller]
    fn assert_all_home(&self) {
        assert_eq!(self.chunks.len() + self.runs.chunks_home(), self.all, "buffers are missing");
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.chunks.drain(..).for_each(Chunk::retire);
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

fn job(ticket: u32, verb: Verb, offset: u64, buffer: Buffer, at: u32, len: u32) -> Job {
    Job { ticket: Ticket(ticket), file: FILE, verb, offset, buffer, at, len }
}

fn flush(ticket: u32) -> Job {
    job(ticket, Verb::Flush, 0, Buffer::None, 0, 0)
}

// ---- rigs --------------------------------------------------------------------------------------------------------

/// One storage with one file of [`SIZE`] zeroes, and the back door to its bytes.
trait Rig {
    fn storage(&mut self) -> &mut dyn Storage;
    fn wait(&mut self) {}
    fn contents(&self) -> Vec<u8>;
    /// Makes the file shorter or longer behind the storage's back; `false` where that cannot be.
    fn truncate(&mut self, size: u64) -> bool;
    /// Whether it can free what is discarded.
    fn trims(&self) -> bool {
        true
    }

    fn run(&mut self, jobs: Vec<Job>) -> Vec<Done> {
        let want = jobs.len();
        for job in jobs {
            self.storage().submit(job).expect("room for the job");
        }
        let start = Instant::now();
        let mut done: Vec<Done> = Vec::new();
        while done.len() < want {
            self.storage().turn();
            if self.storage().reap(7, &mut |d| done.push(d)) == 0 {
                assert!(start.elapsed() < HANG, "jobs hang");
                self.wait();
            }
        }
        done.sort_by_key(|d| d.ticket.0);
        done
    }

    fn one(&mut self, job: Job) -> Done {
        self.run(vec![job]).pop().unwrap()
    }
}

impl Rig for MemoryStorage {
    fn storage(&mut self) -> &mut dyn Storage {
        self
    }
    fn contents(&self) -> Vec<u8> {
        self.disk(FILE).to_vec()
    }
    fn truncate(&mut self, size: u64) -> bool {
        self.disk_mut(FILE).unwrap().resize(size as usize, 0);
        true
    }
}

struct Ring {
    ring: UringStorage,
    path: PathBuf,
}

impl Ring {
    fn open(region: &Arc<Region>, depth: usize, path: &Path, options: Options) -> Self {
        let device = open(path, options).unwrap_or_else(|e| panic!("{e}"));
        let ring =
            UringStorage::new(Arc::clone(region), depth, vec![device]).unwrap_or_else(|e| panic!("{e}"));
        Self { ring, path: path.into() }
    }

    fn device(&self) -> &Device {
        self.ring.file(FILE).unwrap()
    }
}

impl Rig for Ring {
    fn storage(&mut self) -> &mut dyn Storage {
        &mut self.ring
    }
    fn wait(&mut self) {
        self.ring.wait_event(Some(HANG));
    }
    fn contents(&self) -> Vec<u8> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = std::fs::File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(self.device().start())).unwrap();
        let mut bytes = Vec::new();
        // A file as long as it is, of a disk what is served.
        let most = if self.device().backing() == Backing::File { u64::MAX } else { self.device().size() };
        file.take(most).read_to_end(&mut bytes).unwrap();
        bytes
    }
    fn truncate(&mut self, size: u64) -> bool {
        let file = self.device().backing() == Backing::File;
        file && std::fs::OpenOptions::new().write(true).open(&self.path).unwrap().set_len(size).is_ok()
    }
    fn trims(&self) -> bool {
        self.device().trims()
    }
}

/// Healthy at the end of every test: no defect was counted.
impl Drop for Ring {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let stats = self.ring.stats();
            assert_eq!((stats.stray, stats.errors, stats.misaligned), (0, 0, 0), "{stats:?}");
        }
    }
}

// ---- places ------------------------------------------------------------------------------------------------------

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a test does not run here.
macro_rules! need_root {
    ($what:expr) => {
        if !is_root() {
            println!("SKIPPED: {} needs root", $what);
            return;
        }
    };
}

fn magic(path: &Path) -> u32 {
    rustix::fs::statfs(path).unwrap().f_type as u32
}

const TMPFS: u32 = 0x0102_1994;

/// A directory on a disk: below target, which is there even where /tmp is memory.
fn disk_directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn on_disk(directory: &Path) -> bool {
    let memory = magic(directory) == TMPFS;
    if memory {
        println!("SKIPPED: the target directory is in memory, so there is no file on a disk");
    }
    !memory
}

fn zeroes(directory: &Path, name: &str, size: usize) -> PathBuf {
    let path = directory.join(name);
    std::fs::File::create(&path).unwrap().set_len(size as u64).unwrap();
    path
}

fn output(program: &str, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(program).args(arguments).output()
}

#[track_caller]
fn shell(program: &str, arguments: &[&str]) -> String {
    let out = output(program, arguments).unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// A loop device. When it is dropped its cache is as it was and it is detached.
struct Loop {
    path: PathBuf,
    /// What its cache was before somebody changed it: the number keeps it beyond the detaching, for whoever gets it
    /// next.
    cache_before: Mutex<Option<String>>,
}

impl Loop {
    fn over(file: &Path, options: &[&str]) -> Self {
        let mut arguments = vec!["--find", "--show"];
        arguments.extend(options);
        arguments.push(file.to_str().unwrap());
        // Others may take the free one that losetup found.
        for _ in 0..50 {
            let out = output("losetup", &arguments).unwrap();
            if out.status.success() {
                let path = String::from_utf8(out.stdout).unwrap().trim().into();
                return Self { path, cache_before: Mutex::default() };
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("no loop device over {}", file.display());
    }

    fn queue(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(self.path.file_name().unwrap()).join("queue").join(name)
    }

    fn cache(&self, kind: &str) {
        let now = std::fs::read_to_string(self.queue("write_cache")).unwrap();
        self.cache_before.lock().unwrap().get_or_insert(now);
        std::fs::write(self.queue("write_cache"), kind).unwrap();
    }

    /// Cache flushes that reached the device: the proof that a write was made durable.
    fn flushes(&self) -> u64 {
        let stat = std::fs::read_to_string(self.queue("../stat")).unwrap();
        // Documentation/block/stat.rst: the sixteenth field.
        stat.split_whitespace().nth(15).unwrap().parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let before = self.cache_before.get_mut().ok().and_then(Option::take);
        if let Some(before) = before {
            let restored = std::fs::write(self.queue("write_cache"), before);
            assert!(restored.is_ok() || std::thread::panicking(), "{:?}", self.path);
        }
        let out = output("losetup", &["-d", self.path.to_str().unwrap()]);
        let detached = out.is_ok_and(|o| o.status.success());
        assert!(detached || std::thread::panicking(), "{} could not be detached", self.path.display());
    }
}

/// The first partition of a loop device, 1024 sectors. It would outlive the detaching, so it goes when dropped.
struct Partition<'a> {
    disk: &'a Loop,
    path: PathBuf,
}

impl<'a> Partition<'a> {
    fn of(disk: &'a Loop) -> Self {
        let name = disk.path.to_str().unwrap();
        shell("addpart", &[name, "1", "8", "1024"]);
        let partition = Self { disk, path: format!("{name}p1").into() };
        let start = Instant::now();
        while !partition.path.exists() {
            assert!(start.elapsed() < HANG, "no {}", partition.path.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        partition
    }
}

impl Drop for Partition<'_> {
    fn drop(&mut self) {
        let out = output("delpart", &[self.disk.path.to_str().unwrap(), "1"]);
        let gone = out.is_ok_and(|o| o.status.success());
        assert!(gone || std::thread::panicking(), "{} is still there", self.path.display());
    }
}

/// Runs a test in a thread with mounts of its own, which end with it.
fn with_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread's view of mounts and its working directory part from the others'.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "unshare");
            shell("mount", &["--make-rprivate", "/"]);
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A mount in the thread's own namespace. Unmounted when dropped, so that the loop device below can go.
struct Mount {
    at: tempfile::TempDir,
}

impl Mount {
    fn tmpfs(size: usize) -> Self {
        let at = disk_directory();
        let size = format!("size={size}");
        shell("mount", &["-t", "tmpfs", "-o", &size, "none", at.path().to_str().unwrap()]);
        Self { at }
    }

    fn ext4(device: &Path) -> Self {
        let at = disk_directory();
        shell("mkfs.ext4", &["-q", device.to_str().unwrap()]);
        shell("mount", &["-t", "ext4", device.to_str().unwrap(), at.path().to_str().unwrap()]);
        Self { at }
    }

    fn path(&self) -> &Path {
        self.at.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let out = output("umount", &[self.at.path().to_str().unwrap()]);
        let gone = out.is_ok_and(|o| o.status.success());
        assert!(gone || std::thread::panicking(), "{} is still mounted", self.at.path().display());
    }
}

/// A file system that lets no write through until this is dropped. A process of its own thaws it: a test that is
/// killed could not, and its kernel threads would wait for ever, with the loop device below.
struct Frozen(Child);

impl Frozen {
    fn freeze(path: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        let path = path.to_str().unwrap();
        // Not in our process group: what is sent to that must not stop it. It gives up waiting after a minute, because
        // the thread that hangs may keep its end of the pipe open.
        let thaw = Command::new("sh")
            .args(["-c", "timeout 60 cat; exec fsfreeze -u \"$0\"", path])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let frozen = Self(thaw);
        shell("fsfreeze", &["-f", path]);
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let thawed = self.0.wait();
        assert!(thawed.is_ok_and(|s| s.success()) || std::thread::panicking(), "still frozen");
    }
}

// ---- one semantics over all of them ------------------------------------------------------------------------------

/// Makes a storage over this memory, for so many jobs at once, for reading only or not.
type Maker<'a> = &'a dyn Fn(&Arc<Region>, usize, bool) -> Box<dyn Rig>;

/// What every storage does. `make` gives a new one over the same [`SIZE`] bytes, which are zero the first time.
fn suite(make: Maker<'_>) {
    let mut stock = Stock::new();
    let region = Arc::clone(&stock.region);
    let mut model = vec![0; SIZE];
    data_goes_where_it_belongs(&mut stock, &mut *make(&region, 64, false), &mut model);
    many_at_once(&mut stock, &mut *make(&region, 48, false), &mut model);
    discarded_ranges_read_zeroes(&mut stock, &mut *make(&region, 48, false), &mut model);
    what_cannot_be_done_fails(&mut stock, &mut *make(&region, 4, false), &model);
    no_more_than_the_depth(&mut stock, &mut *make(&region, 3, false));
    reading_only(&mut stock, &mut *make(&region, 4, true), &model);
    a_resized_file_is_served_to_its_end(&mut stock, &mut *make(&region, 4, false));
    a_short_file_fails(&mut stock, &mut *make(&region, 4, false));
}

fn data_goes_where_it_belongs(stock: &mut Stock, rig: &mut dyn Rig, model: &mut [u8]) {
    // In a chunk the data lies behind the header, at 512 or any other sector.
    for (i, (at, len)) in
        [(512, 3584), (512, 512), (1024, 1024), (3584, 512), (0, 4096), (512, 1536)].into_iter().enumerate()
    {
        let offset = 512 * (3 + 37 * i);
        let bytes = pattern(i as u64, len);
        let mut buffer = stock.chunk();
        stock.fill(&mut buffer, 0, &[0xee; 4096]);
        stock.fill(&mut buffer, at, &bytes);
        let done = rig.one(job(1, Verb::Write, offset as u64, buffer, at as u32, len as u32));
        assert_eq!((done.ticket, done.result), (Ticket(1), Ok(())));
        model[offset..offset + len].copy_from_slice(&bytes);

        let mut buffer = done.buffer;
        stock.fill(&mut buffer, 0, &[0xdd; 4096]);
        let mut done = rig.one(job(2, Verb::Read, offset as u64, buffer, at as u32, len as u32));
        assert_eq!(done.result, Ok(()));
        let memory = stock.region.buffer_mut(&mut done.buffer, 0, 4096);
        assert_eq!(memory[at..at + len], bytes);
        assert!(memory[..at].iter().chain(&memory[at + len..]).all(|&b| b == 0xdd), "written past the data");
        stock.put(done.buffer);
    }
    // A run, at its start and one sector in.
    for (i, (at, len)) in [(0, 8192), (512, 7680), (4096, 4096), (3584, 1024)].into_iter().enumerate() {
        let offset = 300_032 + 512 * 29 * i;
        let bytes = pattern(100 + i as u64, len);
        let mut buffer = stock.run();
        stock.fill(&mut buffer, at, &bytes);
        let done = rig.one(job(3, Verb::Write, offset as u64, buffer, at as u32, len as u32));
        assert_eq!(done.result, Ok(()));
        model[offset..offset + len].copy_from_slice(&bytes);
        let mut done = rig.one(job(4, Verb::Read, offset as u64, done.buffer, 0, 8192));
        assert_eq!(done.result, Ok(()));
        assert_eq!(*stock.region.buffer_mut(&mut done.buffer, 0, 8192), model[offset..offset + 8192]);
        stock.put(done.buffer);
    }
    // The last sector.
    let buffer = stock.chunk();
    let done = rig.one(job(5, Verb::Read, SIZE as u64 - 512, buffer, 512, 512));
    assert_eq!(done.result, Ok(()));
    stock.put(done.buffer);
    // Nothing is a transfer that is complete at once.
    let buffer = stock.chunk();
    let done = rig.one(job(6, Verb::Write, 0, buffer, 512, 0));
    assert_eq!(done.result, Ok(()));
    stock.put(done.buffer);
    assert_eq!(rig.one(flush(7)).result, Ok(()));
    assert_eq!(rig.storage().in_flight(), 0);
    assert!(rig.contents() == model, "the backing differs from the model");
    stock.assert_all_home();
}

fn many_at_once(stock: &mut Stock, rig: &mut dyn Rig, model: &mut [u8]) {
    let mut x = 7u64;
    let mut next = move |below: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % below
    };
    for _ in 0..12 {
        // Each job has 16 KiB of its own, so that their order does not matter.
        let mut jobs = Vec::new();
        let mut expected = Vec::new();
        for n in 0..48u32 {
            let sectors = 1 + next(16);
            let offset = u64::from(n) * 16384 + 512 * next(16);
            let (mut buffer, at) = match sectors {
                1..=7 => (stock.chunk(), 512),
                _ => (stock.run(), 0),
            };
            let len = sectors as usize * 512;
            let place = offset as usize..offset as usize + len;
            let kind = next(6);
            let verb = match kind {
                0 => {
                    stock.put(buffer);
                    expected.push(None);
                    jobs.push(flush(n));
                    continue;
                }
                1 | 2 => {
                    expected.push(Some((at, model[place].to_vec())));
                    Verb::Read
                }
                _ => {
                    let bytes = pattern(next(u64::MAX), len);
                    stock.fill(&mut buffer, at, &bytes);
                    model[place].copy_from_slice(&bytes);
                    expected.push(None);
                    if kind == 3 { Verb::WriteThrough } else { Verb::Write }
                }
            };
            jobs.push(job(n, verb, offset, buffer, at as u32, len as u32));
        }
        for (mut done, expected) in rig.run(jobs).into_iter().zip(expected) {
            assert_eq!(done.result, Ok(()));
            if let Some((at, bytes)) = expected {
                assert!(*stock.region.buffer_mut(&mut done.buffer, at, bytes.len()) == *bytes, "wrong bytes");
            }
            stock.put(done.buffer);
        }
        stock.assert_all_home();
    }
    assert_eq!(rig.one(flush(0)).result, Ok(()));
    assert!(rig.contents() == model, "the backing differs from the model");
}

fn discarded_ranges_read_zeroes(stock: &mut Stock, rig: &mut dyn Rig, model: &mut [u8]) {
    if !rig.trims() {
        println!("SKIPPED: discards, which this backing cannot do");
        return;
    }
    model.fill(0x5a);
    let mut jobs = Vec::new();
    for n in 0..(SIZE / 8192) as u32 {
        let mut buffer = stock.run();
        stock.fill(&mut buffer, 0, &[0x5a; 8192]);
        jobs.push(job(n, Verb::Write, u64::from(n) * 8192, buffer, 0, 8192));
        if jobs.len() == 32 {
            for done in rig.run(std::mem::take(&mut jobs)) {
                assert_eq!(done.result, Ok(()));
                stock.put(done.buffer);
            }
        }
    }
    // Whole blocks, single sectors, parts of blocks, nearly all, what is free already, nothing; several at once.
    let ranges: [(usize, usize); 7] = [
        (65536, 65536),
        (512, 512),
        (8192 + 512, 12288),
        (SIZE - 512, 512),
        (200_192, 600_064),
        (65536, 65536),
        (0, 0),
    ];
    let held = pattern(5, 4096);
    let jobs = ranges.iter().enumerate().map(|(n, &(offset, len))| {
        let buffer = if n % 2 == 0 {
            let mut buffer = stock.chunk();
            stock.fill(&mut buffer, 0, &held);
            buffer
        } else {
            Buffer::None
        };
        model[offset..offset + len].fill(0);
        // A discard has nothing to do with the buffer, so `at` may be anything.
        job(n as u32, Verb::Discard, offset as u64, buffer, 24 + n as u32, len as u32)
    });
    let jobs = jobs.collect();
    for (n, mut done) in rig.run(jobs).into_iter().enumerate() {
        assert_eq!((done.ticket, done.result), (Ticket(n as u32), Ok(())));
        if n % 2 == 0 {
            assert!(
                *stock.region.buffer_mut(&mut done.buffer, 0, 4096) == held,
                "a discard changed its buffer"
            );
        }
        stock.put(done.buffer);
    }
    let buffer = stock.run();
    let mut done = rig.one(job(0, Verb::Read, 4096, buffer, 0, 8192));
    assert!(*stock.region.buffer_mut(&mut done.buffer, 0, 8192) == model[4096..12288], "what is read");
    stock.put(done.buffer);
    for (offset, len) in [(SIZE as u64 - 512, 1024), (SIZE as u64, 512), (u64::MAX - 511, 512)] {
        let done = rig.one(job(0, Verb::Discard, offset, Buffer::None, 0, len));
        assert_eq!(done.result, Err(Failure::Short), "{len} at {offset}");
    }
    assert_eq!(rig.one(flush(0)).result, Ok(()));
    assert!(rig.contents() == model, "the backing differs from the model");
    stock.assert_all_home();
}

fn what_cannot_be_done_fails(stock: &mut Stock, rig: &mut dyn Rig, model: &[u8]) {
    let errno = |n| Err(Failure::Errno(n));
    for (file, verb, offset, at, len, want) in [
        (FileId(9), Verb::Read, 0, 0, 512, errno(libc::EBADF)),
        (FileId(u16::MAX), Verb::Flush, 0, 0, 0, errno(libc::EBADF)),
        (FILE, Verb::Read, SIZE as u64, 0, 512, Err(Failure::Short)),
        (FILE, Verb::Write, SIZE as u64, 0, 512, Err(Failure::Short)),
        (FILE, Verb::Read, SIZE as u64 - 512, 0, 1024, Err(Failure::Short)),
        (FILE, Verb::Read, u64::MAX - 511, 0, 512, Err(Failure::Short)),
        (FILE, Verb::Write, 0, 512, 4096, errno(libc::EINVAL)),
        (FILE, Verb::Read, 0, u32::MAX, 512, errno(libc::EINVAL)),
    ] {
        let buffer = stock.chunk();
        let mut failing = job(1, verb, offset, buffer, at, len);
        failing.file = file;
        let done = rig.one(failing);
        assert_eq!(done.result, want, "{verb:?} {len} at {offset} of {file:?}");
        stock.put(done.buffer);
    }
    let done = rig.one(job(1, Verb::Read, 0, Buffer::None, 0, 512));
    assert_eq!(done.result, errno(libc::EINVAL), "no memory");
    assert!(rig.contents() == model, "a failed job changed the backing");
    stock.assert_all_home();
}

fn no_more_than_the_depth(stock: &mut Stock, rig: &mut dyn Rig) {
    for t in 0..3 {
        let buffer = stock.chunk();
        rig.storage().submit(job(t, Verb::Read, 0, buffer, 512, 512)).unwrap();
    }
    let back = rig.storage().submit(flush(3)).unwrap_err();
    assert_eq!((back.ticket, rig.storage().in_flight()), (Ticket(3), 3));
    let start = Instant::now();
    let mut done = Vec::new();
    while done.is_empty() {
        assert!(start.elapsed() < HANG);
        rig.storage().turn();
        if rig.storage().reap(1, &mut |d| done.push(d)) == 0 {
            rig.wait();
        }
    }
    rig.storage().submit(back).unwrap();
    assert!(rig.storage().submit(flush(4)).is_err(), "a reaped job makes room for one");
    while done.len() < 4 {
        assert!(start.elapsed() < HANG);
        rig.storage().turn();
        if rig.storage().reap(9, &mut |d| done.push(d)) == 0 {
            rig.wait();
        }
    }
    let mut tickets: Vec<_> = done.iter().map(|d| d.ticket.0).collect();
    tickets.sort_unstable();
    assert_eq!(tickets, [0, 1, 2, 3]);
    done.into_iter().for_each(|d| stock.put(d.buffer));
    stock.assert_all_home();
}

fn reading_only(stock: &mut Stock, rig: &mut dyn Rig, model: &[u8]) {
    let buffer = stock.run();
    let mut done = rig.one(job(0, Verb::Read, 300_032, buffer, 0, 8192));
    assert_eq!(done.result, Ok(()));
    assert!(*stock.region.buffer_mut(&mut done.buffer, 0, 8192) == model[300_032..308_224]);
    let done = rig.one(job(1, Verb::Write, 0, done.buffer, 0, 8192));
    assert_eq!(done.result, Err(Failure::Errno(libc::EBADF)));
    stock.put(done.buffer);
    let done = rig.one(job(2, Verb::Discard, 0, Buffer::None, 0, 8192));
    assert_eq!(done.result, Err(Failure::Errno(libc::EBADF)));
    assert!(rig.contents() == model, "a read-only backing was written");
    stock.assert_all_home();
}

fn a_short_file_fails(stock: &mut Stock, rig: &mut dyn Rig) {
    if !rig.truncate(10_240 + 1000) {
        return;
    }
    for (offset, len, want) in [
        (10_240 - 512, 512, Ok(())),
        (10_240, 1024, Err(Failure::Short)),
        (10_240 - 512, 4096, Err(Failure::Short)),
        (20_480, 512, Err(Failure::Short)),
    ] {
        let buffer = stock.run();
        let done = rig.one(job(0, Verb::Read, offset, buffer, 0, len));
        assert_eq!(done.result, want, "{len} at {offset}");
        stock.put(done.buffer);
    }
    stock.assert_all_home();
}

fn a_resized_file_is_served_to_its_end(stock: &mut Stock, rig: &mut dyn Rig) {
    if !rig.truncate(4 * SIZE as u64) {
        return;
    }
    let last = 4 * SIZE as u64 - 512;
    let try_all = |stock: &mut Stock, rig: &mut dyn Rig, want: Result<(), Failure>| {
        for verb in [Verb::Write, Verb::Read, Verb::WriteThrough] {
            let buffer = stock.chunk();
            let done = rig.one(job(0, verb, last, buffer, 512, 512));
            assert_eq!(done.result, want, "{verb:?}");
            stock.put(done.buffer);
        }
    };
    try_all(stock, rig, Err(Failure::Short));
    rig.storage().resized(FILE, 4 * SIZE as u64);
    try_all(stock, rig, Ok(()));
    rig.storage().resized(FILE, last);
    try_all(stock, rig, Err(Failure::Short));
    rig.storage().resized(FileId(99), last);
    assert_eq!(rig.contents().len(), 4 * SIZE, "nothing grows or shrinks by it");
    stock.assert_all_home();
    assert!(rig.truncate(SIZE as u64));
}

fn ring_suite(path: &Path, options: Options, check: impl Fn(&Device)) {
    suite(&|region, depth, read_only| {
        let rig = Ring::open(region, depth, path, Options { read_only, ..options });
        if !read_only {
            check(rig.device());
        }
        Box::new(rig)
    });
}

fn is_direct(device: &Device) -> bool {
    matches!(device.access(), Access::Direct(_))
}

#[test]
fn memory_does_what_storage_does() {
    /// The double forgets its disk when it is dropped: carry the bytes from one to the next.
    struct Carried(MemoryStorage, Rc<RefCell<Vec<u8>>>);
    impl Rig for Carried {
        fn storage(&mut self) -> &mut dyn Storage {
            &mut self.0
        }
        fn contents(&self) -> Vec<u8> {
            self.0.contents()
        }
        fn truncate(&mut self, size: u64) -> bool {
            self.0.truncate(size)
        }
    }
    impl Drop for Carried {
        fn drop(&mut self) {
            *self.1.borrow_mut() = self.0.contents();
        }
    }
    let bytes = Rc::new(RefCell::new(vec![0; SIZE]));
    suite(&|region, depth, read_only| {
        let mut storage = MemoryStorage::new(Arc::clone(region), depth);
        if read_only {
            storage.add_read_only(bytes.borrow().clone());
        } else {
            storage.add(bytes.borrow().clone());
        }
        Box::new(Carried(storage, Rc::clone(&bytes)))
    });
}

#[test]
fn a_file_on_disk_does_what_storage_does() {
    let directory = disk_directory();
    if !on_disk(directory.path()) {
        return;
    }
    let path = zeroes(directory.path(), "image", SIZE);
    ring_suite(&path, READ_WRITE, |d| assert_eq!(d.durability(), Durability::EachWrite));
}

#[test]
fn a_write_back_file_does_what_storage_does() {
    let directory = disk_directory();
    if !on_disk(directory.path()) {
        return;
    }
    let path = zeroes(directory.path(), "image", SIZE);
    ring_suite(&path, WRITE_BACK, |d| assert_eq!(d.durability(), Durability::OnFlush));
}

#[test]
fn a_file_in_memory_does_what_storage_does() {
    if magic(Path::new("/dev/shm")) != TMPFS {
        println!("SKIPPED: /dev/shm is no tmpfs");
        return;
    }
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = zeroes(directory.path(), "image", SIZE);
    ring_suite(&path, READ_WRITE, |d| {
        assert_eq!((d.durability(), d.access()), (Durability::Ram, Access::Buffered));
    });
}

#[test]
fn a_block_device_does_what_storage_does() {
    need_root!("a loop device");
    let directory = disk_directory();
    let device = Loop::over(&zeroes(directory.path(), "image", SIZE), &[]);
    ring_suite(&device.path, READ_WRITE, |d| {
        assert_eq!(
            (d.backing(), d.durability(), is_direct(d)),
            (Backing::Block, Durability::EachWrite, true)
        );
    });
}

#[test]
fn a_write_through_device_does_what_storage_does() {
    need_root!("a loop device");
    let directory = disk_directory();
    let device = Loop::over(&zeroes(directory.path(), "image", SIZE), &[]);
    device.cache("write through");
    ring_suite(&device.path, READ_WRITE, |d| assert_eq!(d.durability(), Durability::WriteThrough));
}

#[test]
fn a_device_of_large_sectors_does_what_storage_does() {
    need_root!("a loop device");
    let directory = disk_directory();
    let device = Loop::over(&zeroes(directory.path(), "image", SIZE), &["--sector-size", "4096"]);
    device.cache("write through");
    ring_suite(&device.path, READ_WRITE, |d| {
        assert!(is_direct(d), "{:?}", d.access());
        assert_eq!((d.logical_block(), d.physical_block(), d.unit()), (4096, 4096, 4096));
        assert_eq!(d.durability(), Durability::WriteThrough);
    });
}

/// Disks of any kind, whose contents are lost: `XSHELF_TEST_DISKS=/dev/nvme0n1:/dev/sda`. Virtual machines of
/// `tests/vm/appliance-vm.sh` have some.
#[test]
fn real_disks_do_what_storage_does_and_say_how_they_are() {
    let Some(disks) = std::env::var_os("XSHELF_TEST_DISKS") else {
        println!("SKIPPED: XSHELF_TEST_DISKS names no disks whose contents may be lost");
        return;
    };
    for path in std::env::split_paths(&disks) {
        let window = Options { offset: 1 << 20, length: Some(SIZE as u64), ..READ_WRITE };
        // The suite begins with zeroes.
        std::fs::write(&path, vec![0; 4 * SIZE]).unwrap();
        ring_suite(&path, window, |d| assert_eq!((d.backing(), d.size()), (Backing::Block, SIZE as u64)));
        let device = open(&path, window).unwrap_or_else(|e| panic!("{e}"));
        let report = device.patient().unwrap().map(|patient| health::examine(&patient));
        println!(
            "{}: {}, logical block {}, physical block {}, trims: {}, durable: {}, says of its health: {report:?}",
            path.display(),
            device.access(),
            device.logical_block(),
            device.physical_block(),
            device.trims(),
            device.durability()
        );
        assert!(
            report.is_none_or(|r| r.condition != health::Condition::Unknown),
            "it was asked and did not say"
        );
    }
}

// ---- durability --------------------------------------------------------------------------------------------------

#[test]
fn durability_follows_the_backing() {
    need_root!("a loop device");
    let directory = disk_directory();
    let image = zeroes(directory.path(), "image", SIZE);
    let of = |path: &Path, options| open(path, options).unwrap_or_else(|e| panic!("{e}")).durability();
    {
        let device = Loop::over(&image, &[]);
        for (cache, options, want) in [
            ("write back", READ_WRITE, Durability::EachWrite),
            ("write through", READ_WRITE, Durability::WriteThrough),
            ("write through", WRITE_BACK, Durability::OnFlush),
            ("write back", WRITE_BACK, Durability::OnFlush),
            ("write back", READ_ONLY, Durability::ReadOnly),
        ] {
            device.cache(cache);
            assert_eq!(of(&device.path, options), want, "{cache}, {options:?}");
        }
        // A partition has no cache of its own in sysfs.
        let partition = Partition::of(&device);
        device.cache("write through");
        assert_eq!(of(&partition.path, READ_WRITE), Durability::WriteThrough);
        device.cache("write back");
        assert_eq!(of(&partition.path, READ_WRITE), Durability::EachWrite);
        let whole = open(&device.path, READ_ONLY).unwrap().serial().to_owned();
        let part = open(&partition.path, READ_ONLY).unwrap();
        assert_eq!(part.size(), 1024 * 512);
        assert_ne!(whole, part.serial());
    }
    let device = Loop::over(&image, &["-r"]);
    assert_eq!(of(&device.path, READ_ONLY), Durability::ReadOnly);
}

/// Writes `n` times and gives the flushes that reached the device meanwhile.
fn flushes_of(device: &Loop, path: &Path, options: Options, n: u32, then_flush: bool) -> u64 {
    flushes_by(device, path, options, Verb::Write, n, then_flush)
}

fn flushes_by(device: &Loop, path: &Path, options: Options, verb: Verb, n: u32, then_flush: bool) -> u64 {
    let mut stock = Stock::new();
    let region = Arc::clone(&stock.region);
    let mut rig = Ring::open(&region, 4, path, options);
    let before = device.flushes();
    for i in 0..n {
        let buffer = stock.chunk();
        let done = rig.one(job(i, verb, u64::from(i) * 4096, buffer, 512, 512));
        assert_eq!(done.result, Ok(()));
        stock.put(done.buffer);
    }
    if then_flush {
        assert_eq!(rig.one(flush(0)).result, Ok(()));
    }
    device.flushes() - before
}

#[test]
fn durable_writes_reach_the_disk_below() {
    need_root!("a loop device");
    let directory = disk_directory();
    let device = Loop::over(&zeroes(directory.path(), "image", 64 << 20), &[]);
    device.cache("write back");
    assert!(flushes_of(&device, &device.path, READ_WRITE, 10, false) >= 10, "each write");
    assert_eq!(flushes_of(&device, &device.path, WRITE_BACK, 10, false), 0, "write-back writes");
    assert!(flushes_of(&device, &device.path, WRITE_BACK, 10, true) >= 1, "the flush");
    device.cache("write through");
    assert_eq!(flushes_of(&device, &device.path, READ_WRITE, 10, true), 0, "nothing to flush");
    assert_eq!(
        flushes_by(&device, &device.path, READ_WRITE, Verb::Discard, 10, false),
        0,
        "nor after a discard"
    );
    device.cache("write back");
    let by = |options, verb| flushes_by(&device, &device.path, options, verb, 10, false);
    assert!(by(READ_WRITE, Verb::Discard) >= 10, "each discard");
    assert_eq!(by(WRITE_BACK, Verb::Discard), 0, "write-back discards");
    assert!(by(WRITE_BACK, Verb::WriteThrough) >= 10, "write-back writes that shall not be");
    assert!(by(READ_WRITE, Verb::WriteThrough) >= 10, "nor these");

    // A file on it: also when it is a hole, and whatever the disk's cache is said to be.
    device.cache("write back");
    with_own_mounts(|| {
        let mount = Mount::ext4(&device.path);
        let file = zeroes(mount.path(), "file", SIZE);
        assert!(flushes_of(&device, &file, READ_WRITE, 10, false) >= 10, "each write to a hole");
        assert!(flushes_of(&device, &file, READ_WRITE, 10, false) >= 10, "each overwrite");
        let by = |options, verb| flushes_by(&device, &file, options, verb, 10, false);
        assert!(by(WRITE_BACK, Verb::WriteThrough) >= 10, "writes that shall not be write-back");
        assert!(by(READ_WRITE, Verb::Discard) >= 10, "each discard");
    });
}

#[test]
fn discards_free_what_a_file_holds() {
    let directory = disk_directory();
    let path = directory.path().join("image");
    std::fs::write(&path, pattern(1, SIZE)).unwrap();
    let blocks = || {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&path).unwrap().blocks()
    };
    let stock = Stock::new();
    let mut rig = Ring::open(&stock.region, 4, &path, READ_WRITE);
    if !rig.device().trims() {
        println!("SKIPPED: the file system of the target directory has no holes");
        return;
    }
    assert_eq!(rig.one(flush(0)).result, Ok(()));
    let before = blocks();
    assert_eq!(rig.one(job(1, Verb::Discard, 0, Buffer::None, 0, SIZE as u32)).result, Ok(()));
    assert!(blocks() < before / 2, "{} of {before} blocks are left", blocks());
    assert_eq!(rig.contents(), vec![0; SIZE]);
    stock.assert_all_home();
}

#[test]
fn only_what_can_free_says_that_it_trims() {
    let trims = |path: &Path, options| open(path, options).unwrap_or_else(|e| panic!("{e}")).trims();
    let directory = disk_directory();
    let image = zeroes(directory.path(), "image", SIZE);
    if on_disk(directory.path()) && [0xef53, 0x5846_5342, 0x9123_683e].contains(&magic(directory.path())) {
        assert!(trims(&image, READ_WRITE), "ext4, XFS and btrfs have holes");
    }
    assert!(!trims(&image, READ_ONLY), "nothing is ever written");
    assert_eq!(std::fs::metadata(&image).unwrap().len(), SIZE as u64, "asking changes no size");
    need_root!("a loop device and mounts");
    {
        let device = Loop::over(&image, &["--sector-size", "4096"]);
        assert!(trims(&device.path, READ_WRITE), "whole blocks are freed, parts are overwritten");
        let odd = Options { offset: 512, ..READ_WRITE };
        assert!(!trims(&device.path, odd), "through the page cache, single sectors cannot be freed there");
    }
    {
        let device = Loop::over(&image, &[]);
        assert!(trims(&device.path, READ_WRITE));
    }
    with_own_mounts(|| {
        let disk = zeroes(directory.path(), "fat", 8 << 20);
        if output("mkfs.vfat", &[disk.to_str().unwrap()]).is_err() {
            return println!("SKIPPED: mkfs.vfat is not installed");
        }
        let device = Loop::over(&disk, &[]);
        let at = tempfile::tempdir().unwrap();
        let place = at.path().to_str().unwrap();
        let mounted = output("mount", &["-t", "vfat", device.path.to_str().unwrap(), place]).unwrap();
        if !mounted.status.success() {
            return println!("SKIPPED: this kernel has no FAT");
        }
        let trims = trims(&zeroes(at.path(), "file", SIZE), READ_WRITE);
        shell("umount", &[place]);
        assert!(!trims, "FAT has no holes");
    });
}

// ---- windows -----------------------------------------------------------------------------------------------------

#[test]
fn a_window_is_served_and_nothing_else() {
    const START: usize = 100 * 512;
    const PART: usize = 200 * 512;
    let directory = disk_directory();
    let path = directory.path().join("image");
    let mut model = pattern(3, SIZE + 100);
    std::fs::write(&path, &model).unwrap();
    let options = Options { offset: START as u64, length: Some(PART as u64), ..READ_WRITE };
    let mut stock = Stock::new();
    let region = Arc::clone(&stock.region);
    {
        let mut rig = Ring::open(&region, 4, &path, options);
        assert_eq!((rig.device().size(), rig.device().start()), (PART as u64, START as u64));
        assert_eq!(rig.device().misalignment(), START as u32 % rig.device().physical_block());
        for (offset, len, want) in [
            (0, 512, Ok(())),
            (PART - 1024, 1024, Ok(())),
            (PART - 512, 1024, Err(Failure::Short)),
            (PART, 512, Err(Failure::Short)),
        ] {
            let bytes = pattern(offset as u64, len);
            let mut buffer = stock.chunk();
            stock.fill(&mut buffer, 512, &bytes);
            let done = rig.one(job(0, Verb::Write, offset as u64, buffer, 512, len as u32));
            assert_eq!(done.result, want, "{len} at {offset}");
            let mut buffer = done.buffer;
            if want.is_ok() {
                model[START + offset..START + offset + len].copy_from_slice(&bytes);
                stock.fill(&mut buffer, 512, &vec![0; len]);
                let mut done = rig.one(job(1, Verb::Read, offset as u64, buffer, 512, len as u32));
                assert_eq!(done.result, Ok(()));
                assert_eq!(*stock.region.buffer_mut(&mut done.buffer, 512, len), *bytes);
                buffer = done.buffer;
            }
            stock.put(buffer);
        }
        if rig.device().trims() {
            let done = rig.one(job(2, Verb::Discard, 4096, Buffer::None, 0, PART as u32 - 8192));
            assert_eq!(done.result, Ok(()));
            model[START + 4096..START + PART - 4096].fill(0);
            let done = rig.one(job(2, Verb::Discard, 512, Buffer::None, 0, PART as u32));
            assert_eq!(done.result, Err(Failure::Short));
        }
    }
    assert!(std::fs::read(&path).unwrap() == model, "the backing differs from the model");
    stock.assert_all_home();
    refused(&path, Options { offset: 0, length: None, ..READ_WRITE }, &["not a multiple of 512"]);
    refused(&path, Options { offset: 1 << 30, ..options }, &["there are no 102400 bytes behind offset"]);
}

#[test]
fn a_gauge_sees_a_backing_grow_and_shrink() {
    let directory = disk_directory();
    let path = zeroes(directory.path(), "image", SIZE);
    let set = |bytes| std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    {
        let device = open(&path, Options { offset: 1024, ..READ_WRITE }).unwrap();
        let gauge = device.gauge().unwrap();
        for (whole, want) in [(SIZE as u64, SIZE as u64 - 1024), (4096 + 100, 3072), (1000, 0), (8192, 7168)]
        {
            set(whole);
            assert_eq!(gauge.size().unwrap(), want, "{whole} bytes");
        }
        drop(device);
        refused(&path, READ_WRITE, &["used by another program"]);
    }
    drop(open(&path, READ_WRITE).unwrap());
    need_root!("a loop device");
    set(SIZE as u64);
    let device = Loop::over(&path, &[]);
    let window = Options { offset: 512, length: Some(2048), ..READ_WRITE };
    let part = open(&device.path, window).unwrap().gauge().unwrap();
    let growing = Loop::over(&zeroes(directory.path(), "other", SIZE), &[]);
    let all = open(&growing.path, READ_WRITE).unwrap().gauge().unwrap();
    assert_eq!((part.size().unwrap(), all.size().unwrap()), (2048, SIZE as u64));
    std::fs::OpenOptions::new()
        .write(true)
        .open(directory.path().join("other"))
        .unwrap()
        .set_len(2 * SIZE as u64)
        .unwrap();
    shell("losetup", &["-c", growing.path.to_str().unwrap()]);
    assert_eq!(all.size().unwrap(), 2 * SIZE as u64);
    drop((part, all));
}

#[test]
fn a_backing_is_shared_by_parts() {
    let directory = disk_directory();
    let path = zeroes(directory.path(), "image", SIZE);
    let check = |path: &Path| {
        let claim = device::claim(path, READ_WRITE).unwrap();
        let part = |offset, read_only| {
            let options = Options { offset, length: Some(4096), read_only, ..READ_WRITE };
            let file = device::open_again(claim.as_fd(), path, options).unwrap();
            device::measure_part(file, claim.try_clone().unwrap(), path, options).unwrap()
        };
        let (first, second) = (part(0, false), part(4096, true));
        assert_eq!(first.identity(), second.identity());
        assert_ne!(first.serial(), second.serial());
        drop((first, claim));
        let e = device::claim(path, READ_WRITE).unwrap_err();
        assert!(matches!(e, OpenError::InUse { by: User::Program, .. }), "{e}");
        drop(second);
        drop(device::claim(path, READ_WRITE).unwrap());
    };
    check(&path);
    need_root!("a loop device");
    check(&Loop::over(&path, &[]).path);
}

// ---- units of more than a sector ---------------------------------------------------------------------------------

/// Jobs that the rings of these tests take at once.
const DEPTH: usize = 200;

/// The units that a job touches.
struct Change {
    units: std::ops::RangeInclusive<usize>,
    writes: bool,
}

/// A job of those, and what it should read.
struct Running {
    change: Change,
    at: usize,
    len: usize,
    expected: Option<Vec<u8>>,
    number: usize,
}

/// Random reads, writes and discards of single sectors and more, as many at once as there may be: those that change the
/// same unit one after the other, and nobody reads what is being changed. `wide` is the size of a unit in sectors.
fn parts_of_units(
    stock: &mut Stock,
    rig: &mut Ring,
    model: &mut [u8],
    wide: usize,
    rounds: usize,
    seed: u64,
) {
    let mut x = seed;
    let mut next = move |below: usize| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as usize % below
    };
    let sectors = model.len() / 512;
    let mut in_flight: Vec<Option<Running>> = Vec::new();
    let mut started = 0;
    let start = Instant::now();
    while started < rounds || in_flight.iter().any(Option::is_some) {
        assert!(start.elapsed() < HANG, "jobs hang: {:?}", rig.ring.stats());
        // Not always everything that could be: ends and beginnings come in all orders.
        for _ in 0..next(40) {
            // Where the disk is slow, discards fill the ring, which take none of the stock.
            let full = rig.ring.in_flight() == DEPTH;
            if full || started == rounds || stock.runs.available() == 0 || stock.chunks.is_empty() {
                break;
            }
            let discards = rig.trims() && next(8) == 0;
            let count = 1 + next(if discards { 100 } else { 16 });
            let lba = next(sectors - count);
            let kind = if discards { 5 } else { next(5) };
            let writes = kind > 1;
            let change = Change { units: lba / wide..=(lba + count - 1) / wide, writes };
            let held = |other: &Change| {
                let apart =
                    other.units.end() < change.units.start() || change.units.end() < other.units.start();
                !apart && (writes || other.writes)
            };
            if in_flight.iter().flatten().any(|running| held(&running.change)) {
                continue;
            }
            let (offset, len) = (lba * 512, count * 512);
            let (mut buffer, at) = match (kind, count) {
                (5, _) => (Buffer::None, 0),
                (_, 1..=7) => (stock.chunk(), 512),
                _ => (stock.run(), 0),
            };
            let place = &mut model[offset..offset + len];
            let (verb, expected) = match kind {
                0 | 1 => (Verb::Read, Some(place.to_vec())),
                2..=4 => {
                    let bytes = pattern(started as u64 + seed, len);
                    stock.fill(&mut buffer, at, &bytes);
                    place.copy_from_slice(&bytes);
                    (if kind == 2 { Verb::WriteThrough } else { Verb::Write }, None)
                }
                _ => {
                    place.fill(0);
                    (Verb::Discard, None)
                }
            };
            let ticket = in_flight.iter().position(Option::is_none).unwrap_or(in_flight.len());
            let new = job(ticket as u32, verb, offset as u64, buffer, at as u32, len as u32);
            if let Err(new) = rig.ring.submit(new) {
                panic!("no room for {new:?}");
            }
            if ticket == in_flight.len() {
                in_flight.push(None);
            }
            in_flight[ticket] = Some(Running { change, at, len, expected, number: started });
            started += 1;
        }
        rig.ring.turn();
        let mut done = Vec::new();
        if rig.ring.reap(1 + next(32), &mut |d| done.push(d)) == 0 && in_flight.iter().any(Option::is_some) {
            rig.wait();
        }
        for mut done in done {
            let Running { at, len, expected, number, .. } = in_flight[done.ticket.0 as usize].take().unwrap();
            assert_eq!(done.result, Ok(()), "job {number}");
            if let Some(bytes) = expected {
                let read = stock.region.buffer_mut(&mut done.buffer, at, len);
                assert!(*read == *bytes, "job {number} read something else");
            }
            stock.put(done.buffer);
        }
    }
    assert_eq!(rig.one(flush(0)).result, Ok(()));
    stock.assert_all_home();
}

#[test]
fn parts_of_units_are_written_without_touching_the_rest() {
    need_root!("loop devices and mounts");
    let directory = disk_directory();
    for unit in ["512", "1024", "2048", "4096"] {
        let bytes = unit.parse().unwrap();
        for (cache, options) in [("write back", READ_WRITE), ("write through", WRITE_BACK)] {
            let device =
                Loop::over(&zeroes(directory.path(), &format!("disk{unit}"), SIZE), &["--sector-size", unit]);
            device.cache(cache);
            let mut stock = Stock::new();
            let region = Arc::clone(&stock.region);
            let mut model = pattern(77, SIZE);
            std::fs::write(&device.path, &model).unwrap();
            let mut rig = Ring::open(&region, DEPTH, &device.path, options);
            assert!(is_direct(rig.device()));
            assert_eq!((rig.device().unit(), rig.device().trims()), (bytes, true));
            parts_of_units(&mut stock, &mut rig, &mut model, bytes as usize / 512, 3000, u64::from(bytes));
            assert!(rig.contents() == model, "the backing differs from the model");
            let stats = rig.ring.stats();
            assert_eq!(stats.bounced > 500, bytes > 512, "{stats:?}");
        }
    }
    // A file on such a disk, in a window, beside one that begins where no unit does.
    let device = Loop::over(&zeroes(directory.path(), "disk", 64 << 20), &["--sector-size", "4096"]);
    with_own_mounts(|| {
        let mount = Mount::ext4(&device.path);
        let path = mount.path().join("image");
        let mut model = pattern(78, SIZE);
        std::fs::write(&path, &model).unwrap();
        let mut stock = Stock::new();
        let region = Arc::clone(&stock.region);
        {
            let window = Options { offset: 8192, length: Some(SIZE as u64 / 2), ..READ_WRITE };
            let mut rig = Ring::open(&region, DEPTH, &path, window);
            assert_eq!(
                (is_direct(rig.device()), rig.device().unit()),
                (true, 4096),
                "{}",
                rig.device().access()
            );
            parts_of_units(&mut stock, &mut rig, &mut model[8192..][..SIZE / 2], 8, 2000, 5);
        }
        assert!(std::fs::read(&path).unwrap() == model, "the file differs from the model");
        for (offset, length) in [(512, None), (4096, Some(512)), (0, Some(4096 * 3 + 1024))] {
            let odd = open(&path, Options { offset, length, ..READ_WRITE }).unwrap();
            assert!(matches!(odd.access(), Access::Coarse(_)), "{:?}", odd.access());
            assert_eq!((odd.unit(), odd.alignment()), (512, None));
            let text = odd.access().to_string();
            assert!(text.contains("4096") && text.contains("no multiple"), "{text}");
        }
        // One that grows by more than whole units is served as far as those go.
        let mut rig = Ring::open(&region, 4, &path, READ_WRITE);
        let gauge = rig.device().gauge().unwrap();
        assert!(rig.truncate(SIZE as u64 + 4096 + 512));
        assert_eq!(gauge.size().unwrap(), SIZE as u64 + 4096);
        rig.ring.resized(FILE, SIZE as u64 + 4096 + 512);
        for (offset, want) in [(SIZE + 3584, Ok(())), (SIZE + 4096, Err(Failure::Short))] {
            let buffer = stock.chunk();
            let done = rig.one(job(0, Verb::Write, offset as u64, buffer, 512, 512));
            assert_eq!(done.result, want, "{offset}");
            stock.put(done.buffer);
        }
    });
}

// ---- failures ----------------------------------------------------------------------------------------------------

#[test]
fn a_full_file_system_fails_the_write_and_only_that() {
    need_root!("a tmpfs of its own");
    with_own_mounts(|| {
        let mount = Mount::tmpfs(256 << 10);
        let path = zeroes(mount.path(), "image", SIZE);
        let mut stock = Stock::new();
        let region = Arc::clone(&stock.region);
        let mut rig = Ring::open(&region, 64, &path, READ_WRITE);
        let mut results = Vec::new();
        for i in 0..64 {
            let buffer = stock.run();
            let done = rig.one(job(i, Verb::Write, u64::from(i) * 8192, buffer, 0, 8192));
            results.push(done.result);
            stock.put(done.buffer);
        }
        assert_eq!(results[0], Ok(()));
        assert_eq!(results[63], Err(Failure::Errno(libc::ENOSPC)));
        // What has its pages already still works.
        let buffer = stock.run();
        let done = rig.one(job(0, Verb::Write, 0, buffer, 0, 8192));
        assert_eq!(done.result, Ok(()));
        stock.put(done.buffer);
        stock.assert_all_home();
    });
}

#[test]
fn a_failing_device_fails_the_write() {
    need_root!("a loop device over a full tmpfs");
    with_own_mounts(|| {
        let mount = Mount::tmpfs(256 << 10);
        let device = Loop::over(&zeroes(mount.path(), "image", SIZE), &[]);
        let mut stock = Stock::new();
        let region = Arc::clone(&stock.region);
        let mut rig = Ring::open(&region, 128, &device.path, READ_WRITE);
        let mut failed = 0;
        for i in 0..64 {
            let buffer = stock.run();
            let done = rig.one(job(i, Verb::Write, u64::from(i) * 8192, buffer, 0, 8192));
            match done.result {
                Ok(()) => assert_eq!(failed, 0),
                Err(Failure::Errno(libc::EIO | libc::ENOSPC)) => failed += 1,
                Err(other) => panic!("{other:?}"),
            }
            stock.put(done.buffer);
        }
        assert!(failed > 0);
        stock.assert_all_home();
    });
}

#[test]
fn a_sparse_file_on_a_full_disk_says_that_there_is_no_room() {
    need_root!("a file system of its own");
    let directory = disk_directory();
    let device = Loop::over(&zeroes(directory.path(), "disk", 8 << 20), &[]);
    with_own_mounts(|| {
        let mount = Mount::ext4(&device.path);
        let path = zeroes(mount.path(), "image", 64 << 20);
        let mut stock = Stock::new();
        let region = Arc::clone(&stock.region);
        let mut rig = Ring::open(&region, 64, &path, READ_WRITE);
        let mut full = 0;
        for i in 0..1200 {
            let buffer = stock.run();
            let done = rig.one(job(0, Verb::Write, i * 8192, buffer, 0, 8192));
            match done.result {
                Ok(()) => {}
                Err(failure) => {
                    assert!(failure.is_full() && !failure.is_gone(), "{failure:?}");
                    full += 1;
                }
            }
            stock.put(done.buffer);
        }
        assert!(full > 100, "{full} of 1200");
        // Where there is something already it can be written still.
        let buffer = stock.run();
        let done = rig.one(job(0, Verb::Write, 0, buffer, 0, 8192));
        assert_eq!(done.result, Ok(()));
        stock.put(done.buffer);
        stock.assert_all_home();
    });
}

/// A loop device lives on while it is open, and no other can be taken away; but it can lose all of its size, which is what
/// becomes of one that is taken away.
#[test]
fn a_device_that_vanished_is_told_from_one_that_fails_or_is_full() {
    need_root!("a loop device");
    let directory = disk_directory();
    for sectors in ["512", "4096"] {
        let image = zeroes(directory.path(), sectors, SIZE);
        let device = Loop::over(&image, &["--sector-size", sectors]);
        let mut stock = Stock::new();
        let region = Arc::clone(&stock.region);
        let mut rig = Ring::open(&region, 64, &device.path, READ_WRITE);
        let set = |bytes| {
            std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(bytes).unwrap();
            shell("losetup", &["-c", device.path.to_str().unwrap()]);
        };
        let all = |stock: &mut Stock, rig: &mut Ring, offset: u64| {
            let mut failures = Vec::new();
            for verb in [Verb::Read, Verb::Write, Verb::WriteThrough, Verb::Discard] {
                let buffer = stock.chunk();
                let done = rig.one(job(0, verb, offset, buffer, 512, 1024));
                failures.push((verb, done.result.expect_err("it is not there")));
                stock.put(done.buffer);
            }
            failures
        };
        // What lies beyond a device that has become smaller is not there, but the device is.
        set(SIZE as u64 / 2);
        for (verb, failure) in all(&mut stock, &mut rig, SIZE as u64 - 2048) {
            assert!(!failure.is_gone(), "{verb:?}: {failure:?}");
        }
        let buffer = stock.chunk();
        let done = rig.one(job(0, Verb::Write, 512, buffer, 512, 1024));
        assert_eq!(done.result, Ok(()));
        stock.put(done.buffer);
        set(0);
        for (verb, failure) in all(&mut stock, &mut rig, 512) {
            assert!(failure.is_gone() && !failure.is_full(), "{verb:?}: {failure:?}");
        }
        // It comes back, and whoever has it open still can use it.
        set(SIZE as u64);
        let buffer = stock.chunk();
        let done = rig.one(job(0, Verb::Write, 512, buffer, 512, 1024));
        assert_eq!(done.result, Ok(()));
        stock.put(done.buffer);
        stock.assert_all_home();
    }
}

#[test]
fn a_misaligned_job_never_reaches_the_kernel() {
    let directory = disk_directory();
    if !on_disk(directory.path()) {
        return;
    }
    let path = zeroes(directory.path(), "image", SIZE);
    let stock = RefCell::new(Stock::new());
    let region = Arc::clone(&stock.borrow().region);
    let device = open(&path, READ_WRITE).unwrap();
    let Some(alignment) = device.alignment() else {
        println!("SKIPPED: the target directory's file system has no O_DIRECT");
        return;
    };
    let mut ring = UringStorage::new(region, 8, vec![device]).unwrap();
    for (offset, at, len) in [(1, 512, 512), (0, 512, 100), (0, 513, 512)] {
        if at == 513 && alignment.memory == 1 {
            continue;
        }
        let buffer = stock.borrow_mut().chunk();
        let bad = job(0, Verb::Read, offset, buffer, at, len);
        // In a debug build it panics, which the worker's author should see; otherwise it is an answer.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.submit(bad)));
        if cfg!(debug_assertions) {
            assert!(outcome.is_err(), "{len} at {offset} from {at}");
        } else {
            assert!(matches!(outcome, Ok(Ok(()))));
            let mut results = Vec::new();
            ring.reap(9, &mut |d| {
                results.push(d.result);
                stock.borrow_mut().put(d.buffer);
            });
            assert_eq!(results, [Err(Failure::Errno(libc::EINVAL))]);
        }
    }
    assert!(ring.stats().misaligned >= 2);
    assert_eq!(ring.stats().enters, 0, "the kernel was not asked");
}

// ---- the table of files ------------------------------------------------------------------------------------------

#[test]
fn files_come_and_go_while_the_ring_runs() {
    let directory = disk_directory();
    let mut stock = Stock::new();
    let paths: Vec<_> = ["a", "b", "c"].iter().map(|name| zeroes(directory.path(), name, SIZE)).collect();
    let open = |path: &Path| open(path, READ_WRITE).unwrap_or_else(|e| panic!("{e}"));
    let region = Arc::clone(&stock.region);
    let mut rig = Ring::open(&region, 8, &paths[0], READ_WRITE);
    assert_eq!(rig.ring.add_file(open(&paths[1])).unwrap(), FileId(1));
    assert_eq!(rig.ring.add_file(open(&paths[2])).unwrap(), FileId(2));
    assert!(matches!(rig.ring.remove_file(FileId(3)), Err(FileError::Unknown)));

    // Busy until its last job ended, even when nobody has reaped it yet.
    let mut buffer = stock.chunk();
    stock.fill(&mut buffer, 512, &[1; 512]);
    let mut write = job(0, Verb::Write, 0, buffer, 512, 512);
    write.file = FileId(1);
    rig.ring.submit(write).unwrap();
    assert!(matches!(rig.ring.remove_file(FileId(1)), Err(FileError::Busy(1))));
    let mut done = Vec::new();
    while done.is_empty() {
        rig.ring.turn();
        if rig.ring.reap(1, &mut |d| done.push(d)) == 0 {
            rig.wait();
        }
    }
    assert_eq!(done[0].result, Ok(()));
    let removed = rig.ring.remove_file(FileId(1)).unwrap();
    assert_eq!(removed.path(), paths[1]);
    done.into_iter().for_each(|d| stock.put(d.buffer));
    drop(removed);

    // The claim goes with it, while its worker lives on; its number is free, and the old number's jobs do not reach the new file by mistake.
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| drop(open(&paths[1])));
        while !opener.is_finished() {
            rig.ring.wait_event(Some(Duration::from_millis(5)));
        }
        opener.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let buffer = stock.chunk();
    let mut read = job(0, Verb::Read, 0, buffer, 512, 512);
    read.file = FileId(1);
    let done = rig.one(read);
    assert_eq!(done.result, Err(Failure::Errno(libc::EBADF)));
    let removed = rig.ring.remove_file(FileId(0)).unwrap();
    assert_eq!(rig.ring.add_file(open(&paths[1])).unwrap(), FileId(0));
    let mut done = rig.one(job(0, Verb::Read, 0, done.buffer, 512, 512));
    assert_eq!(done.result, Ok(()));
    assert_eq!(*stock.region.buffer_mut(&mut done.buffer, 512, 512), [1; 512], "the other file");
    stock.put(done.buffer);
    drop(removed);
    stock.assert_all_home();
}

#[test]
fn another_device_takes_the_place_of_one_that_nobody_uses() {
    let directory = disk_directory();
    let mut stock = Stock::new();
    let paths: Vec<_> = ["a", "b"].iter().map(|name| zeroes(directory.path(), name, SIZE)).collect();
    std::fs::write(&paths[1], pattern(9, 2 * SIZE)).unwrap();
    let open = |path: &Path, options| open(path, options).unwrap_or_else(|e| panic!("{e}"));
    let region = Arc::clone(&stock.region);
    let mut rig = Ring::open(&region, 8, &paths[0], READ_WRITE);
    // What is behind the new one's window, and beyond the old one's end.
    let window = Options { offset: 4096, ..READ_WRITE };
    let refused = rig.ring.replace_file(FileId(1), open(&paths[1], window)).unwrap_err();
    assert!(matches!(*refused, (FileError::Unknown, _)), "{refused:?}");
    let buffer = stock.chunk();
    rig.ring.submit(job(0, Verb::Write, 0, buffer, 512, 512)).unwrap();
    let refused = rig.ring.replace_file(FILE, refused.1).unwrap_err();
    assert!(matches!(*refused, (FileError::Busy(1), _)), "{refused:?}");
    assert_eq!(rig.device().path(), paths[0]);
    let mut done = Vec::new();
    while done.is_empty() {
        rig.ring.turn();
        if rig.ring.reap(1, &mut |d| done.push(d)) == 0 {
            rig.wait();
        }
    }
    let new = refused.1;
    let old = rig.ring.replace_file(FILE, new).unwrap_or_else(|refused| panic!("{refused:?}"));
    assert_eq!((old.path(), rig.device().path()), (&*paths[0], &*paths[1]));
    drop(old);
    let buffer = done.pop().unwrap().buffer;
    let offset = 2 * SIZE - 8192;
    let mut done = rig.one(job(0, Verb::Read, offset as u64, buffer, 512, 512));
    assert_eq!(done.result, Ok(()));
    let expected = &pattern(9, 2 * SIZE)[offset + 4096..][..512];
    assert_eq!(*stock.region.buffer_mut(&mut done.buffer, 512, 512), *expected, "the other file's window");
    stock.put(done.buffer);
    // The claim on the old one goes, and only that.
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| drop(open(&paths[0], READ_WRITE)));
        while !opener.is_finished() {
            rig.ring.wait_event(Some(Duration::from_millis(5)));
        }
        opener.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    self::refused(&paths[1], READ_WRITE, &["used by another program"]);
    stock.assert_all_home();
}

#[test]
fn a_dropped_ring_gives_its_files_back() {
    let directory = disk_directory();
    let path = zeroes(directory.path(), "image", SIZE);
    let mut stock = Stock::new();
    for round in 0..20 {
        let region = Arc::clone(&stock.region);
        // Opens, so the last round's claim has gone.
        let mut rig = Ring::open(&region, 32, &path, WRITE_BACK);
        for t in 0..16 {
            let buffer = stock.chunk();
            rig.ring.submit(job(t, Verb::Write, u64::from(t) * 8192, buffer, 512, 512)).unwrap();
        }
        if round % 2 == 0 {
            rig.ring.turn();
        }
        // In flight, or not even handed over: the ring waits for them, and their memory goes with the worker.
        let memory = Arc::downgrade(&region);
        drop((rig, region));
        stock = Stock::new();
        assert!(memory.upgrade().is_none(), "the ring did not wait for its jobs, or keeps their memory");
    }
}

// ---- opening -----------------------------------------------------------------------------------------------------

#[track_caller]
fn refused(path: &Path, options: Options, words: &[&str]) -> OpenError {
    let error = open(path, options).map(|d| format!("{d:?}")).expect_err("it must not open");
    let text = error.to_string();
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    error
}

#[test]
fn what_cannot_be_served_is_refused_with_a_remedy() {
    let directory = disk_directory();
    let at = |name: &str| directory.path().join(name);
    let e = refused(&at("nothing"), READ_WRITE, &["does not exist", "truncate -s SIZE"]);
    assert!(matches!(e, OpenError::Missing(_)));
    refused(&zeroes(directory.path(), "x", 512).join("y"), READ_WRITE, &["does not exist"]);
    std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();
    refused(&at("dangling"), READ_WRITE, &["does not exist"]);

    refused(directory.path(), READ_WRITE, &["directory", "block device or a regular file"]);
    refused(Path::new("/dev/null"), READ_WRITE, &["character device"]);
    shell("mkfifo", &[at("pipe").to_str().unwrap()]);
    refused(&at("pipe"), READ_WRITE, &["named pipe"]);
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    refused(&at("socket"), READ_ONLY, &["socket"]);

    let e = refused(&zeroes(directory.path(), "empty", 0), READ_WRITE, &["is empty", "truncate"]);
    assert!(matches!(e, OpenError::Empty(_)));
    let odd = zeroes(directory.path(), "odd", 1_000_000);
    let e = refused(&odd, READ_ONLY, &["1000000 bytes", "999936", "1000448"]);
    assert!(matches!(e, OpenError::NotSectors { size: 1_000_000, .. }));

    // A loop of links, for the kernel's own words.
    std::os::unix::fs::symlink(at("circle"), at("circle")).unwrap();
    let e = refused(&at("circle"), READ_WRITE, &["symbolic links"]);
    assert!(matches!(e, OpenError::Io { .. }));
}

/// Runs in a thread that is somebody else.
fn as_nobody<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the raw calls change the credentials of this thread only (glibc's wrappers change all).
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, 65534, 65534, 65534), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534), 0);
            }
            test()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn what_may_not_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    need_root!("being somebody else");
    let directory = tempfile::tempdir().unwrap();
    let path = zeroes(directory.path(), "image", SIZE);
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(directory.path(), 0o755);
    allow(&path, 0o644);
    as_nobody(|| {
        let e = refused(&path, READ_WRITE, &["opened for writing", "use `ro`", "permissions"]);
        assert!(matches!(e, OpenError::NotPermitted { read_only: false, .. }));
        assert!(open(&path, READ_ONLY).unwrap().read_only());
    });
    allow(&path, 0o600);
    as_nobody(|| refused(&path, READ_ONLY, &["opened for reading", "permissions"]));
    allow(directory.path(), 0o700);
    as_nobody(|| refused(&path, READ_ONLY, &["opened for reading"]));

    let device = Loop::over(&path, &["-r"]);
    let e = refused(&device.path, READ_WRITE, &["read-only", "use `ro`"]);
    assert!(matches!(e, OpenError::NotWritable(_)));
    with_own_mounts(|| {
        let mount = Mount::tmpfs(SIZE);
        let path = zeroes(mount.path(), "image", 512);
        shell("mount", &["-o", "remount,ro", mount.path().to_str().unwrap()]);
        let e = refused(&path, READ_WRITE, &["read-only", "use `ro`"]);
        assert!(matches!(e, OpenError::NotWritable(_)));
        assert!(open(&path, READ_ONLY).is_ok());
    });
}

#[test]
fn two_slots_never_share_what_one_writes() {
    let directory = disk_directory();
    let path = zeroes(directory.path(), "image", SIZE);
    let link = directory.path().join("link");
    std::fs::hard_link(&path, &link).unwrap();
    {
        let first = open(&path, READ_WRITE).unwrap();
        for (path, options) in [(&path, READ_WRITE), (&link, READ_WRITE), (&path, READ_ONLY)] {
            let e = refused(path, options, &["used by another program", "another slot", "fuser"]);
            assert!(matches!(e, OpenError::InUse { by: User::Program, .. }));
        }
        // The caller can tell that it is its own doing.
        assert_eq!(device::identity(&link).unwrap(), first.identity());
        assert!(matches!(first.identity(), Identity::File { .. }));
        assert_ne!(device::identity(&zeroes(directory.path(), "other", 512)).unwrap(), first.identity());
    }
    let first = open(&path, READ_ONLY).unwrap();
    let second = open(&link, READ_ONLY).unwrap();
    refused(&path, READ_WRITE, &["used by another program"]);
    drop((first, second));
    open(&path, READ_WRITE).unwrap();

    if !is_root() {
        println!("SKIPPED: the part with a loop device needs root");
        return;
    }
    let device = Loop::over(&zeroes(directory.path(), "disk", 16 << 20), &[]);
    {
        let first = open(&device.path, READ_WRITE).unwrap();
        refused(&device.path, READ_WRITE, &["used by another program"]);
        refused(&device.path, READ_ONLY, &["used by another program"]);
        assert_eq!(device::identity(&device.path).unwrap(), first.identity());
        assert!(matches!(first.identity(), Identity::Block { .. }));
    }
    with_own_mounts(|| {
        let mount = Mount::ext4(&device.path);
        let at = mount.path().to_str().unwrap();
        let e = refused(&device.path, READ_WRITE, &["mounted on", at, "unmount it first"]);
        assert!(matches!(e, OpenError::InUse { by: User::Mount(_), .. }));
    });
}

#[test]
fn facts_are_those_of_the_backing() {
    let directory = disk_directory();
    let path = zeroes(directory.path(), "image", 3 * 512);
    let file = open(&path, READ_WRITE).unwrap();
    assert_eq!((file.size(), file.backing(), file.logical_block()), (1536, Backing::File, 512));
    assert!(file.physical_block().is_power_of_two());
    assert!((1..=20).contains(&file.serial().len()) && file.serial().is_ascii());
    if let Some(a) = file.alignment() {
        assert!(a.memory <= 512 && a.offset <= 512);
    }
    let serial = file.serial().to_owned();
    drop(file);
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(open(&link, READ_ONLY).unwrap().serial(), serial, "the same file by another way");

    if !is_root() {
        println!("SKIPPED: the part with a loop device needs root");
        return;
    }
    let image = zeroes(directory.path(), "disk", SIZE);
    let serial = {
        let device = Loop::over(&image, &[]);
        let rotational = std::fs::read_to_string(device.queue("rotational")).unwrap().trim() == "1";
        let disk = open(&device.path, READ_WRITE).unwrap();
        assert_eq!(
            (disk.size(), disk.logical_block(), disk.rotational()),
            (SIZE as u64, 512, Some(rotational))
        );
        assert!(is_direct(&disk));
        disk.serial().to_owned()
    };
    let device = Loop::over(&image, &[]);
    let disk = open(&device.path, READ_WRITE).unwrap();
    assert_eq!(disk.serial(), serial, "whatever loop device it is");
}

// ---- setting up --------------------------------------------------------------------------------------------------

/// Forbids io_uring_setup to this thread with this errno.
fn forbid_rings(errno: i32) {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter is valid for the call, and binds this thread only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn a_forbidden_ring_says_who_forbids_it() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                forbid_rings(errno);
                let error = UringStorage::new(Arc::new(Region::heap(1)), 8, vec![]).unwrap_err();
                assert!(matches!(error, SetupError::Denied { .. }), "{error:?}");
                let text = error.to_string();
                assert!(text.contains("seccomp") && text.contains("io_uring_setup"), "{text}");
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

#[test]
fn too_little_locked_memory_names_the_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    // Only root's other tests do not mind the limit, which holds for the whole process.
    need_root!("a small memory limit that does not disturb the other tests");
    let before = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(65536), maximum: before.maximum }).unwrap();
    let error = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::IPC_LOCK);
            set_capabilities(None, sets).unwrap();
            UringStorage::new(Arc::new(Region::heap(512)), 8, vec![]).map(|_| ()).unwrap_err()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    setrlimit(Resource::Memlock, before).unwrap();
    assert!(matches!(error, SetupError::Memlock { bytes: 2_097_152, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("65536 bytes") && text.contains("LimitMEMLOCK=infinity"), "{text}");
}

// ---- sleeping and waking -----------------------------------------------------------------------------------------

fn ring() -> UringStorage {
    UringStorage::new(Arc::new(Region::heap(16)), 16, vec![]).unwrap_or_else(|e| panic!("{e}"))
}

fn counter() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn raise(counter: &OwnedFd) {
    rustix::io::write(counter, &1u64.to_ne_bytes()).unwrap();
}

fn keys(ring: &mut UringStorage) -> Vec<u16> {
    let mut keys = Vec::new();
    ring.take_ready(&mut |k| keys.push(k));
    keys
}

const SHORT: Option<Duration> = Some(Duration::from_millis(20));
const LONG: Option<Duration> = Some(HANG);

#[test]
fn sleep_ends_with_the_time_or_the_event() {
    let mut ring = ring();
    assert_eq!(ring.wait_event(Some(Duration::ZERO)), Woken::Timeout);
    let start = Instant::now();
    assert_eq!(ring.wait_event(SHORT), Woken::Timeout);
    assert!(start.elapsed() >= Duration::from_millis(20), "too early");

    let (a, b) = (counter(), counter());
    ring.watch_eventfd(a.as_fd(), 7).unwrap();
    ring.watch_eventfd(b.as_fd(), 9).unwrap();
    assert_eq!(ring.wait_event(SHORT), Woken::Timeout, "arming is no event");
    // Raised before the sleep, many times: one event, and the counter is back at nothing.
    for _ in 0..5 {
        raise(&b);
    }
    assert_eq!(ring.wait_event(None), Woken::Event);
    assert_eq!(keys(&mut ring), [9]);
    assert!(keys(&mut ring).is_empty());
    assert_eq!(rustix::io::read(&b, &mut [0; 8]), Err(rustix::io::Errno::AGAIN));
    assert_eq!(ring.wait_event(SHORT), Woken::Timeout, "the event was spent");
    raise(&a);
    raise(&b);
    let mut both = Vec::new();
    while both.len() < 2 {
        assert_eq!(ring.wait_event(LONG), Woken::Event);
        both.extend(keys(&mut ring));
    }
    both.sort_unstable();
    assert_eq!(both, [7, 9]);
    // An event that a turn has seen already ends the next sleep, once: nobody has looked since.
    while ring.wait_event(SHORT) == Woken::Event {}
    raise(&a);
    let start = Instant::now();
    while ring.stats().drains < 4 {
        ring.turn();
        assert!(start.elapsed() < HANG);
    }
    assert_eq!(ring.wait_event(None), Woken::Event);
    assert_eq!(ring.wait_event(SHORT), Woken::Timeout);

    ring.unwatch(9);
    raise(&b);
    keys(&mut ring);
    while ring.wait_event(SHORT) == Woken::Event {}
    // A signal to the process would end one sleep, a forgotten watch ends each.
    let deaf = (0..5).any(|_| {
        raise(&b);
        ring.wait_event(SHORT) == Woken::Timeout
    });
    assert!(deaf, "still watched: {:?}", ring.stats());
    raise(&a);
    assert_eq!(ring.wait_event(LONG), Woken::Event, "the other one still is");
    assert_eq!(keys(&mut ring), [7]);
    let stats = ring.stats();
    assert_eq!((stats.stray, stats.errors, stats.deaf), (0, 0, 0), "{stats:?}");
}

#[test]
fn a_watched_socket_speaks_for_each_arrival() {
    let mut ring = ring();
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    theirs.send(b"early").unwrap();
    ring.watch(ours.as_fd(), 3).unwrap();
    assert_eq!(ring.wait_event(LONG), Woken::Event, "what was there before the watch");
    assert_eq!(keys(&mut ring), [3]);
    assert_eq!(ring.wait_event(SHORT), Woken::Timeout, "unread data is no new event");
    for _ in 0..3 {
        theirs.send(b"more").unwrap();
        assert_eq!(ring.wait_event(LONG), Woken::Event);
        assert_eq!(keys(&mut ring), [3]);
    }
    // Our end is closed by the caller: the watch has its own descriptor, and unwatch lets go of it.
    drop(ours);
    theirs.send(b"still there").unwrap();
    assert_eq!(ring.wait_event(LONG), Woken::Event);
    ring.unwatch(3);
    // A child that another test starts right now has a copy until it executes.
    let start = Instant::now();
    while theirs.send(b"gone").is_ok() {
        assert!(start.elapsed() < HANG, "the kernel still holds the socket");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn watches_are_bounded() {
    let mut ring = ring();
    let event = counter();
    for key in 0..limits::WATCHES {
        ring.watch_eventfd(event.as_fd(), key as u16).unwrap();
    }
    assert!(ring.watch_eventfd(event.as_fd(), 999).is_err());
    ring.unwatch(5);
    ring.watch_eventfd(event.as_fd(), 1000).unwrap();
    raise(&event);
    assert_eq!(ring.wait_event(LONG), Woken::Event);
}

#[test]
fn idle_turns_and_waiting_turns_cost_no_call() {
    let directory = disk_directory();
    let path = zeroes(directory.path(), "image", SIZE);
    let mut stock = Stock::new();
    let region = Arc::clone(&stock.region);
    let mut rig = Ring::open(&region, 8, &path, READ_WRITE);
    for _ in 0..1000 {
        rig.ring.turn();
    }
    assert_eq!(rig.ring.stats().syscalls(), 0);
    // Completions come by turns alone, without a sleep, and turns that could not find one do not ask.
    for t in 0..50 {
        let buffer = stock.chunk();
        rig.ring.submit(job(t, Verb::Write, 0, buffer, 512, 512)).unwrap();
        let mut done = Vec::new();
        let start = Instant::now();
        let before = rig.ring.stats().enters;
        while done.is_empty() {
            rig.ring.turn();
            rig.ring.reap(1, &mut |d| done.push(d));
            assert!(start.elapsed() < HANG, "no completion without a sleep");
        }
        let calls = rig.ring.stats().enters - before;
        assert!(calls <= 4, "{calls} calls for one job");
        done.into_iter().for_each(|d| stock.put(d.buffer));
    }
    stock.assert_all_home();
}

/// A producer that raises the counter only after its last message was seen, so that each wake-up counts.
fn ping_pong(rounds: u64, disk: bool) {
    let directory = disk_directory();
    let path = zeroes(directory.path(), "image", SIZE);
    let mut stock = Stock::new();
    let region = Arc::clone(&stock.region);
    let mut rig = Ring::open(&region, 8, &path, WRITE_BACK);
    let event = counter();
    rig.ring.watch_eventfd(event.as_fd(), 1).unwrap();
    let (sent, seen) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            for round in 1..=rounds {
                sent.store(round, Ordering::Release);
                raise(&event);
                while seen.load(Ordering::Acquire) < round {
                    std::thread::park_timeout(Duration::from_secs(1));
                }
            }
        });
        let mut ended = 0u64;
        let mut read = 0;
        for round in 1..=rounds {
            loop {
                // As the worker does: look, and sleep only when there is nothing.
                rig.ring.turn();
                let mut buffers = Vec::new();
                rig.ring.reap(64, &mut |d| {
                    assert_eq!(d.result, Ok(()));
                    buffers.push(d.buffer);
                });
                ended += buffers.len() as u64;
                buffers.into_iter().for_each(|b| stock.put(b));
                while disk && rig.ring.in_flight() < 4 {
                    let buffer = stock.chunk();
                    read = (read + 7) % 1000;
                    rig.ring.submit(job(0, Verb::Read, read * 512, buffer, 512, 512)).unwrap();
                }
                if sent.load(Ordering::Acquire) >= round {
                    break;
                }
                let woken = rig.ring.wait_event(LONG);
                assert!(
                    woken == Woken::Event || sent.load(Ordering::Acquire) >= round,
                    "no wake-up in round {round}: {:?}",
                    rig.ring.stats()
                );
            }
            seen.store(round, Ordering::Release);
            producer.thread().unpark();
        }
        assert!(!disk || ended > 0);
    });
    while rig.ring.in_flight() > 0 {
        rig.ring.turn();
        let mut buffers = Vec::new();
        if rig.ring.reap(64, &mut |d| buffers.push(d.buffer)) == 0 {
            assert_eq!(rig.ring.wait_event(LONG), Woken::Event, "jobs hang");
        }
        buffers.into_iter().for_each(|b| stock.put(b));
    }
    stock.assert_all_home();
}

#[test]
fn no_wake_up_is_lost() {
    ping_pong(20_000, false);
}

#[test]
fn no_wake_up_is_lost_while_the_disk_works() {
    ping_pong(5_000, true);
}

// ---- what hangs --------------------------------------------------------------------------------------------------

#[test]
fn a_hung_backing_holds_nobody_else_and_keeps_only_its_own_memory() {
    need_root!("a file system that can be frozen");
    if magic(Path::new("/dev/shm")) != TMPFS {
        println!("SKIPPED: /dev/shm is no tmpfs");
        return;
    }
    with_own_mounts(|| {
        let directory = disk_directory();
        let device = Loop::over(&zeroes(directory.path(), "disk", 32 << 20), &[]);
        let mount = Mount::ext4(&device.path);
        let hung = zeroes(mount.path(), "image", SIZE);
        let shm = tempfile::tempdir_in("/dev/shm").unwrap();
        let sound = zeroes(shm.path(), "image", SIZE);

        let mut stock = Stock::new();
        let region = Arc::clone(&stock.region);
        let mut rig = Ring::open(&region, 64, &hung, READ_WRITE);
        rig.ring.add_file(open(&sound, READ_WRITE).unwrap()).unwrap();
        let frozen = Frozen::freeze(mount.path());
        for t in 0..12 {
            let buffer = stock.chunk();
            rig.ring.submit(job(t, Verb::Write, u64::from(t) * 4096, buffer, 512, 512)).unwrap();
        }
        // Writes to tmpfs need a kernel thread too, and get one.
        for t in 100..120 {
            let buffer = stock.chunk();
            let mut write = job(t, Verb::Write, 0, buffer, 512, 512);
            write.file = FileId(1);
            let done = rig.one(write);
            assert_eq!((done.ticket, done.result), (Ticket(t), Ok(())));
            stock.put(done.buffer);
        }
        assert_eq!(rig.ring.in_flight(), 12);
        let before = uring::abandoned();
        let weak = Arc::downgrade(&region);
        drop(rig);
        let held = uring::abandoned() - before;
        assert!((1..=12).contains(&held), "{held}");
        drop((stock, region));
        assert!(weak.upgrade().is_some(), "memory that the kernel may still use was given back");
        drop(frozen);
        // The kernel has to close the file before its file system can go.
        let start = Instant::now();
        while open(&hung, READ_WRITE).is_err() {
            assert!(start.elapsed() < HANG, "the file is still held");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

/// More requests hang than the kernel has threads for, of several files: each other file still has its own.
#[test]
fn hung_files_never_have_the_last_thread() {
    need_root!("a file system that can be frozen");
    if magic(Path::new("/dev/shm")) != TMPFS {
        println!("SKIPPED: /dev/shm is no tmpfs");
        return;
    }
    with_own_mounts(|| {
        let directory = disk_directory();
        let device = Loop::over(&zeroes(directory.path(), "disk", 32 << 20), &[]);
        let mount = Mount::ext4(&device.path);
        let shm = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut stock = Stock::new();
        let region = Arc::clone(&stock.region);
        // Writes to tmpfs need a thread each.
        let mut rig = Ring::open(&region, 256, &zeroes(shm.path(), "sound", SIZE), READ_WRITE);
        let hung: Vec<_> = ["a", "b", "c"].iter().map(|name| zeroes(mount.path(), name, SIZE)).collect();
        for path in &hung {
            rig.ring.add_file(open(path, READ_WRITE).unwrap()).unwrap();
        }
        let frozen = Frozen::freeze(mount.path());
        for t in 0..120 {
            let mut buffer = stock.chunk();
            stock.fill(&mut buffer, 512, &[t as u8 + 1; 512]);
            let mut write = job(t, Verb::Write, u64::from(t / 3) * 4096, buffer, 512, 512);
            write.file = FileId(1 + t as u16 % 3);
            rig.ring.submit(write).unwrap();
        }
        for t in 1000..1050 {
            let buffer = stock.chunk();
            let done = rig.one(job(t, Verb::Write, 0, buffer, 512, 512));
            assert_eq!((done.ticket, done.result), (Ticket(t), Ok(())));
            stock.put(done.buffer);
            assert_eq!(rig.one(flush(t)).result, Ok(()));
        }
        let stats = rig.ring.stats();
        assert!(rig.ring.in_flight() == 120 && stats.waited > 0, "{stats:?}");
        // What waited has not been forgotten.
        drop(frozen);
        let mut done = Vec::new();
        let start = Instant::now();
        while done.len() < 120 {
            rig.ring.turn();
            if rig.ring.reap(99, &mut |d| done.push(d)) == 0 {
                assert!(start.elapsed() < HANG, "jobs hang: {:?}", rig.ring.stats());
                rig.wait();
            }
        }
        for done in done {
            assert_eq!(done.result, Ok(()), "{:?}", done.ticket);
            stock.put(done.buffer);
        }
        stock.assert_all_home();
        for (n, path) in hung.iter().enumerate() {
            let bytes = std::fs::read(path).unwrap();
            for t in (n..120).step_by(3) {
                assert_eq!(bytes[t / 3 * 4096..][..512], [t as u8 + 1; 512], "{t}");
            }
        }
    });
}
