//! Requests to more than one slot, and announcements: frames of our own making.
//!
//! Not here: what a slot answers. A wildcard request becomes one request for each slot it covers, in a chunk of our own,
//! and goes the way of every other from there.
//! Invariant: a wildcard that finds no chunk free waits for one; nobody waits for the wildcard.

use super::{Core, outgoing};
use crate::frame::{Frame, Piece, QueueId};
use crate::limits;
use crate::net::Queue;
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Address, Ethernet, Header};
use crate::shelf::{Admitted, Path, Refusal, Slot};
use crate::storage::Storage;
use crate::worker::counters::Counter;
use crate::worker::{HandOver, Shared, Wildcard};
use arrayvec::ArrayVec;

impl<Q: Queue, S: Storage> Core<Q, S> {
    /// Tells every owner about a wildcard request; the frame itself ends here.
    pub(super) fn spread(&mut self, shared: &Shared, admitted: &Admitted, frame: Frame) {
        let shelf = admitted.header.address.shelf;
        if shelf != Address::ANY_SHELF && !shared.routes.shelves().any(|s| s == shelf) {
            return self.drop_frame(shared, frame, Refusal::OtherAddress.into());
        }
        let head = &frame.head;
        let bytes = shared.region.bytes(&head.chunk, usize::from(head.offset), usize::from(head.len));
        let mut argument = ArrayVec::new();
        argument.extend(bytes.iter().skip(admitted.argument_at()).take(limits::ATA_SECTION).copied());
        let wildcard = Wildcard {
            queue: frame.queue,
            source: admitted.ethernet.source,
            tag: admitted.ethernet.tag,
            header: admitted.header,
            argument,
        };
        for i in 0..self.holders.len() {
            let holder = self.holders[i];
            if holder == self.id {
                self.take_wildcard(wildcard.clone());
            } else if shared.posts[usize::from(holder.0)]
                .hand_over(HandOver::Wildcard(wildcard.clone()))
                .is_ok()
            {
                self.to_ring[usize::from(holder.0)] = true;
            } else {
                self.counters.count(Counter::DropWildcards);
            }
        }
        self.counters.count(Counter::Wildcards);
        self.recycle(shared, frame);
    }

    pub(super) fn take_wildcard(&mut self, wildcard: Wildcard) {
        if self.wildcards.len() < limits::WILDCARDS {
            self.wildcards.push_back((wildcard, 0));
        } else {
            self.counters.count(Counter::DropWildcards);
        }
    }

    /// Makes a request of its own for each slot a wildcard covers, as long as there are chunks for it.
    pub(super) fn ask_slots(&mut self, shared: &Shared) {
        while let Some((wildcard, next)) = self.wildcards.front_mut() {
            let covers = |slot: &Slot| wildcard.header.address.covers(slot.facts().address);
            let Some(skip) = self.slots[*next..].iter().position(covers) else {
                self.wildcards.pop_front();
                continue;
            };
            let Some(mut chunk) = self.own.pop() else { return };
            let slot = *next + skip;
            *next = slot + 1;
            let Some(port) =
                shared.queues.get(usize::from(wildcard.queue.0)).and_then(|q| shared.port(q.port))
            else {
                self.counters.count(Counter::Defects);
                self.own.push(chunk);
                continue;
            };
            let ethernet = Ethernet {
                destination: port.mac,
                source: wildcard.source,
                tag: wildcard.tag,
                ethertype: ETHERTYPE_AOE,
            };
            let header = Header { address: self.slots[slot].facts().address, ..wildcard.header };
            let admitted = Admitted { ethernet, header };
            let queue = wildcard.queue;
            // Untagged payloads of our own frames are aligned as received ones are.
            let bytes = shared.region.bytes_mut(&mut chunk, limits::FRAME_AT, limits::CHUNK);
            ethernet.emit(bytes);
            header.emit(&mut bytes[admitted.header_at()..]);
            let at = admitted.argument_at();
            bytes[at..at + wildcard.argument.len()].copy_from_slice(&wildcard.argument);
            let len = (at + wildcard.argument.len()) as u16;
            self.counters.count(Counter::WildcardRequests);
            let head = Piece { chunk, offset: limits::FRAME_AT as u16, len };
            self.serve(shared, Frame { queue, head, rest: ArrayVec::new() }, &admitted, slot as u16, true);
        }
    }

    pub(super) fn announce(&mut self, shared: &Shared) {
        while let Some(&(slot, id)) = self.announcements.front() {
            let queue = shared.queues.iter().position(|q| q.port == id);
            let (Some(port), Some(queue), Some(slot)) = (shared.port(id), queue, self.slots.get(slot)) else {
                self.announcements.pop_front();
                continue;
            };
            let Some(mut chunk) = self.own.pop() else { return };
            self.announcements.pop_front();
            let path = Path { port: port.mac, sectors: port.sectors, wildcard: false };
            let room = shared.region.bytes_mut(&mut chunk, limits::FRAME_AT, limits::CHUNK);
            match slot.announce(&path, room) {
                Some(len) => {
                    self.counters.count(Counter::Announcements);
                    self.send(shared, outgoing(QueueId(queue as u16), chunk, limits::FRAME_AT as u16, len));
                }
                None => {
                    self.counters.count(Counter::Defects);
                    self.bring_home(shared, chunk);
                }
            }
        }
    }
}
