/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the kernel program and user space must agree on. src/net/steer.rs has the same in Rust; a test there reads
 * this file and compares.
 */
#ifndef XSHELF_STEER_H
#define XSHELF_STEER_H

#include <linux/types.h>

/* What became of a frame. Every frame counts under exactly one of these. */
enum steer_reason {
	STEER_REDIRECTED,  /* to the socket of its queue */
	STEER_NOT_AOE,     /* passed: another EtherType, or more than one tag */
	STEER_RUNT,        /* passed: ends inside its AoE header */
	STEER_VERSION,     /* passed: AoE of another version than 1 */
	STEER_RESPONSE,    /* passed: the host's own initiator waits for it */
	STEER_OTHER_MAC,   /* passed: neither to the port nor broadcast */
	STEER_OTHER_SHELF, /* passed: a shelf that is not ours */
	STEER_NO_SOCKET,   /* passed: ours, but nobody serves this queue (yet, or any more) */
	STEER_MASKED,      /* dropped: to a slot that its sender may not talk to */
	STEER_GUARD,       /* passed: the same, but it is another xshelf that asks whose the address is */
	STEER_REASONS,
};

/* Shelves are kept as bits, this many in each entry of the map. */
#define STEER_SHELVES_PER_WORD 64

/* Most receive queues of one port. */
#define STEER_QUEUES 256

/* Slots that the program knows one by one, and pairs of a masked slot and a host that may talk to it. More of either
 * are left to user space. */
#define STEER_SLOTS 65536
#define STEER_ALLOWED 65536

/* Addresses of our own, of all ports. */
#define STEER_OWN 256

/* Bytes of the ring of events; a multiple of every page size. */
#define STEER_EVENT_BYTES 65536

/* Nanoseconds after an event of a slot in which there is no second one of that kind. */
#define STEER_PAUSE_NS 100000000

/* The tag of a config query by which an xshelf asks whose an address is. Bit 31 is set: Linux throws answers to such a
 * tag away (drivers/block/aoe/aoenet.c), should it get one. */
#define STEER_GUARD_TAG 0x9a0e5e1f

/* An address, in an entry as large as the map rounds it up to. */
struct steer_mac {
	unsigned char mac[6];
	unsigned char pad[2];
};

/* What happened to an address of ours. */
enum steer_event_kind {
	STEER_RIVAL, /* somebody else answered for it */
	STEER_ASKS,  /* another xshelf asks whose it is */
	STEER_EVENT_KINDS,
};

/* A slot of ours; the key is shelf << 8 | slot. */
struct steer_slot {
	/* When the last event of each kind was, by bpf_ktime_get_ns(). */
	__u64 event_at[STEER_EVENT_KINDS];
	/* The VLAN it lives on, 0 for none. */
	__u16 vlan;
	/* Whether only those in the map of the allowed may talk to it. */
	__u8 masked;
	__u8 pad[5];
};

/* A host that may talk to a masked slot. */
struct steer_talker {
	__u32 slot;
	unsigned char mac[6];
	unsigned char pad[2];
};

/* An event, all numbers in the order of the host. */
struct steer_event {
	unsigned char mac[6];
	/* The tag control information, 0 without a tag. */
	__u16 tci;
	__u32 slot;
	__u32 ifindex;
	__u32 queue;
	__u32 kind;
};
_Static_assert(sizeof(struct steer_event) == 24, "no holes, which would let bytes of the kernel out");

#endif
