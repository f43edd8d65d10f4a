//! Every interleaving of the rings between workers, and of the ledger of chunks, as loom explores them.
//!
//! The files under test are the production ones; only the primitives they are written against are loom's here. The
//! ring's own insides are crossbeam's and tested there: its model shows a receiver no more than crossbeam promises, so
//! that a missing fence of ours is found.

#[path = "../../../src/worker/bell.rs"]
#[allow(dead_code)]
mod bell;
#[path = "../../../src/frame/ledger.rs"]
#[allow(dead_code)]
mod ledger;
#[path = "../../../src/worker/post.rs"]
#[allow(dead_code)]
mod post;

mod sync {
    use loom::sync::Mutex;
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
    use std::collections::VecDeque;

    /// crossbeam's queue as seen from outside: bounded, and `is_empty` may be late without a fence.
    pub struct ArrayQueue<T> {
        items: Mutex<VecDeque<T>>,
        len: AtomicUsize,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub fn new(capacity: usize) -> Self {
            Self { items: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0), capacity }
        }

        pub fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items.lock().unwrap();
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            self.len.store(items.len(), Ordering::Relaxed);
            Ok(())
        }

        pub fn pop(&self) -> Option<T> {
            // A stale length makes the ring look empty, as crossbeam's may.
            if self.is_empty() {
                return None;
            }
            let mut items = self.items.lock().unwrap();
            let item = items.pop_front();
            self.len.store(items.len(), Ordering::Relaxed);
            item
        }

        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub fn len(&self) -> usize {
            self.len.load(Ordering::Relaxed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bell::Ringer;
    use super::ledger::Ledger;
    use super::post::{Mail, Post};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// An eventfd: a wake is kept until somebody sleeps on it.
    struct Event(Mutex<bool>, Condvar);

    impl Event {
        fn new() -> Self {
            Self(Mutex::new(false), Condvar::new())
        }

        fn sleep(&self) {
            let mut rung = self.0.lock().unwrap();
            while !*rung {
                rung = self.1.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    impl Ringer for Event {
        fn wake(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
        }
    }

    type TestPost = Post<u32, u32, u32, Event>;

    /// Explores with at most 2 preemptions in a schedule (seconds), or `LOOM_MAX_PREEMPTIONS` (3 takes a minute).
    fn explore(test: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        builder.check(test);
    }

    /// What a worker does: take mail; when there is none, lie down, look once more, and sleep.
    fn receive(post: &TestPost, want: usize) -> Vec<u32> {
        let mut got = Vec::new();
        while got.len() < want {
            match post.take() {
                Some(Mail::Frame(n) | Mail::Home(n) | Mail::Command(n)) => {
                    got.push(n);
                    post.dealt_with(1);
                }
                None => {
                    post.bell().lie_down();
                    if !post.has_mail() {
                        post.bell().ringer().sleep();
                    }
                    post.bell().get_up();
                }
            }
        }
        got
    }

    /// The bytes of a chunk: loom reports two that touch them without one having happened before the other.
    struct Bytes(loom::cell::UnsafeCell<u32>);

    // SAFETY: touched by whoever holds the chunk only; that this is so is what is explored.
    unsafe impl Sync for Bytes {}

    fn touch(bytes: &Bytes) -> u32 {
        bytes.0.with_mut(|bytes| {
            // SAFETY: loom fails the exploration when another thread may be here.
            unsafe {
                *bytes += 1;
                *bytes
            }
        })
    }

    #[test]
    fn a_chunk_that_is_lent_is_seen_by_who_adopts_it() {
        explore(|| {
            let (ledger, bytes) = (Arc::new(Ledger::new(1)), Arc::new(Bytes(loom::cell::UnsafeCell::new(0))));
            assert!(ledger.mint(0));
            let (theirs, seen) = (Arc::clone(&ledger), Arc::clone(&bytes));
            let other = thread::spawn(move || {
                while !theirs.adopt(0) {
                    thread::yield_now();
                }
                assert_eq!(touch(&seen), 2);
                assert!(theirs.lend(0));
            });
            assert_eq!(touch(&bytes), 1);
            assert!(ledger.lend(0));
            other.join().unwrap();
            assert!(ledger.adopt(0));
            assert_eq!(touch(&bytes), 3);
        });
    }

    #[test]
    fn of_two_that_take_a_chunk_one_gets_it() {
        explore(|| {
            let ledger = Arc::new(Ledger::new(1));
            assert!(ledger.mint(0) && ledger.lend(0));
            let theirs = Arc::clone(&ledger);
            let other = thread::spawn(move || theirs.adopt(0));
            let ours = ledger.adopt(0);
            assert_ne!(ours, other.join().unwrap());
            assert!(!ledger.mint(0));
        });
    }

    #[test]
    fn a_sleeper_is_never_left_asleep() {
        // A lost wake-up is a deadlock, which loom reports.
        explore(|| {
            let post = Arc::new(TestPost::new(2, 2, 2, Event::new()));
            let sender = Arc::clone(&post);
            let other = thread::spawn(move || {
                sender.hand_over(1).unwrap();
                sender.bell().ring();
            });
            assert_eq!(receive(&post, 1), [1]);
            other.join().unwrap();
            assert_eq!(post.pending(), 0);
        });
    }

    #[test]
    fn two_senders_and_a_batch_lose_and_double_nothing() {
        explore(|| {
            let post = Arc::new(TestPost::new(2, 2, 2, Event::new()));
            let (a, b) = (Arc::clone(&post), Arc::clone(&post));
            let first = thread::spawn(move || {
                a.hand_over(1).unwrap();
                a.send_home(2).unwrap();
                a.bell().ring();
            });
            let second = thread::spawn(move || b.command(3).unwrap());
            let mut got = receive(&post, 3);
            got.sort_unstable();
            assert_eq!(got, [1, 2, 3]);
            first.join().unwrap();
            second.join().unwrap();
            assert_eq!(post.pending(), 0);
            assert!(post.take().is_none());
        });
    }

    #[test]
    fn a_full_ring_gives_the_frame_back_and_keeps_the_count() {
        explore(|| {
            let post = Arc::new(TestPost::new(1, 2, 1, Event::new()));
            let sender = Arc::clone(&post);
            let other = thread::spawn(move || {
                let mut back = 0;
                for n in [1, 2] {
                    if sender.hand_over(n).is_err() {
                        back += 1;
                    }
                }
                // The end of the stream, so that the receiver knows when to stop.
                sender.send_home(9).unwrap();
                sender.bell().ring();
                back
            });
            let mut got = 0;
            loop {
                let mail = receive(&post, 1);
                if mail == [9] {
                    break;
                }
                got += 1;
            }
            let back = other.join().unwrap();
            while let Some(Mail::Frame(_)) = post.take() {
                got += 1;
                post.dealt_with(1);
            }
            assert_eq!(got + back, 2, "each frame arrived or came back");
            assert_eq!(post.pending(), 0);
        });
    }

    #[test]
    fn chunks_go_back_and_forth_between_two_workers() {
        explore(|| {
            let posts =
                Arc::new([TestPost::new(1, 1, 1, Event::new()), TestPost::new(1, 1, 1, Event::new())]);
            let theirs = Arc::clone(&posts);
            // The owner: takes the frame, sends the chunk home.
            let owner = thread::spawn(move || {
                let frame = receive(&theirs[1], 1)[0];
                theirs[0].send_home(frame).unwrap();
                theirs[0].bell().ring();
            });
            posts[1].hand_over(7).unwrap();
            posts[1].bell().ring();
            assert_eq!(receive(&posts[0], 1), [7]);
            owner.join().unwrap();
            assert_eq!((posts[0].pending(), posts[1].pending()), (0, 0));
        });
    }

    /// The model must be able to fail: without the second look some interleaving loses the wake-up, with it none does.
    #[test]
    fn only_the_second_look_saves_the_wake_up() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        for second_look in [false, true] {
            let lost = std::sync::Arc::new(AtomicUsize::new(0));
            let count = std::sync::Arc::clone(&lost);
            explore(move || {
                let post = Arc::new(TestPost::new(1, 1, 1, Event::new()));
                let sender = Arc::clone(&post);
                let other = thread::spawn(move || {
                    sender.hand_over(1).unwrap();
                    sender.bell().ring();
                });
                let mut awake = post.take().is_some();
                if !awake {
                    post.bell().lie_down();
                    awake = second_look && post.has_mail();
                }
                other.join().unwrap();
                let rung = *post.bell().ringer().0.lock().unwrap();
                if !awake && !rung {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert_eq!(lost.load(Ordering::Relaxed) == 0, second_look);
        }
    }
}
