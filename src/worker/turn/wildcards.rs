//! Requests to more than one slot, and announcements: frames of our own making.
//!
//! Not here: what a slot answers. A wildcard request becomes one request for each slot it covers, in a chunk of our own,
//! and goes the way of every other from there.
//! Invariant: a wildcard that finds no chunk free, or comes too fast, waits; nobody waits for the wildcard.

use super::{Core, outgoing};
use crate::frame::{Chunk, Frame, Piece, PortId, QueueId};
use crate::limits;
use crate::net::Queue;
use crate::protocol::config::{Config, ConfigCommand};
use crate::protocol::ethernet::ETHERTYPE_AOE;
use crate::protocol::{Address, Command, Ethernet, Header};
use crate::shelf::{Admitted, Refusal, Slot};
use crate::storage::Storage;
use crate::worker::counters::Counter;
use crate::worker::pace::Bucket;
use crate::worker::{HandOver, Shared, Wildcard};
use arrayvec::ArrayVec;
use std::sync::Arc;
use std::time::Duration;

impl<Q: Queue, S: Storage> Core<Q, S> {
    /// Tells every owner about a wildcard request; the frame itself ends here.
    pub(super) fn spread(&mut self, shared: &Shared, admitted: &Admitted, frame: Frame) {
        let shelf = admitted.header.address.shelf;
        if shelf != Address::ANY_SHELF && !shared.routes.shelves().any(|s| s == shelf) {
            return self.drop_frame(shared, frame, Refusal::OtherAddress.into());
        }
        if !self.sources.take(admitted.ethernet.source, self.now) {
            return self.drop_frame(shared, frame, Counter::DropTooOften);
        }
        let head = &frame.head;
        let bytes = shared.region.bytes(&head.chunk, usize::from(head.offset), usize::from(head.len));
        let mut argument = ArrayVec::new();
        argument.extend(bytes.iter().skip(admitted.argument_at()).take(limits::ATA_SECTION).copied());
        let text = bytes.get(admitted.argument_at() + argument.len()..).unwrap_or_default();
        let text = (admitted.header.command == Command::Config && asks_text(&argument))
            .then(|| Arc::from(&text[..text.len().min(limits::CONFIG_STRING)]));
        let wildcard = Wildcard {
            queue: frame.queue,
            source: admitted.ethernet.source,
            tag: admitted.ethernet.tag,
            header: admitted.header,
            argument,
            text,
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
            let Some(mut chunk) = own_chunk(&mut self.own, &mut self.pace, self.now) else { return };
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
            // Payloads of our own frames are aligned as received ones are.
            let offset = limits::FRAME_AT + limits::ETHERNET - ethernet.len();
            let bytes = shared.region.bytes_mut(&mut chunk, offset, limits::CHUNK);
            ethernet.emit(bytes);
            header.emit(&mut bytes[admitted.header_at()..]);
            let at = admitted.argument_at();
            let text = wildcard.text.as_deref().unwrap_or_default();
            let given = wildcard.argument.iter().chain(text);
            let len = bytes[at..].iter_mut().zip(given).map(|(to, from)| *to = *from).count();
            let len = (at + len) as u16;
            self.counters.count(Counter::WildcardRequests);
            let head = Piece { chunk, offset: offset as u16, len };
            self.serve(shared, Frame { queue, head, rest: ArrayVec::new() }, &admitted, slot as u16, true);
        }
    }

    /// Announces a slot on every port.
    pub(super) fn announce_slot(&mut self, shared: &Shared, slot: usize) {
        for port in (0..shared.ports.len()).filter_map(|p| u16::try_from(p).ok()) {
            self.announce_on(slot, PortId(port));
        }
    }

    /// Announces a slot on a port, if that is not about to happen anyway.
    pub(super) fn announce_on(&mut self, slot: usize, port: PortId) {
        if !self.announcements.contains(&(slot, port, 0)) {
            self.announcements.push_back((slot, port, 0));
        }
    }

    pub(super) fn announce(&mut self, shared: &Shared) {
        while let Some((slot, id, next)) = self.announcements.front_mut() {
            let queue = shared.queues.iter().position(|q| q.port == *id);
            let found = (shared.port(*id), queue, self.slots.get(*slot));
            let (Some(port), Some(queue), Some(slot)) = found else {
                self.announcements.pop_front();
                continue;
            };
            if !port.is_running() {
                self.announcements.pop_front();
                continue;
            }
            let Some(to) = slot.audience().nth(*next) else {
                self.announcements.pop_front();
                continue;
            };
            let Some(mut chunk) = own_chunk(&mut self.own, &mut self.pace, self.now) else { return };
            *next += 1;
            let room = shared.region.bytes_mut(&mut chunk, limits::FRAME_AT, limits::CHUNK);
            match slot.announce(&port.path(false), to, room) {
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

/// A chunk for a frame of our own making, if there is one and it is time for one more.
fn own_chunk(own: &mut Vec<Chunk>, pace: &mut Bucket, now: Duration) -> Option<Chunk> {
    if own.is_empty() || !pace.take(limits::OWN_RATE, now) { None } else { own.pop() }
}

/// Whether the answer to a Query Config request depends on the text that follows.
fn asks_text(argument: &[u8]) -> bool {
    let asked = Config::parse(argument).map(|config| config.command);
    matches!(asked, Some(ConfigCommand::Test | ConfigCommand::TestPrefix))
}
