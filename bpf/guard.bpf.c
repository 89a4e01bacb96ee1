/*
 * guard: drops TCP packets that leave a captured pod without having passed the capture rules.
 *
 * Attach point: tc egress of the pod's links, after netfilter. Sees every outgoing packet; changes nothing.
 * The capture rules set passed_mark on each packet that they pass on purpose. If the rules are flushed, packets of the
 * application carry no mark and are dropped until the rules are restored; TCP retransmits them. The tunnel's packets to
 * applications and clients are dropped likewise, because without the rules they would arrive with wrong addresses; its
 * packets to other tunnels depend on no rules. Connections established before the guard are exempt by 4-tuple.
 * What has to be captured is the rules' decision alone. Ingress needs no guard: without answers there is no connection.
 *
 * Fails closed: a packet that cannot be parsed is dropped, unless the tunnel sent it. Every drop is counted by reason
 * (enum guard_drop). Kernel minimum: 5.10.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "guard.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/stats.h"
#include "lib/verdict.h"

#define LOOPBACK 1 /* the index of every namespace's loopback link */

volatile const __u32 tunnel_mark = 0;
volatile const __u32 tunnel_mark_mask = 0;
volatile const __u32 passed_mark = 0;
/* Host order. Packets from these ports go to applications and clients, which expect them from other addresses. */
volatile const __u16 outbound_port = 0;
volatile const __u16 inbound_port = 0;

/* Exempt connection → enum stage; filled by the loader, advanced and emptied by the program. Nothing is evicted. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1); /* set by the loader to the number of connections */
    __type(key, struct connection);
    __type(value, __u32); /* enum stage */
} cv_preexisting SEC(".maps");

/* enum guard_drop → packets; written here, read by the node agent. */
CV_COUNTERS(cv_guard_drops, GUARD_DROP_REASONS);

/* Whether a packet of the tunnel needs the rules' address translation; untranslated it would reset the connection. */
static __always_inline int needs_translation(const struct __sk_buff *skb, const struct connection *connection) {
    __u16 port = bpf_ntohs(connection->local_port);

    return skb->ifindex == LOOPBACK || port == outbound_port || port == inbound_port;
}

static __always_inline int is_preexisting(const struct connection *connection, __u8 flags) {
    __u32 *stage = bpf_map_lookup_elem(&cv_preexisting, connection);

    if (!stage)
        return 0;
    if (!(flags & TCP_SYN)) {
        *stage = STAGE_OPEN;
        return 1;
    }
    if (*stage == STAGE_OPENING)
        return 1;
    /* The exempt connection has ended; a new one reuses its ports. */
    bpf_map_delete_elem(&cv_preexisting, connection);
    return 0;
}

SEC("classifier")
int guard(struct __sk_buff *skb) {
    struct connection connection = {};
    __u8 flags = 0;
    int tunnel = (skb->mark & tunnel_mark_mask) == tunnel_mark;

    if (skb->mark & passed_mark)
        return tc_pass();
    if (skb->ifindex == LOOPBACK && !tunnel)
        return tc_pass();
    switch (find_tcp(skb, &connection, &flags)) {
    case NOT_TCP:
        return tc_pass();
    case UNREADABLE:
        return tunnel ? tc_pass() : tc_drop(&cv_guard_drops, GUARD_DROP_UNREADABLE, 0);
    case TCP:
        break;
    }
    if (tunnel && needs_translation(skb, &connection))
        return tc_drop(&cv_guard_drops, GUARD_DROP_UNTRANSLATED, flags);
    if (tunnel || is_preexisting(&connection, flags))
        return tc_pass();
    return tc_drop(&cv_guard_drops, GUARD_DROP_UNMARKED, flags);
}

char LICENSE[] SEC("license") = "Apache-2.0";
