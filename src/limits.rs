//! Every size and bound of the product, in one place, with compile-time assertions between them.
//!
//! Not here: anything an administrator sets (that is `appliance::config`, which checks against these).
//! Invariant: a bound that depends on another says so in a `const` assertion below.

use crate::worker::Rate;
use std::time::Duration;

/// Bytes of one ATA logical sector on the wire; never anything else (AoEr11, section 3).
pub const SECTOR: usize = 512;

/// Bytes of one UMEM chunk. The kernel refuses more than a page (net/xdp/xdp_umem.c).
pub const CHUNK: usize = 4096;
/// Bytes the kernel keeps free before a received frame (XDP_PACKET_HEADROOM).
pub const XDP_HEADROOM: usize = 256;
/// UMEM headroom we ask for: it puts the payload of an untagged ATA frame at [`PAYLOAD_AT`].
pub const UMEM_HEADROOM: usize = 220;
/// UMEM headroom where every slot is bound to a VLAN: it puts the payload of a tagged ATA frame at [`PAYLOAD_AT`].
pub const TAGGED_HEADROOM: usize = UMEM_HEADROOM - VLAN_TAG;
/// Where a received frame starts in its chunk, unless the driver says otherwise. Always read the descriptor.
pub const FRAME_AT: usize = XDP_HEADROOM + UMEM_HEADROOM;
/// Where the data of an untagged ATA frame starts in its chunk, 512-aligned for O_DIRECT.
pub const PAYLOAD_AT: usize = FRAME_AT + ATA_FRAME;

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET: usize = 14;
/// Bytes an 802.1Q tag adds.
pub const VLAN_TAG: usize = 4;
/// Bytes of the AoE header behind the Ethernet header (AoEr11, section 2).
pub const AOE_HEADER: usize = 10;
/// Bytes of the ATA argument header (AoEr11, section 3.1).
pub const ATA_SECTION: usize = 12;
/// Bytes of the Query Config argument header (AoEr11, section 3.2).
pub const CONFIG_SECTION: usize = 8;
/// Bytes of the MAC mask list argument header (AoEr11, section 3.3).
pub const MASK_SECTION: usize = 4;
/// Bytes before the data of an untagged ATA frame.
pub const ATA_FRAME: usize = ETHERNET + AOE_HEADER + ATA_SECTION;
/// Shortest frame a reply is padded to (802.3 minimum without FCS); aoetools discard shorter ones.
pub const MIN_FRAME: usize = 60;
/// Longest config string of a slot (AoEr11, section 3.2).
pub const CONFIG_STRING: usize = 1024;
/// Addresses in a MAC mask list or a reservation: their number is a byte on the wire (AoEr11, sections 3.3 and 3.4).
pub const MAC_LIST: usize = 255;

/// Slots the XDP program knows one by one (`STEER_SLOTS`); more are neither masked nor watched there, only in user space.
pub const STEERED_SLOTS: u32 = 1 << 16;
/// Pairs of a masked slot and a host that may talk to it, in the XDP program (`STEER_ALLOWED`); a slot whose hosts do not
/// fit is masked in user space only.
pub const STEERED_HOSTS: u32 = 1 << 16;
/// Changes of one slot's state that wait for the one before to be on stable storage; beyond it they are dropped and counted.
pub const CHANGES: usize = 16;

/// Sectors that fit behind the header in one chunk.
pub const CHUNK_SECTORS: usize = (CHUNK - PAYLOAD_AT) / SECTOR;
/// Most sectors advertised and accepted in one command: what MTU 9000 carries, rounded down to a power of two.
pub const MAX_SECTORS: u8 = 16;
/// Adjacent chunks of one run: enough for [`MAX_SECTORS`].
pub const RUN_CHUNKS: usize = 2;
/// Bytes of one run.
pub const RUN: usize = RUN_CHUNKS * CHUNK;
/// Pieces one received frame may be spread over; 9018 bytes need 3 where a chunk holds 3200 or more.
/// Longer frames are dropped and counted.
pub const MAX_FRAGMENTS: usize = 5;
/// Pieces of the longest reply: header chunk and a run.
pub const REPLY_PIECES: usize = 1 + RUN_CHUNKS;

/// Files one worker's io_uring can have registered at once, over all its slots.
pub const FILES: usize = 1024;
/// Descriptors one worker's io_uring can watch while it sleeps: a socket for each queue, and its eventfd.
pub const WATCHES: usize = 64;
/// Kernel threads one worker's io_uring may use for what cannot be done without blocking (flushes, page cache
/// writes), beside one for each of its files: so a file that hangs never holds the last one of another.
pub const IO_THREADS: u32 = 64;
/// Largest unit, in bytes, that a device may want to be read and written as a whole to be reached past the page cache.
pub const BOUNCE_UNIT: u32 = 4096;
/// Buffers of one worker for parts of such units, beside one for each of its files that need them; made only where one does.
pub const BOUNCES: u32 = 64;

/// Bytes of one io_uring registered buffer at most (io_uring/rsrc.c); the UMEM is registered in such pieces.
pub const REGISTERED_PIECE: usize = 1 << 30;

/// Requests a target says it can queue for one initiator (Query Config, buffer count). Deliberately
/// overcommitted: what really fits is [`REQUESTS`] for each worker; beyond it frames are dropped and counted.
pub const BUFFER_COUNT: u16 = 64;
/// Requests one worker holds at once (in flight or parked).
pub const REQUESTS: usize = 1024;
/// Entries of the FILL and RX rings of one queue.
pub const FILL_RING: u32 = 4096;
/// Entries of the RX ring of one queue; a jumbo frame takes three.
pub const RX_RING: u32 = 4096;
/// Entries of the TX and COMPLETION rings of one queue.
pub const TX_RING: u32 = 2048;
/// Chunks of one queue that receive: more than FILL holds, so that it stays full while requests are in flight.
pub const RECEIVE_CHUNKS: u32 = 8192;
/// Runs of one worker, for data that does not fit behind its header: one for each request it holds and each reply the
/// TX ring holds, so that they do not run out before those do.
pub const RUNS: u32 = 2048;
/// Chunks of one worker for frames it starts itself: announcements and answers to wildcards.
pub const OWN_CHUNKS: u32 = 512;
/// Frames taken from one RX ring in one turn.
pub const RX_BATCH: usize = 64;
/// Storage completions taken in one turn.
pub const REAP_BATCH: usize = 128;
/// Frames that wait to be handed to a worker; beyond it they are dropped and counted.
pub const HANDOFF_RING: usize = 1024;
/// Commands of the appliance that wait for one worker, beside those that concern one slot.
pub const COMMANDS: usize = 16;
/// Commands that wait for one worker for each of its slots: that its state is saved, that it has another size, what is
/// known of its health, that its backing is gone, to be let go, or to be replaced.
pub const COMMANDS_PER_SLOT: usize = 6;
/// Messages to the thread that keeps slot state, for each slot: a change to keep, and that the one before is in force.
pub const ERRANDS_PER_SLOT: usize = 2;
/// Wildcard requests a worker works on at once; beyond it they are dropped and counted.
pub const WILDCARDS: usize = 64;

/// Wildcard requests taken from one host: Linux sends one a minute, and one for each aoe-discover.
pub const WILDCARD_RATE: Rate = Rate { burst: 64, every: Duration::from_micros(62_500) };
/// Hosts whose wildcard requests one worker counts at once.
pub const SOURCES: usize = 64;
/// Hosts whose commands in flight one worker counts at once, to share what it holds among them; those beyond it count as
/// one.
pub const SHARES: usize = 256;
/// Frames of its own making - answers to wildcards, announcements - that one worker sends: 20,000 a second, so that a
/// full shelf answers within 15 ms and no switch has to hold a burst.
pub const OWN_RATE: Rate = Rate { burst: 32, every: Duration::from_micros(50) };

/// How long after a config string was set the slot is announced: the one who set it gets its answer first, and one who sets
/// it again and again causes one announcement in that time.
pub const CONFIG_ANNOUNCEMENT: Duration = Duration::from_secs(1);

/// The shelves and slots an initiator can address: Linux ignores shelf 4095 and slot 255, and all ones is the
/// wildcard (drivers/block/aoe/aoecmd.c, aoecmd_cfg_rsp).
pub const RESERVED_SHELVES: [u16; 2] = [0x0fff, 0xffff];
/// Highest slot number.
pub const MAX_SLOT: u8 = 254;

/// Others who answer or ask for our addresses that are remembered at once, a pair of slot and address each.
pub const RIVALS: usize = 1024;

/// How long a command may be at a disk before that counts as hanging.
pub const HUNG: std::time::Duration = std::time::Duration::from_secs(5);

/// Seconds a stop waits for requests in flight before it names the slots that hold them.
pub const STOP_SECONDS: u64 = 10;

const _: () = assert!(PAYLOAD_AT == 512 && PAYLOAD_AT % SECTOR == 0);
const _: () = assert!(CHUNK_SECTORS == 7);
const _: () = assert!(RUN >= MAX_SECTORS as usize * SECTOR);
const _: () = assert!(REGISTERED_PIECE % RUN == 0, "a run must not cross a registered piece");
const _: () = assert!(MAX_FRAGMENTS * 2048 > 9018 + VLAN_TAG, "a 9000-byte MTU must fit");
const _: () = assert!(FRAME_AT + VLAN_TAG + ETHERNET + AOE_HEADER + CONFIG_SECTION + CONFIG_STRING <= CHUNK);
const _: () = assert!(FILL_RING.is_power_of_two() && RX_RING.is_power_of_two() && TX_RING.is_power_of_two());
const _: () = assert!(RECEIVE_CHUNKS > FILL_RING);
const _: () = assert!(RUNS as usize >= REQUESTS + TX_RING as usize / REPLY_PIECES);
const _: () = assert!(BUFFER_COUNT >= 2, "Linux never attaches to a target that advertises less");
const _: () = assert!(STEERED_HOSTS as usize >= (MAX_SLOT as usize + 1) * MAC_LIST, "one shelf fits");
const _: () = assert!(
    OWN_CHUNKS as usize > MAX_SLOT as usize + 1,
    "one wildcard to a full shelf is answered in one go"
);

/// Whether a port of this MTU (in bytes) can carry a command of one sector.
#[must_use]
pub const fn carries_a_sector(mtu: u32) -> bool {
    mtu as usize >= SECTOR + ATA_FRAME - ETHERNET
}

/// Sectors to advertise on a port: the largest of 1, 2, 4, 8, 16 whose frame fits the MTU and what the rung in
/// force can send in one frame. The MTU formula counts the Ethernet header twice, as every initiator does
/// (drivers/block/aoe/aoecmd.c).
///
/// `mtu` in bytes; `frame_room` is the longest frame the rung can carry, in bytes.
#[must_use]
pub const fn sectors_for(mtu: u32, frame_room: u32) -> u8 {
    let mut n = MAX_SECTORS;
    while n > 1 {
        let bytes = n as u32 * SECTOR as u32 + ATA_FRAME as u32;
        if bytes <= mtu && bytes <= frame_room {
            return n;
        }
        n /= 2;
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_sectors_follow_the_mtu() {
        for (mtu, want) in [
            (600, 1),
            (1059, 1),
            (1060, 2),
            (1500, 2),
            (2084, 4),
            (4131, 4),
            (4132, 8),
            (8227, 8),
            (8228, 16),
            (9000, 16),
            (65535, 16),
        ] {
            assert_eq!(sectors_for(mtu, u32::MAX), want, "MTU {mtu}");
        }
    }

    #[test]
    fn a_rung_without_fragments_limits_the_sectors() {
        assert_eq!(sectors_for(9000, 3584), 4);
        assert_eq!(sectors_for(9000, 3620), 4);
    }
}
