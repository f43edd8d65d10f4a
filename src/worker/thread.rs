//! The thread of a worker: pinned to its CPU, it turns while there is work and sleeps in its storage otherwise.
//!
//! Not here: what a turn does. [`Crew`] starts, drains and ends all workers together.
//! Invariant: a worker lies down only after it has looked at everything that could have come, so no wake-up is lost.

use super::turn::{Census, Worker};
use super::{Board, Control, Plan, Shared};
use crate::frame::{LayoutError, WorkerId};
use crate::net::Queue;
use crate::protocol::Address;
use crate::storage::{Sleep, Storage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest sleep of a worker that waits for nothing.
const SLEEP: Duration = Duration::from_secs(1);
/// How long the threads may take to let go of rings and sockets; a storage gives a device 2 s of it.
const LETTING_GO: Duration = Duration::from_secs(5);
/// The same where a device has not answered in all the time there was.
const HANGING: Duration = Duration::from_secs(3);
/// Sleep of a worker that waits for chunks which the kernel returns without waking anybody.
const STARVED_SLEEP: Duration = Duration::from_millis(1);

/// Turns without effect, though something waits, before a worker sleeps between them.
const STALLS: u32 = 64;

/// Where and how a worker runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seat {
    /// The CPU it is pinned to.
    pub cpu: Option<u16>,
    /// How long it looks for work before it sleeps; zero on a CPU that others use too.
    pub spin: Duration,
}

/// A worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError<E> {
    /// No thread to be had.
    #[error("cannot start the thread of worker {worker}: {source}")]
    Thread {
        /// Which worker.
        worker: u16,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The CPU is not for us.
    #[error("cannot pin worker {worker} to CPU {cpu}: {source}")]
    Pin {
        /// Which worker.
        worker: u16,
        /// The CPU.
        cpu: u16,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// Its storage could not be made.
    #[error(transparent)]
    Storage(E),
    /// Its memory was given out before: a defect.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The thread ended without a word: a defect.
    #[error("worker {worker} ended while it started; please report this")]
    Vanished {
        /// Which worker.
        worker: u16,
    },
}

/// What the appliance can see of a running worker.
#[derive(Debug, Default)]
struct Status {
    idle: AtomicBool,
    /// Turns that did something.
    activity: AtomicU64,
    /// Somebody will have the slots after it, but not before all is answered that their devices were sent.
    patient: AtomicBool,
    /// The kernel's number of the thread; 0 until it runs.
    thread: AtomicI32,
}

impl Status {
    /// Whether the kernel still has the thread. Rust calls it finished once its closure has returned; but the kernel
    /// keeps it, and whoever joins it, until its io_uring has let go of a hanging device.
    fn is_held(&self) -> bool {
        let thread = self.thread.load(Ordering::Acquire);
        std::path::Path::new(&format!("/proc/self/task/{thread}")).exists()
    }
}

/// What a worker leaves behind.
#[derive(Debug)]
pub struct Report {
    /// Which worker.
    pub worker: WorkerId,
    /// Where its chunks were in the end.
    pub census: Census,
    /// Slots whose commands had not ended, with how many.
    pub busy: Vec<(Address, usize)>,
}

/// A worker that has ended, but for what the kernel still does for it: a device that hangs has not answered all of its
/// commands, and may carry them out at any time.
#[derive(Debug)]
pub struct Lingering {
    /// Which worker it was.
    pub worker: WorkerId,
    status: Arc<Status>,
}

impl Lingering {
    /// Whether the kernel has let go of it, so that nothing of it can reach a device any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.status.is_held()
    }
}

struct Member {
    id: WorkerId,
    status: Arc<Status>,
    report: mpsc::Receiver<Report>,
    thread: JoinHandle<()>,
}

/// All workers of a region.
pub struct Crew {
    shared: Arc<Shared>,
    members: Vec<Member>,
}

/// How a crew ended.
#[derive(Debug)]
pub struct Ended {
    /// Of each worker that did not die.
    pub reports: Vec<Report>,
    /// Workers that panicked: a defect.
    pub died: Vec<WorkerId>,
    /// Workers whose threads are still there, because a device hangs.
    pub held: Vec<Lingering>,
    /// Whether everything in flight had ended before.
    pub drained: bool,
}

impl Crew {
    /// A crew without workers yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, members: Vec::new() }
    }

    /// Starts a worker, waits until it can serve, and gives the board with its slots. `storage` is called in its thread, because an io_uring belongs to
    /// the thread that made it.
    ///
    /// # Errors
    /// [`SpawnError`] says what could not be had; the thread has ended then.
    pub fn spawn<Q, S, E>(
        &mut self,
        plan: Plan,
        queues: Vec<Q>,
        seat: Seat,
        storage: impl FnOnce(&Shared) -> Result<S, E> + Send + 'static,
    ) -> Result<Arc<Board>, SpawnError<E>>
    where
        Q: Queue + Send + 'static,
        S: Storage + Sleep,
        E: Send + 'static,
    {
        let id = plan.id;
        let status = Arc::new(Status::default());
        let (ready, started) = mpsc::sync_channel(1);
        let (sender, report) = mpsc::sync_channel(1);
        let body = {
            let status = Arc::clone(&status);
            move || {
                status.thread.store(rustix::thread::gettid().as_raw_pid(), Ordering::Release);
                let worker = match start(plan, queues, seat, storage) {
                    Ok(worker) => worker,
                    Err(error) => {
                        // The receiver waits for exactly this.
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(worker.board()));
                let mut worker = run(worker, seat, &status);
                if status.patient.load(Ordering::Acquire) {
                    worker.storage_mut().end_patiently();
                }
                worker.give_up_sending();
                // Before the worker lets go of its ring, for that takes as long as a device hangs.
                let _ =
                    sender.send(Report { worker: id, census: worker.census(), busy: worker.busy_slots() });
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("xshelf-{}", id.0))
            .spawn(body)
            .map_err(|source| SpawnError::Thread { worker: id.0, source })?;
        match started.recv() {
            Ok(Ok(board)) => {
                self.members.push(Member { id, status, report, thread });
                Ok(board)
            }
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(mpsc::RecvError) => {
                let _ = thread.join();
                Err(SpawnError::Vanished { worker: id.0 })
            }
        }
    }

    /// Gives a command to every worker.
    pub fn tell(&self, command: Control) {
        for member in &self.members {
            let post = &self.shared.posts[usize::from(member.id.0)];
            // The ring is full only when the worker is stuck, and then no command helps.
            let _ = post.command(command);
        }
    }

    /// Workers that ended without being told: a panic, a defect.
    #[must_use]
    pub fn dead(&self) -> Vec<WorkerId> {
        self.members.iter().filter(|m| m.thread.is_finished()).map(|m| m.id).collect()
    }

    fn activity(&self) -> u64 {
        self.members.iter().map(|m| m.status.activity.load(Ordering::Acquire)).sum()
    }

    /// Whether nothing is in flight, in a worker or between two.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        // A worker that was idle when we looked may have got a message since. Then it is in the turn that took it, and
        // not idle, or that turn has counted as activity.
        let idle = || self.members.iter().all(|m| m.status.idle.load(Ordering::Acquire));
        let before = self.activity();
        idle()
            && self.shared.posts.iter().all(|post| post.pending() == 0)
            && idle()
            && self.activity() == before
    }

    /// Waits until everything in flight has been answered, at most for `patience`, and ends all workers. Some commands to
    /// a device that hangs keep their thread in the kernel; where others `follow`, who are to open the same devices, all of
    /// them do. Such a thread is left behind and named.
    #[must_use]
    pub fn end(mut self, patience: Duration, follow: bool) -> Ended {
        self.members.iter().for_each(|member| member.status.patient.store(follow, Ordering::Release));
        self.tell(Control::Drain);
        let deadline = Instant::now() + patience;
        let mut drained = self.is_quiet();
        while !drained && Instant::now() < deadline && self.dead().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
            drained = self.is_quiet();
        }
        self.tell(Control::Exit);
        let mut ended = Ended { reports: Vec::new(), died: Vec::new(), held: Vec::new(), drained };
        let deadline = Instant::now() + LETTING_GO;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut threads = Vec::new();
        for member in std::mem::take(&mut self.members) {
            // No report: it panicked, or hangs in the kernel, which its thread then shows.
            if let Ok(report) = member.report.recv_timeout(left()) {
                ended.reports.push(report);
            }
            threads.push((member.id, member.status, member.thread));
        }
        for (id, status, thread) in threads {
            // What has not ended in all the time before is not waited for as long again.
            let hangs = ended.reports.iter().any(|report| report.worker == id && !report.busy.is_empty());
            let most = if hangs { left().min(HANGING) } else { left() };
            let until = Instant::now() + most;
            while status.is_held() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if status.is_held() {
                ended.held.push(Lingering { worker: id, status });
            } else if thread.join().is_err() {
                ended.died.push(id);
            }
        }
        ended
    }
}

/// A start that failed half-way leaves no thread behind.
impl Drop for Crew {
    fn drop(&mut self) {
        self.tell(Control::Exit);
        for member in self.members.drain(..) {
            let _ = member.thread.join();
        }
    }
}

fn start<Q: Queue, S: Storage, E>(
    plan: Plan,
    queues: Vec<Q>,
    seat: Seat,
    storage: impl FnOnce(&Shared) -> Result<S, E>,
) -> Result<Worker<Q, S>, SpawnError<E>> {
    if let Some(cpu) = seat.cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(usize::from(cpu));
        rustix::thread::sched_setaffinity(None, &set).map_err(|e| SpawnError::Pin {
            worker: plan.id.0,
            cpu,
            source: e.into(),
        })?;
    }
    let storage = storage(&plan.shared).map_err(SpawnError::Storage)?;
    Ok(Worker::new(plan, queues, storage)?)
}

/// Turns until the worker is told to exit, and gives it back.
fn run<Q: Queue, S: Storage + Sleep>(mut worker: Worker<Q, S>, seat: Seat, status: &Status) -> Worker<Q, S> {
    let started = Instant::now();
    let mut quiet_since = None;
    let mut stalls = 0u32;
    loop {
        // Before the turn: what it takes from a ring counts nowhere else until it is in a request.
        status.idle.store(false, Ordering::Release);
        if worker.turn(started.elapsed()) {
            status.activity.fetch_add(1, Ordering::AcqRel);
            (quiet_since, stalls) = (None, 0);
            if !worker.told_to_exit() {
                continue;
            }
        }
        status.idle.store(worker.is_idle(), Ordering::Release);
        if worker.told_to_exit() {
            return worker;
        }
        // Something waits that only we can move on: try again at once, and let others in who may have to help. When
        // that goes on - a driver that neither takes frames nor asks to be woken - give the CPU back in between.
        stalls = if worker.restless() { stalls.saturating_add(1) } else { 0 };
        if (1..=STALLS).contains(&stalls) {
            std::thread::yield_now();
            continue;
        }
        if stalls > 0 {
            worker.storage_mut().sleep(STARVED_SLEEP);
            continue;
        }
        if !seat.spin.is_zero() {
            let since = *quiet_since.get_or_insert_with(Instant::now);
            if since.elapsed() < seat.spin {
                std::hint::spin_loop();
                continue;
            }
        }
        worker.post().bell().lie_down();
        if !worker.restless() {
            let short = worker.starved() || worker.draining();
            let news = worker.due().map_or(SLEEP, |due| due.saturating_sub(started.elapsed()).min(SLEEP));
            // Not shorter than the other, lest the end of the sleep comes just before that moment again and again.
            worker.storage_mut().sleep(if short { STARVED_SLEEP } else { news.max(STARVED_SLEEP) });
        }
        worker.post().bell().get_up();
        quiet_since = None;
    }
}

#[cfg(test)]
mod tests;
