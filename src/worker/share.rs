//! How much of a worker's requests and runs each host has, so that scarcity is shared among them.
//!
//! Not here: dropping or counting. A table of fixed size: hosts that find no seat of their own share the last one.
//! Invariant: what is held in all seats is what is held in all; a host is let in as long as it holds no more than is left,
//! and one that is alone leaves an eighth for whoever comes next. One slot takes no more of a host's part than it leaves.

use crate::limits;
use crate::protocol::Mac;

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Scarce {
    /// Entries of requests.
    Request,
    /// Runs of frame memory.
    Run,
}

/// A host's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat(u16);

#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    mac: Mac,
    held: [usize; 2],
}

/// What hosts hold.
#[derive(Debug)]
pub struct Shares {
    seats: Box<[Holder]>,
    held: [usize; 2],
}

impl Default for Shares {
    fn default() -> Self {
        // And the one for all others.
        Self { seats: vec![Holder::default(); limits::SHARES + 1].into_boxed_slice(), held: [0; 2] }
    }
}

impl Shares {
    /// The seat of a host: its own, or one that is free now. To be used before another host is asked for, for as long as it
    /// holds nothing it may be given away.
    pub fn seat(&mut self, mac: Mac) -> Seat {
        // Addresses of one vendor differ in their last bytes.
        let [.., d, e, f] = mac.0;
        let hash = u32::from_be_bytes([0, d, e, f]).wrapping_mul(0x9e37_79b1) >> 16;
        let mut free = limits::SHARES;
        // All places where it may be, so that no host has two.
        for step in 0..PLACES {
            let at = (hash as usize + step) % limits::SHARES;
            let holder = &self.seats[at];
            let empty = holder.held == [0; 2];
            if holder.mac == mac && !empty {
                return Seat(at as u16);
            }
            if empty && free == limits::SHARES {
                free = at;
            }
        }
        if free < limits::SHARES {
            self.seats[free].mac = mac;
        }
        Seat(free as u16)
    }

    /// Whether a host may have one more, when `room` are left of `most`.
    #[must_use]
    pub fn may(&self, seat: Seat, what: Scarce, room: usize, most: usize) -> bool {
        let held = self.held(seat, what);
        let alone = held == self.held[what as usize];
        room > 0 && (held == 0 || held < room || (alone && room > (most / 8).max(1)))
    }

    /// Whether a slot that has `of_slot` of it may have one more for a host, when `room` are left of `most`. Of what a host may
    /// have it leaves about twice as much as it has: a device that hangs would take all of it, and the host's other slots
    /// had none.
    #[must_use]
    pub fn leaves(&self, seat: Seat, what: Scarce, of_slot: usize, room: usize, most: usize) -> bool {
        let held = self.held(seat, what);
        let alone = held == self.held[what as usize];
        let kept = if alone { held.min((most / 8).max(1)) } else { held };
        // No more of what the slot has than the host has are the host's.
        of_slot.min(held) <= room.saturating_sub(kept).div_ceil(2)
    }

    /// Of so much of it a host has this seat.
    #[must_use]
    pub fn held(&self, seat: Seat, what: Scarce) -> usize {
        self.seats.get(usize::from(seat.0)).map_or(0, |holder| holder.held[what as usize])
    }

    /// A host has one more.
    pub fn take(&mut self, seat: Seat, what: Scarce) {
        if let Some(holder) = self.seats.get_mut(usize::from(seat.0)) {
            holder.held[what as usize] += 1;
            self.held[what as usize] += 1;
        }
    }

    /// It has one less.
    pub fn give(&mut self, seat: Seat, what: Scarce) {
        if let Some(holder) = self.seats.get_mut(usize::from(seat.0)) {
            holder.held[what as usize] = holder.held[what as usize].saturating_sub(1);
            self.held[what as usize] = self.held[what as usize].saturating_sub(1);
        }
    }
}

/// Places where the seat of a host may be.
const PLACES: usize = 8;
const _: () = assert!(limits::SHARES >= PLACES && limits::SHARES < u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn host(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    /// Hosts that ask again and again for all they can get of so many; says what each has when nobody gets more.
    fn contest(most: usize, hosts: &[u32]) -> Vec<usize> {
        let mut shares = Shares::default();
        let mut room = most;
        let take = |shares: &mut Shares, n: u32, room: &mut usize| {
            let seat = shares.seat(host(n));
            let may = shares.may(seat, Scarce::Request, *room, most);
            if may {
                shares.take(seat, Scarce::Request);
                *room -= 1;
            }
            may
        };
        for (i, &n) in hosts.iter().enumerate() {
            while take(&mut shares, n, &mut room) {}
            // Whoever has been there for a while ends one thing after the other, and begins others.
            for _ in 0..20 * most {
                for &n in &hosts[..=i] {
                    let seat = shares.seat(host(n));
                    if shares.held(seat, Scarce::Request) > 0 {
                        shares.give(seat, Scarce::Request);
                        room += 1;
                    }
                }
                for &n in hosts[..=i].iter().rev() {
                    while take(&mut shares, n, &mut room) {}
                }
            }
        }
        hosts
            .iter()
            .map(|&n| {
                let seat = shares.seat(host(n));
                shares.held(seat, Scarce::Request)
            })
            .collect()
    }

    #[test]
    fn one_that_is_alone_leaves_an_eighth_and_several_share() {
        assert_eq!(contest(1024, &[1]), [896]);
        assert_eq!(contest(8, &[1]), [7]);
        assert_eq!(contest(2, &[1]), [1]);
        // With two there is a third each, and a third for whoever comes next.
        for most in [12, 1024] {
            let held = contest(most, &[1, 2]);
            assert!(held.iter().all(|&n| n >= most / 4 && n <= most / 2), "{most}: {held:?}");
            let held = contest(most, &[1, 2, 3]);
            assert!(held.iter().all(|&n| n >= most / 6 && n <= most / 3 + 1), "{most}: {held:?}");
        }
        // The smallest that there can be: nobody has all for good.
        assert!(contest(1, &[1, 2]).iter().sum::<usize>() <= 1);
    }

    #[test]
    fn a_seat_is_free_again_when_nothing_is_held() {
        let mut shares = Shares::default();
        // More hosts than seats, one after the other.
        for n in 0..10 * limits::SHARES as u32 {
            let seat = shares.seat(host(n));
            assert_ne!(usize::from(seat.0), limits::SHARES, "host {n} found none");
            shares.take(seat, Scarce::Run);
            assert_eq!(shares.seat(host(n)), seat);
            shares.give(seat, Scarce::Run);
        }
        // And all at once: those who find none share one, and nothing is lost.
        let hosts = 4 * limits::SHARES as u32;
        let seats: Vec<Seat> = (0..hosts)
            .map(|n| {
                let seat = shares.seat(host(n));
                shares.take(seat, Scarce::Request);
                seat
            })
            .collect();
        let last = Seat(limits::SHARES as u16);
        let sharing = seats.iter().filter(|seat| **seat == last).count();
        assert!(sharing > 0 && shares.held(last, Scarce::Request) == sharing);
        assert_eq!(shares.held[Scarce::Request as usize], hosts as usize);
        seats.iter().for_each(|seat| shares.give(*seat, Scarce::Request));
        assert!(shares.seats.iter().all(|holder| holder.held == [0; 2]) && shares.held == [0; 2]);
    }

    proptest! {
        /// Against a map: each host's own seat holds what it holds, as long as there are seats.
        #[test]
        fn seats_are_kept_apart(steps in proptest::collection::vec((0..6u32, any::<bool>(), any::<bool>()), 1..400)) {
            let mut shares = Shares::default();
            let mut model: BTreeMap<(u32, usize), Vec<Seat>> = BTreeMap::new();
            for (n, run, take) in steps {
                let what = if run { Scarce::Run } else { Scarce::Request };
                let seat = shares.seat(host(n));
                let held = model.entry((n, what as usize)).or_default();
                prop_assert_eq!(shares.held(seat, what), held.len());
                if take {
                    shares.take(seat, what);
                    held.push(seat);
                } else if let Some(seat) = held.pop() {
                    shares.give(seat, what);
                }
                for what in [Scarce::Request, Scarce::Run] {
                    let all: usize = model.iter().filter(|((_, w), _)| *w == what as usize).map(|(_, h)| h.len()).sum();
                    prop_assert_eq!(shares.held[what as usize], all);
                }
            }
        }
    }
}
