// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Which frames are ours: AoE requests to this port and to one of our shelves go to the socket of the queue they
// arrived on; everything else goes up the stack as if we were not there. Not here: what a frame asks for. User
// space checks all of this again. A frame that is not taken is passed; there is no XDP_DROP in this program.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"

#define ETHERTYPE_AOE 0x88a2
#define AOE_VERSION 1
#define AOE_RESPONSE 0x08
#define AOE_WILDCARD_SHELF 0xffff

struct vlan_tag {
	__be16 tci;
	__be16 ethertype;
};

// AoEr11, section 2: what follows the EtherType.
struct aoe_header {
	__u8 version_flags;
	__u8 error;
	__be16 shelf;
	__u8 slot;
	__u8 command;
	__be32 tag;
} __attribute__((packed));

// Sockets of this port by receive queue.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, STEER_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// The shelves that are ours, one bit each.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / STEER_SHELVES_PER_WORD);
	__type(key, __u32);
	__type(value, __u64);
} shelves SEC(".maps");

// The port's address. A map and no constant, because an administrator may change it while we run.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steer_port);
} port SEC(".maps");

// Frames by reason.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline int is_broadcast(const unsigned char *mac)
{
	return (mac[0] & mac[1] & mac[2] & mac[3] & mac[4] & mac[5]) == 0xff;
}

static __always_inline int is_port(const unsigned char *mac)
{
	__u32 zero = 0;
	const struct steer_port *own = bpf_map_lookup_elem(&port, &zero);
	// By hand: clang turns comparing six bytes into a call of memcmp, and there is none here.
	const __u16 *a = (const __u16 *)mac, *b;

	if (!own)
		return 0;
	b = (const __u16 *)own->mac;
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

static __always_inline int is_our_shelf(__u16 shelf)
{
	__u32 word = shelf / STEER_SHELVES_PER_WORD;
	const __u64 *bits;

	// All shelves are meant, so ours is, whichever it is.
	if (shelf == AOE_WILDCARD_SHELF)
		return 1;
	bits = bpf_map_lookup_elem(&shelves, &word);
	return bits && (*bits >> (shelf % STEER_SHELVES_PER_WORD)) & 1;
}

// Why the frame is ours (STEER_REDIRECTED) or is not. Only reads.
static __always_inline enum steer_reason judge(const struct xdp_md *ctx)
{
	// Of a frame in several buffers this is the first one; every driver puts the headers there.
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;
	const struct aoe_header *aoe;
	__be16 ethertype;

	if ((const void *)(ethernet + 1) > end)
		return STEER_NOT_AOE;
	ethertype = ethernet->h_proto;
	aoe = (const void *)(ethernet + 1);
	if (ethertype == bpf_htons(ETH_P_8021Q)) {
		const struct vlan_tag *tag = (const void *)(ethernet + 1);

		if ((const void *)(tag + 1) > end)
			return STEER_NOT_AOE;
		ethertype = tag->ethertype;
		aoe = (const void *)(tag + 1);
	}
	if (ethertype != bpf_htons(ETHERTYPE_AOE))
		return STEER_NOT_AOE;
	if ((const void *)(aoe + 1) > end)
		return STEER_RUNT;
	if (aoe->version_flags >> 4 != AOE_VERSION)
		return STEER_VERSION;
	// Taking responses away would break the host's own use as an initiator on this port.
	if (aoe->version_flags & AOE_RESPONSE)
		return STEER_RESPONSE;
	// A port in promiscuous mode also sees what is meant for others; the stack throws that away.
	if (!is_broadcast(ethernet->h_dest) && !is_port(ethernet->h_dest))
		return STEER_OTHER_MAC;
	if (!is_our_shelf(bpf_ntohs(aoe->shelf)))
		return STEER_OTHER_SHELF;
	return STEER_REDIRECTED;
}

// frags: without it no driver attaches us at an MTU above one page.
SEC("xdp.frags")
int xshelf_steer(struct xdp_md *ctx)
{
	__u32 reason = judge(ctx);
	int action = XDP_PASS;
	__u64 *count;

	if (reason == STEER_REDIRECTED) {
		// A socket receives only from the queue that it is bound to, hence the key. The flags are what becomes of
		// the frame when there is no socket.
		action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
		if (action != XDP_REDIRECT)
			reason = STEER_NO_SOCKET;
	}
	count = bpf_map_lookup_elem(&counters, &reason);
	if (count)
		// Each CPU has its own, and XDP is not preempted on it.
		*count += 1;
	return action;
}

// The kernel grants helpers that it keeps for GPL programs only to such a licence.
char licence[] SEC("license") = "Dual MIT/GPL";
