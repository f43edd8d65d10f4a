//! Storage in plain memory: the double of `uring` for tests and simulation.
//!
//! Not a model of a disk's speed: time is counted in turns, and what fails, when and in which order is scripted.
//! Invariant: a job touches its disk and its buffer at the moment it completes, so completion order is the order
//! in which the disk saw the jobs.

use super::{Done, Failure, FileId, Job, Storage, Ticket, Verb};
use crate::frame::{Buffer, Region};
use std::collections::VecDeque;
use std::sync::Arc;

/// In which order jobs complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// In the order of submission, with the turn in which they are due.
    #[default]
    InOrder,
    /// With the turn in which they are due, the last submitted first.
    Reversed,
    /// Only when released by [`MemoryStorage::release`] and its like.
    Held,
}

/// A scripted failure of one (file, verb).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the job reports.
    pub failure: Failure,
    /// Matching jobs that are spared first.
    pub skip: usize,
    /// Matching jobs that fail then; `usize::MAX` for all.
    pub times: usize,
    /// Bytes that are transferred before the failure: a torn write, read or discard.
    pub transferred: u32,
}

impl Fault {
    /// The next job fails with nothing transferred.
    #[must_use]
    pub fn once(failure: Failure) -> Self {
        Self { failure, skip: 0, times: 1, transferred: 0 }
    }

    /// Every job fails from now on with nothing transferred.
    #[must_use]
    pub fn always(failure: Failure) -> Self {
        Self { times: usize::MAX, ..Self::once(failure) }
    }
}

/// What a job did, for a test to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Its ticket.
    pub ticket: Ticket,
    /// Its file.
    pub file: FileId,
    /// Its verb.
    pub verb: Verb,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes asked for.
    pub len: u32,
    /// How it ended.
    pub result: Result<(), Failure>,
}

#[derive(Debug)]
struct Disk {
    bytes: Vec<u8>,
    /// What is served of it, as last told; the bytes may have become more or less since.
    size: usize,
    read_only: bool,
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    due: u64,
}

/// [`Storage`] over byte vectors.
#[derive(Debug)]
pub struct MemoryStorage {
    region: Arc<Region>,
    disks: Vec<Option<Disk>>,
    capacity: usize,
    schedule: Schedule,
    delay: u64,
    turns: u64,
    waiting: VecDeque<Waiting>,
    done: VecDeque<Done>,
    faults: Vec<(FileId, Verb, Fault)>,
    executed: Vec<Executed>,
    refusals: u64,
}

impl MemoryStorage {
    /// Storage without a disk yet that accepts up to `capacity` jobs at once, over the memory of `region`.
    #[must_use]
    pub fn new(region: Arc<Region>, capacity: usize) -> Self {
        Self {
            region,
            disks: Vec::new(),
            capacity,
            schedule: Schedule::default(),
            delay: 0,
            turns: 0,
            waiting: VecDeque::new(),
            done: VecDeque::new(),
            faults: Vec::new(),
            executed: Vec::new(),
            refusals: 0,
        }
    }

    /// Bytes that are served of a disk, as last told.
    #[must_use]
    pub fn served(&self, file: FileId) -> usize {
        self.disks.get(usize::from(file.0)).and_then(Option::as_ref).map_or(0, |disk| disk.size)
    }

    /// Adds a disk that holds these bytes. Numbers count up from 0.
    pub fn add(&mut self, bytes: Vec<u8>) -> FileId {
        self.disks.push(Some(Disk { size: bytes.len(), bytes, read_only: false }));
        FileId(u16::try_from(self.disks.len() - 1).unwrap_or(u16::MAX))
    }

    /// Adds a disk that fails writes and discards with EBADF, as a file opened for reading does.
    pub fn add_read_only(&mut self, bytes: Vec<u8>) -> FileId {
        self.disks.push(Some(Disk { size: bytes.len(), bytes, read_only: true }));
        FileId(u16::try_from(self.disks.len() - 1).unwrap_or(u16::MAX))
    }

    /// Takes a disk out; later jobs for its number fail with EBADF. Gives its bytes.
    pub fn remove(&mut self, file: FileId) -> Option<Vec<u8>> {
        self.disks.get_mut(usize::from(file.0))?.take().map(|d| d.bytes)
    }

    /// The bytes of a disk; empty for one that is not there.
    #[must_use]
    pub fn disk(&self, file: FileId) -> &[u8] {
        match self.disks.get(usize::from(file.0)) {
            Some(Some(disk)) => &disk.bytes,
            _ => &[],
        }
    }

    /// The bytes of a disk, to change behind the storage's back: also its length. What it becomes longer is served
    /// after [`Storage::resized`] only.
    pub fn disk_mut(&mut self, file: FileId) -> Option<&mut Vec<u8>> {
        self.disks.get_mut(usize::from(file.0))?.as_mut().map(|d| &mut d.bytes)
    }

    /// Sets the order of completions from now on, also for jobs that wait already.
    pub fn schedule(&mut self, schedule: Schedule) {
        self.schedule = schedule;
    }

    /// Sets after how many further turns a job submitted from now on is due; 0 means with the next turn.
    pub fn delay(&mut self, turns: u64) {
        self.delay = turns;
    }

    /// Changes how many jobs are accepted at once; those accepted stay.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Scripts a failure. Of several for one (file, verb) the first that has something left applies.
    pub fn fail(&mut self, file: FileId, verb: Verb, fault: Fault) {
        self.faults.push((file, verb, fault));
    }

    /// Forgets all scripted failures.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// Completes up to `most` waiting jobs, the oldest first, due or not. Returns how many.
    pub fn release(&mut self, most: usize) -> usize {
        let n = most.min(self.waiting.len());
        for _ in 0..n {
            if let Some(w) = self.waiting.pop_front() {
                self.execute(w.job);
            }
        }
        n
    }

    /// Completes the oldest waiting job of this ticket; `false` when there is none.
    pub fn release_ticket(&mut self, ticket: Ticket) -> bool {
        let Some(i) = self.waiting.iter().position(|w| w.job.ticket == ticket) else { return false };
        if let Some(w) = self.waiting.remove(i) {
            self.execute(w.job);
        }
        true
    }

    /// Tickets of the jobs that wait, the oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = Ticket> + '_ {
        self.waiting.iter().map(|w| w.job.ticket)
    }

    /// What was done so far, in order.
    #[must_use]
    pub fn executed(&self) -> &[Executed] {
        &self.executed
    }

    /// How many jobs were not accepted so far, because there were as many as it accepts at once.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Forgets what was done so far.
    pub fn forget_executed(&mut self) {
        self.executed.clear();
    }

    fn fault(&mut self, file: FileId, verb: Verb) -> Option<Fault> {
        for (f, v, fault) in &mut self.faults {
            if *f != file || *v != verb || fault.times == 0 {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return None;
            }
            if fault.times != usize::MAX {
                fault.times -= 1;
            }
            return Some(*fault);
        }
        None
    }

    /// Moves up to `len` bytes and says why it stopped, as the kernel would.
    fn transfer(&mut self, job: &mut Job, len: u32) -> Result<(), Failure> {
        let Some(Some(disk)) = self.disks.get_mut(usize::from(job.file.0)) else {
            return Err(Failure::Errno(libc::EBADF));
        };
        if job.verb == Verb::Flush {
            return Ok(());
        }
        if job.verb != Verb::Read && disk.read_only {
            return Err(Failure::Errno(libc::EBADF));
        }
        if job.verb.transfers() && job.at as usize + job.len as usize > job.buffer.capacity() {
            return Err(Failure::Errno(libc::EINVAL));
        }
        let size = disk.size.min(disk.bytes.len());
        let start = usize::try_from(job.offset).unwrap_or(usize::MAX).min(size);
        let n = (len as usize).min(size - start);
        let disk = &mut disk.bytes[start..start + n];
        match job.verb {
            Verb::Read => {
                self.region.buffer_mut(&mut job.buffer, job.at as usize, n).copy_from_slice(disk);
            }
            Verb::Write | Verb::WriteThrough => {
                disk.copy_from_slice(self.region.buffer_mut(&mut job.buffer, job.at as usize, n));
            }
            Verb::Discard => disk.fill(0),
            Verb::Flush => {}
        }
        if n < len as usize { Err(Failure::Short) } else { Ok(()) }
    }

    fn execute(&mut self, mut job: Job) {
        let result = match self.fault(job.file, job.verb) {
            None => {
                let len = job.len;
                self.transfer(&mut job, len)
            }
            Some(fault) => {
                let len = fault.transferred.min(job.len);
                // What else might be wrong with the job does not matter: the script says how it ends.
                let _ = self.transfer(&mut job, len);
                Err(fault.failure)
            }
        };
        let Job { ticket, file, verb, offset, buffer, len, .. } = job;
        self.executed.push(Executed { ticket, file, verb, offset, len, result });
        self.done.push_back(Done { ticket, buffer, result });
    }
}

impl Storage for MemoryStorage {
    type Backing = Vec<u8>;

    fn replace(&mut self, file: FileId, new: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Option<Vec<u8>>> {
        let busy = self.waiting.iter().any(|w| w.job.file == file);
        match self.disks.get_mut(usize::from(file.0)) {
            Some(place) if !busy => {
                let disk = new.map(|bytes| Disk { size: bytes.len(), bytes, read_only: false });
                Ok(std::mem::replace(place, disk).map(|old| old.bytes))
            }
            _ => Err(new),
        }
    }

    fn submit(&mut self, job: Job) -> Result<(), Job> {
        if self.in_flight() >= self.capacity {
            self.refusals += 1;
            return Err(job);
        }
        // The turn that starts a job is the first one after its submission.
        let due = self.turns + 1 + self.delay;
        self.waiting.push_back(Waiting { job, due });
        Ok(())
    }

    fn turn(&mut self) {
        self.turns += 1;
        if self.schedule == Schedule::Held {
            return;
        }
        let (mut due, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.due <= self.turns);
        self.waiting = later;
        if self.schedule == Schedule::Reversed {
            due.make_contiguous().reverse();
        }
        for w in due {
            self.execute(w.job);
        }
    }

    fn reap(&mut self, most: usize, sink: &mut dyn FnMut(Done)) -> usize {
        let n = most.min(self.done.len());
        for done in self.done.drain(..n) {
            sink(done);
        }
        n
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.done.len()
    }

    fn lent(&self, ticket: Ticket) -> Option<&Buffer> {
        let jobs = self.waiting.iter().map(|waiting| &waiting.job);
        let job = jobs.filter(|job| job.verb.writes()).find(|job| job.ticket == ticket);
        let done = || self.done.iter().find(|done| done.ticket == ticket).map(|done| &done.buffer);
        job.map(|job| &job.buffer).or_else(done)
    }

    fn resized(&mut self, file: FileId, bytes: u64) {
        if let Some(Some(disk)) = self.disks.get_mut(usize::from(file.0)) {
            disk.size = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
    }
}

/// The end of a worker: its buffers go with the region.
impl Drop for MemoryStorage {
    fn drop(&mut self) {
        let waiting = self.waiting.drain(..).map(|w| w.job.buffer);
        for buffer in waiting.chain(self.done.drain(..).map(|d| d.buffer)) {
            match buffer {
                Buffer::None => {}
                Buffer::Chunk(chunk) => chunk.retire(),
                Buffer::Run(run) => run.split().into_iter().for_each(crate::frame::Chunk::retire),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::RunPool;

    fn job(ticket: u32, verb: Verb, offset: u64, buffer: Buffer, at: u32, len: u32) -> Job {
        Job { ticket: Ticket(ticket), file: FileId(0), verb, offset, buffer, at, len }
    }

    fn flush(ticket: u32) -> Job {
        job(ticket, Verb::Flush, 0, Buffer::None, 0, 0)
    }

    fn reap(storage: &mut MemoryStorage) -> Vec<Done> {
        let mut all = Vec::new();
        storage.reap(usize::MAX, &mut |d| all.push(d));
        all
    }

    fn tickets(storage: &mut MemoryStorage) -> Vec<u32> {
        reap(storage).into_iter().map(|d| d.ticket.0).collect()
    }

    fn storage(size: usize, capacity: usize) -> (Arc<Region>, MemoryStorage) {
        let region = Arc::new(Region::heap(8));
        let mut storage = MemoryStorage::new(Arc::clone(&region), capacity);
        storage.add(vec![0; size]);
        (region, storage)
    }

    #[test]
    fn data_goes_out_of_a_chunk_and_comes_back_into_a_run() {
        let (region, mut s) = storage(16384, 4);
        let mut runs = RunPool::new(&region, 0, 1).unwrap();
        let mut chunk = region.mint(4).unwrap();
        region.bytes_mut(&mut chunk, 512, 1024).fill(7);
        s.submit(job(1, Verb::Write, 1536, Buffer::Chunk(chunk), 512, 1024)).unwrap();
        s.turn();
        let [done] = <[Done; 1]>::try_from(reap(&mut s)).unwrap();
        assert_eq!(done.result, Ok(()));
        let Buffer::Chunk(chunk) = done.buffer else { panic!("another buffer came back") };
        chunk.retire();

        let run = runs.take().unwrap();
        s.submit(job(2, Verb::Read, 0, Buffer::Run(run), 0, 8192)).unwrap();
        s.turn();
        let [done] = <[Done; 1]>::try_from(reap(&mut s)).unwrap();
        let Buffer::Run(run) = done.buffer else { panic!("another buffer came back") };
        let bytes = region.run_bytes(&run, 0, 8192);
        assert!(bytes[1536..2560].iter().all(|&b| b == 7));
        assert!(bytes[..1536].iter().chain(&bytes[2560..]).all(|&b| b == 0));
        runs.put_run(run);
    }

    #[test]
    fn completions_follow_the_schedule() {
        let (_region, mut s) = storage(512, 8);
        for t in 0..3 {
            s.submit(flush(t)).unwrap();
        }
        assert!(tickets(&mut s).is_empty(), "nothing completes before a turn");
        s.turn();
        assert_eq!(tickets(&mut s), [0, 1, 2]);

        s.schedule(Schedule::Reversed);
        for t in 0..3 {
            s.submit(flush(t)).unwrap();
        }
        s.turn();
        assert_eq!(tickets(&mut s), [2, 1, 0]);

        s.schedule(Schedule::Held);
        for t in 0..4 {
            s.submit(flush(t)).unwrap();
        }
        s.turn();
        assert!(tickets(&mut s).is_empty());
        assert!(s.release_ticket(Ticket(2)));
        assert!(!s.release_ticket(Ticket(2)));
        assert_eq!(s.waiting().collect::<Vec<_>>(), [Ticket(0), Ticket(1), Ticket(3)]);
        assert_eq!(s.release(2), 2);
        assert_eq!(tickets(&mut s), [2, 0, 1]);
        assert_eq!(s.in_flight(), 1);
        s.schedule(Schedule::InOrder);
        s.turn();
        assert_eq!(tickets(&mut s), [3]);

        s.delay(2);
        s.submit(flush(9)).unwrap();
        s.turn();
        s.turn();
        assert!(tickets(&mut s).is_empty());
        s.turn();
        assert_eq!(tickets(&mut s), [9]);
    }

    #[test]
    fn beyond_the_capacity_the_job_comes_back() {
        let (_region, mut s) = storage(512, 2);
        s.submit(flush(0)).unwrap();
        s.submit(flush(1)).unwrap();
        assert_eq!(s.submit(flush(2)).unwrap_err().ticket, Ticket(2));
        s.turn();
        assert_eq!(s.submit(flush(3)).unwrap_err().ticket, Ticket(3), "in flight until reaped");
        assert_eq!(s.reap(1, &mut |_| {}), 1);
        s.submit(flush(4)).unwrap();
        assert_eq!(s.in_flight(), 2);
    }

    #[test]
    fn scripted_failures_hit_their_file_and_verb_only() {
        let (region, mut s) = storage(4096, 8);
        let eio = Failure::Errno(libc::EIO);
        s.fail(FileId(0), Verb::Write, Fault { failure: eio, skip: 1, times: 1, transferred: 512 });
        s.fail(FileId(0), Verb::Flush, Fault::always(eio));
        let mut buffer = Buffer::Chunk(region.mint(0).unwrap());
        let mut results = Vec::new();
        for t in 0..3 {
            region.buffer_mut(&mut buffer, 0, 1024).fill(t as u8 + 1);
            s.submit(job(t, Verb::Write, 0, buffer, 0, 1024)).unwrap();
            s.submit(flush(t + 100)).unwrap();
            s.turn();
            let mut done = reap(&mut s).into_iter();
            let write = done.next().unwrap();
            buffer = write.buffer;
            results.push(write.result);
            assert_eq!(done.next().unwrap().result, Err(eio));
            if t == 1 {
                assert_eq!((s.disk(FileId(0))[511], s.disk(FileId(0))[512]), (2, 1), "torn");
            }
        }
        assert_eq!(results, [Ok(()), Err(eio), Ok(())]);
        assert_eq!(s.executed().len(), 6);
        s.heal();
        s.submit(flush(7)).unwrap();
        s.turn();
        assert_eq!(reap(&mut s)[0].result, Ok(()));
        let Buffer::Chunk(chunk) = buffer else { panic!() };
        chunk.retire();
    }

    #[test]
    fn short_missing_and_read_only_disks_fail_the_job() {
        let (region, mut s) = storage(4096, 8);
        let read_only = s.add_read_only(vec![0; 4096]);
        s.disk_mut(FileId(0)).unwrap().truncate(1024);
        let mut buffer = Buffer::Chunk(region.mint(0).unwrap());
        let ebadf = Failure::Errno(libc::EBADF);
        for (file, verb, offset, at, len, want) in [
            (FileId(0), Verb::Read, 512, 0, 512, Ok(())),
            (FileId(0), Verb::Read, 512, 0, 1024, Err(Failure::Short)),
            (FileId(0), Verb::Write, u64::MAX, 0, 512, Err(Failure::Short)),
            (FileId(0), Verb::Read, 0, 4096, 512, Err(Failure::Errno(libc::EINVAL))),
            (read_only, Verb::Read, 0, 512, 3584, Ok(())),
            (read_only, Verb::Write, 0, 0, 512, Err(ebadf)),
            (FileId(7), Verb::Read, 0, 0, 512, Err(ebadf)),
        ] {
            s.submit(Job { ticket: Ticket(0), file, verb, offset, buffer, at, len }).unwrap();
            s.turn();
            let [done] = <[Done; 1]>::try_from(reap(&mut s)).unwrap();
            assert_eq!(done.result, want, "{verb:?} at {offset} of {file:?}");
            buffer = done.buffer;
        }
        assert_eq!(s.remove(FileId(0)).map(|b| b.len()), Some(1024));
        s.submit(flush(0)).unwrap();
        s.turn();
        assert_eq!(reap(&mut s)[0].result, Err(ebadf));
        let Buffer::Chunk(chunk) = buffer else { panic!() };
        chunk.retire();
    }

    #[test]
    fn a_discard_can_fail_half_way() {
        let (_region, mut s) = storage(4096, 8);
        s.disk_mut(FileId(0)).unwrap().fill(1);
        let eio = Failure::Errno(libc::EIO);
        s.fail(FileId(0), Verb::Discard, Fault { transferred: 512, ..Fault::once(eio) });
        for want in [Err(eio), Ok(())] {
            s.submit(job(0, Verb::Discard, 1024, Buffer::None, 0, 1024)).unwrap();
            s.turn();
            assert_eq!(reap(&mut s)[0].result, want);
            let left = if want.is_ok() { 3072 } else { 3584 };
            assert_eq!(s.disk(FileId(0)).iter().filter(|&&b| b == 1).count(), left);
        }
    }

    #[test]
    fn a_dropped_storage_takes_its_buffers_with_it() {
        let (region, mut s) = storage(4096, 8);
        let mut runs = RunPool::new(&region, 2, 1).unwrap();
        s.submit(job(0, Verb::Read, 0, Buffer::Chunk(region.mint(0).unwrap()), 0, 512)).unwrap();
        s.turn();
        s.submit(job(1, Verb::Read, 0, Buffer::Run(runs.take().unwrap()), 0, 512)).unwrap();
        // A token that is dropped instead panics.
        drop(s);
    }
}
