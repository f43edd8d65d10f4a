/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the kernel program and user space must agree on. src/net/steer.rs has the same in Rust; a test there reads
 * this file and compares.
 */
#ifndef XSHELF_STEER_H
#define XSHELF_STEER_H

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
	STEER_REASONS,
};

/* Shelves are kept as bits, this many in each entry of the map. */
#define STEER_SHELVES_PER_WORD 64

/* Most receive queues of one port. */
#define STEER_QUEUES 256

/* The port's own address, in an entry as large as the map rounds it up to. */
struct steer_port {
	unsigned char mac[6];
	unsigned char pad[2];
};

#endif
