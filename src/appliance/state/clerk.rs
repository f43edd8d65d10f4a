//! The clerk: the thread that keeps the state of all slots, so that no worker waits for a disk.
//!
//! ```text
//! worker ── Errand::Save ─► clerk: store, then XDP lets pass what the old or the new mask admits ── Control::Saved ─► worker
//! worker: the new state is in force ── Errand::InForce ─► clerk: XDP keeps out what the new mask does not admit
//! ```
//!
//! Not here: how a state becomes a file (`store`), or what may be set (`shelf`).
//! Invariant: every [`Errand::Save`] is answered by one [`Control::Saved`], after the store has said how it went; XDP never
//! drops what the state in force admits.

use super::store::Store;
use crate::frame::WorkerId;
use crate::protocol::Address;
use crate::shelf::SlotState;
use crate::worker::{Control, Errand};
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the clerk tries again to put right what a failed save has left on the disk.
const AGAIN: Duration = Duration::from_secs(10);

/// What the XDP program is told of masks. It may let too much pass, and must never drop what the slot would admit.
pub trait MaskHook: Send {
    /// From now on a host may pass that either state admits. If that cannot be had, everybody may.
    fn widen(&mut self, address: Address, old: &SlotState, new: &SlotState);

    /// This state is in force: others than it admits may be dropped.
    fn narrow(&mut self, address: Address, state: &SlotState);
}

/// Without a prefilter there is nobody to tell.
impl MaskHook for () {
    fn widen(&mut self, _: Address, _: &SlotState, _: &SlotState) {}
    fn narrow(&mut self, _: Address, _: &SlotState) {}
}

/// The slot whose state is on its way to the disk.
type Desk = Mutex<Option<Address>>;

/// The thread, while it runs.
#[derive(Debug)]
pub struct Clerk {
    thread: JoinHandle<()>,
    ended: Receiver<()>,
    desk: Arc<Desk>,
}

/// How the clerk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Everything it was given has been dealt with.
    Done,
    /// It waits for a worker that the kernel keeps, with nothing to save.
    Waiting,
    /// The disk with the state has not answered for this slot. Its last change was not acknowledged.
    Hanging(Address),
    /// It panicked: a defect.
    Died,
}

impl Clerk {
    /// Starts the thread. `slots` are all slots with their states, `post` gives a command to a worker and gives it back
    /// when that has no room. It ends when every sender of `errands` is gone.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        errands: Receiver<Errand>,
        store: impl Store + Send + 'static,
        hook: impl MaskHook + 'static,
        slots: impl IntoIterator<Item = (Address, SlotState)>,
        post: impl Fn(WorkerId, Control) -> Result<(), Control> + Send + 'static,
    ) -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let mut work = Work {
            store,
            hook,
            post,
            slots: slots
                .into_iter()
                .map(|(address, state)| (address, Kept { state, failing: false }))
                .collect(),
            owing: false,
            desk: Arc::clone(&desk),
        };
        let (ending, ended) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("xshelf-state".into()).spawn(move || {
            work.run(&errands);
            // Nobody listens any more if it took too long.
            let _ = ending.send(());
        })?;
        Ok(Self { thread, ended, desk })
    }

    /// Whether it is gone although workers may still send it errands: a defect.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end once the workers have ended, at most for `patience`; if a disk hangs, the thread stays behind.
    #[must_use]
    pub fn close(self, patience: Duration) -> Closed {
        match self.ended.recv_timeout(patience) {
            // It has nothing left to do but return.
            Ok(()) => match self.thread.join() {
                Ok(()) => Closed::Done,
                Err(_) => Closed::Died,
            },
            Err(RecvTimeoutError::Disconnected) => Closed::Died,
            Err(RecvTimeoutError::Timeout) => match *lock(&self.desk) {
                Some(address) => Closed::Hanging(address),
                None => Closed::Waiting,
            },
        }
    }
}

fn lock(desk: &Desk) -> std::sync::MutexGuard<'_, Option<Address>> {
    // What is in it is whole at any moment.
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot, as the clerk knows it.
struct Kept {
    /// What was saved last.
    state: SlotState,
    /// Whether the last save failed, and that was said.
    failing: bool,
}

struct Work<S, H, P> {
    store: S,
    hook: H,
    post: P,
    slots: BTreeMap<Address, Kept>,
    /// Whether a failed save has left something to put right.
    owing: bool,
    desk: Arc<Desk>,
}

impl<S: Store, H: MaskHook, P: Fn(WorkerId, Control) -> Result<(), Control>> Work<S, H, P> {
    fn run(&mut self, errands: &Receiver<Errand>) {
        let mut tried = Instant::now();
        loop {
            let next = if self.owing {
                errands.recv_timeout(AGAIN.saturating_sub(tried.elapsed()))
            } else {
                errands.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match next {
                Ok(Errand::Save { worker, slot, address, state }) => {
                    let kept = self.save(address, *state);
                    self.answer(worker, Control::Saved { slot, kept });
                }
                Ok(Errand::InForce { address }) => {
                    if let Some(kept) = self.slots.get(&address) {
                        self.hook.narrow(address, &kept.state);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.owing && tried.elapsed() >= AGAIN {
                self.owing = !self.store.settle();
                tried = Instant::now();
            }
        }
        if self.owing && !self.store.settle() {
            tracing::error!(
                "what failed changes have left in the state directory could not be put right; a slot may come up with \
                 a config string, mask or reservation that was refused"
            );
        }
    }

    /// Returns whether it is kept.
    fn save(&mut self, address: Address, new: SlotState) -> bool {
        *lock(&self.desk) = Some(address);
        let saved = self.store.save(address, &new);
        *lock(&self.desk) = None;
        let kept =
            self.slots.entry(address).or_insert_with(|| Kept { state: SlotState::default(), failing: false });
        match saved {
            Ok(()) => {
                if std::mem::take(&mut kept.failing) {
                    tracing::info!("slot {address}: what hosts set is kept again");
                }
                self.hook.widen(address, &kept.state, &new);
                kept.state = new;
                true
            }
            Err(e) => {
                self.owing |= e.unsettled;
                if !std::mem::replace(&mut kept.failing, true) {
                    tracing::error!(
                        "slot {address}: {e}. Hosts that set its config string, mask or reservation get an error until \
                         that works, and what was set before holds"
                    );
                }
                false
            }
        }
    }

    fn answer(&self, worker: WorkerId, mut saved: Control) {
        // A worker has room for an answer of each slot, and asks again for none before it is answered.
        while let Err(back) = (self.post)(worker, saved) {
            saved = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests;
