// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Which frames are ours: AoE requests to this port and to one of our shelves go to the socket of the queue they
// arrived on; everything else goes up the stack as if we were not there. Not here: what a frame asks for. User
// space checks all of this again. A frame that is not taken is passed, but for one kind that is dropped: a request to
// a slot of ours by a host that the slot's mask keeps out. User space would drop it as well, so this may let through too
// much and must never stop what user space would admit. Besides, it tells user space who else answers for our slots.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"

#define ETHERTYPE_AOE 0x88a2
#define AOE_VERSION 1
#define AOE_RESPONSE 0x08
#define AOE_WILDCARD_SHELF 0xffff
#define AOE_CONFIG 1
#define VLAN_ID 0x0fff

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
	__type(value, struct steer_mac);
} port SEC(".maps");

// Our slots, as far as they are known one by one.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, STEER_SLOTS);
	__type(key, __u32);
	__type(value, struct steer_slot);
} slots SEC(".maps");

// Who may talk to masked slots.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, STEER_ALLOWED);
	__type(key, struct steer_talker);
	__type(value, __u8);
} allowed SEC(".maps");

// The addresses of all our ports: two of them on one switch hear each other.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, STEER_OWN);
	__type(key, struct steer_mac);
	__type(value, __u8);
} own SEC(".maps");

// What user space should know of our addresses.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, STEER_EVENT_BYTES);
} events SEC(".maps");

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
	const struct steer_mac *address = bpf_map_lookup_elem(&port, &zero);
	// By hand: clang turns comparing six bytes into a call of memcmp, and there is none here.
	const __u16 *a = (const __u16 *)mac, *b;

	if (!address)
		return 0;
	b = (const __u16 *)address->mac;
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

static __always_inline __u32 slot_key(const struct aoe_header *aoe)
{
	return (__u32)bpf_ntohs(aoe->shelf) << 8 | aoe->slot;
}

static __always_inline int is_own(const unsigned char *mac)
{
	struct steer_mac key = {};

	__builtin_memcpy(key.mac, mac, sizeof(key.mac));
	return bpf_map_lookup_elem(&own, &key) != 0;
}

static __always_inline int may_talk(__u32 slot, const unsigned char *mac)
{
	struct steer_talker key = { .slot = slot };

	__builtin_memcpy(key.mac, mac, sizeof(key.mac));
	return bpf_map_lookup_elem(&allowed, &key) != 0;
}

// Tells user space what came for a slot of ours, unless we sent it by another port or it is about a slot of the same
// address on another VLAN, which no host takes for this one.
static __always_inline void tell(const struct xdp_md *ctx, enum steer_event_kind kind, struct steer_slot *slot,
				 const unsigned char *source, const struct aoe_header *aoe, __u16 tci)
{
	__u64 now = bpf_ktime_get_ns();
	struct steer_event *event;

	if (slot->vlan != (tci & VLAN_ID) || now - slot->event_at[kind] < STEER_PAUSE_NS || is_own(source))
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		// Full of others. The next one of this slot may find room.
		return;
	// Two CPUs may both get here; then there are two events.
	slot->event_at[kind] = now;
	__builtin_memcpy(event->mac, source, sizeof(event->mac));
	event->tci = tci;
	event->slot = slot_key(aoe);
	event->ifindex = ctx->ingress_ifindex;
	event->queue = ctx->rx_queue_index;
	event->kind = kind;
	bpf_ringbuf_submit(event, 0);
}

// Why the frame is ours (STEER_REDIRECTED) or is not.
static __always_inline enum steer_reason judge(const struct xdp_md *ctx)
{
	// Of a frame in several buffers this is the first one; every driver puts the headers there.
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;
	const struct aoe_header *aoe;
	struct steer_slot *slot;
	__be16 ethertype;
	__u16 tci = 0;
	__u32 key;
	int asks;

	if ((const void *)(ethernet + 1) > end)
		return STEER_NOT_AOE;
	ethertype = ethernet->h_proto;
	aoe = (const void *)(ethernet + 1);
	if (ethertype == bpf_htons(ETH_P_8021Q)) {
		const struct vlan_tag *tag = (const void *)(ethernet + 1);

		if ((const void *)(tag + 1) > end)
			return STEER_NOT_AOE;
		ethertype = tag->ethertype;
		tci = bpf_ntohs(tag->tci);
		aoe = (const void *)(tag + 1);
	}
	if (ethertype != bpf_htons(ETHERTYPE_AOE))
		return STEER_NOT_AOE;
	if ((const void *)(aoe + 1) > end)
		return STEER_RUNT;
	// Wildcards are in no entry.
	key = slot_key(aoe);
	slot = bpf_map_lookup_elem(&slots, &key);
	// Before the version: vblade announces itself with version 0. Answers to what an xshelf asked are for that one to
	// read: they may come from somebody who asks, too, and serves nothing.
	if (slot && (aoe->version_flags & AOE_RESPONSE) && aoe->tag != bpf_htonl(STEER_GUARD_TAG))
		tell(ctx, STEER_RIVAL, slot, ethernet->h_source, aoe, tci);
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
	if (!slot)
		return STEER_REDIRECTED;
	asks = aoe->command == AOE_CONFIG && aoe->tag == bpf_htonl(STEER_GUARD_TAG);
	if (asks)
		tell(ctx, STEER_ASKS, slot, ethernet->h_source, aoe, tci);
	if (slot->masked && !may_talk(key, ethernet->h_source))
		return asks ? STEER_GUARD : STEER_MASKED;
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
	} else if (reason == STEER_MASKED) {
		action = XDP_DROP;
	}
	count = bpf_map_lookup_elem(&counters, &reason);
	if (count)
		// Each CPU has its own, and XDP is not preempted on it.
		*count += 1;
	return action;
}

// The kernel grants helpers that it keeps for GPL programs only to such a licence.
char licence[] SEC("license") = "Dual MIT/GPL";
