//! How often: token buckets for what one frame can cause many of.
//!
//! Not a clock: whoever asks says what time it is.
//! Invariant: over any time, no more passes than the burst and what the rate gave in that time.

use crate::protocol::Mac;
use std::time::Duration;

/// So many at once, and one more after each `every`.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many at once.
    pub burst: u32,
    /// The time after which there is one more.
    pub every: Duration,
}

/// Counts what passes.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    left: u32,
    /// When the last one was added.
    filled: Duration,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn full(rate: Rate, now: Duration) -> Self {
        Self { left: rate.burst, filled: now }
    }

    /// Whether one more may pass now.
    pub fn take(&mut self, rate: Rate, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled).as_nanos() / rate.every.as_nanos().max(1);
        // What is more than the burst is lost anyway.
        let new = u32::try_from(passed).unwrap_or(u32::MAX).min(rate.burst);
        if new == rate.burst {
            *self = Self::full(rate, now);
        } else {
            self.left = (self.left + new).min(rate.burst);
            self.filled += rate.every * new;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// A bucket for each of so many hosts. One that comes when all are taken gets the one that was used least recently.
#[derive(Debug)]
pub struct Sources {
    rate: Rate,
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    mac: Mac,
    bucket: Bucket,
    seen: Duration,
}

impl Sources {
    /// Room for so many hosts, at least one.
    #[must_use]
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, hosts: Vec::with_capacity(most.max(1)) }
    }

    /// Whether this host may have one more now.
    pub fn take(&mut self, mac: Mac, now: Duration) -> bool {
        let rate = self.rate;
        if let Some(host) = self.hosts.iter_mut().find(|host| host.mac == mac) {
            host.seen = now;
            return host.bucket.take(rate, now);
        }
        let mut bucket = Bucket::full(rate, now);
        let passes = bucket.take(rate, now);
        let new = Host { mac, bucket, seen: now };
        if self.hosts.len() < self.hosts.capacity() {
            self.hosts.push(new);
        } else if let Some(oldest) = self.hosts.iter_mut().min_by_key(|host| host.seen) {
            *oldest = new;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_millis(10) };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let mut bucket = Bucket::full(RATE, ms(0));
        let take = |bucket: &mut Bucket, n| (0..n).filter(|_| bucket.take(RATE, ms(100))).count();
        assert_eq!(take(&mut bucket, 5), 3);
        assert!(!bucket.take(RATE, ms(109)));
        assert!(bucket.take(RATE, ms(110)));
        assert!(!bucket.take(RATE, ms(119)), "half a token is none");
        assert!(bucket.take(RATE, ms(125)) && bucket.take(RATE, ms(130)), "and is not lost");
        assert!(!bucket.take(RATE, ms(130)));
    }

    #[test]
    fn a_flood_of_one_host_leaves_the_others_alone() {
        let mut sources = Sources::new(RATE, 2);
        let host = |n| Mac([2, 0, 0, 0, 0, n]);
        assert_eq!((0..1000).filter(|_| sources.take(host(1), ms(1))).count(), 3);
        assert!(sources.take(host(2), ms(1)));
        assert!(!sources.take(host(1), ms(2)));
        // A third host takes the place of the one that was quiet for longest.
        assert!(sources.take(host(3), ms(3)));
        assert!(!sources.take(host(1), ms(4)), "still known");
    }

    proptest! {
        #[test]
        fn no_more_than_the_rate_passes(steps in proptest::collection::vec(0..50u64, 1..200)) {
            let mut bucket = Bucket::full(RATE, ms(0));
            let (mut now, mut passed) = (0, 0);
            for step in steps {
                now += step;
                passed += u64::from(bucket.take(RATE, ms(now)));
                prop_assert!(passed <= 3 + now / 10);
            }
        }
    }
}
