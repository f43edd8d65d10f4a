//! The rings that lead to one worker: frames handed over, chunks coming home, and commands.
//!
//! Not here: what the messages mean (`turn`), or who may send them.
//! Invariant: a message put in is taken out once, by the one receiver; [`Post::pending`] is 0 only when every message
//! that was put in has been dealt with.

use super::bell::{Bell, Ringer};
use super::sync::{ArrayQueue, AtomicUsize, Ordering};

/// The receiving end of one worker. `F` are frames handed over, `H` chunks coming home, `C` commands.
pub struct Post<F, H, C, R> {
    frames: ArrayQueue<F>,
    homecomings: ArrayQueue<H>,
    commands: ArrayQueue<C>,
    pending: AtomicUsize,
    bell: Bell<R>,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Mail<F, H, C> {
    /// A frame that belongs to a slot of ours.
    Frame(F),
    /// Chunks of ours that somebody else has finished with.
    Home(H),
    /// A command of the appliance.
    Command(C),
}

impl<F, H, C, R: Ringer> Post<F, H, C, R> {
    /// A post for this many messages of each kind. Homecomings must not fail: give it room for every chunk there is.
    pub fn new(frames: usize, homecomings: usize, commands: usize, ringer: R) -> Self {
        Self {
            frames: ArrayQueue::new(frames),
            homecomings: ArrayQueue::new(homecomings),
            commands: ArrayQueue::new(commands),
            pending: AtomicUsize::new(0),
            bell: Bell::new(ringer),
        }
    }

    fn put<T>(&self, queue: &ArrayQueue<T>, message: T) -> Result<(), T> {
        // Counted before it can be taken, so that the count never goes below what is in the rings.
        self.pending.fetch_add(1, Ordering::AcqRel);
        queue.push(message).inspect_err(|_| {
            self.pending.fetch_sub(1, Ordering::AcqRel);
        })
    }

    /// Hands a frame over; the receiver sees it after [`Bell::ring`] at the latest.
    ///
    /// # Errors
    /// Gives the frame back when the ring is full.
    pub fn hand_over(&self, frame: F) -> Result<(), F> {
        self.put(&self.frames, frame)
    }

    /// Sends chunks home.
    ///
    /// # Errors
    /// Gives them back when the ring is full, which its capacity rules out.
    pub fn send_home(&self, home: H) -> Result<(), H> {
        self.put(&self.homecomings, home)
    }

    /// Gives a command, and rings.
    ///
    /// # Errors
    /// Gives it back when the ring is full.
    pub fn command(&self, command: C) -> Result<(), C> {
        let put = self.put(&self.commands, command);
        self.bell.ring();
        put
    }

    /// Commands that wait to be taken.
    pub fn commands(&self) -> usize {
        self.commands.len()
    }

    /// Takes the next message. Each one taken is owed a [`Post::dealt_with`].
    pub fn take(&self) -> Option<Mail<F, H, C>> {
        if let Some(home) = self.homecomings.pop() {
            return Some(Mail::Home(home));
        }
        if let Some(frame) = self.frames.pop() {
            return Some(Mail::Frame(frame));
        }
        self.commands.pop().map(Mail::Command)
    }

    /// So many messages that were taken have had their effect.
    pub fn dealt_with(&self, messages: usize) {
        if messages > 0 {
            self.pending.fetch_sub(messages, Ordering::AcqRel);
        }
    }

    /// Messages put in and not yet dealt with.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// Whether a message can be taken.
    pub fn has_mail(&self) -> bool {
        !(self.frames.is_empty() && self.homecomings.is_empty() && self.commands.is_empty())
    }

    /// Shows every frame and every homecoming that waits. Only while no other thread uses the post: each is taken out and
    /// put back, and keeps its place by that alone.
    pub fn look(&self, mut frame: impl FnMut(&F), mut home: impl FnMut(&H)) {
        for _ in 0..self.frames.len() {
            if let Some(message) = self.frames.pop() {
                frame(&message);
                let _ = self.frames.push(message);
            }
        }
        for _ in 0..self.homecomings.len() {
            if let Some(message) = self.homecomings.pop() {
                home(&message);
                let _ = self.homecomings.push(message);
            }
        }
    }

    /// The receiver's bell.
    pub fn bell(&self) -> &Bell<R> {
        &self.bell
    }
}
