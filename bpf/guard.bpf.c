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
#include "lib/preexisting.h"
#include "lib/stats.h"
#include "lib/verdict.h"

#define LOOPBACK 1 /* the index of every namespace's loopback link */

volatile const __u32 tunnel_mark = 0;
volatile const __u32 tunnel_mark_mask = 0;
volatile const __u32 passed_mark = 0;
/* Host order. Packets from these ports go to applications and clients, which expect them from other addresses. */
volatile const __u16 outbound_port = 0;
volatile const __u16 inbound_port = 0;

/* enum guard_drop → packets; written here, read by the node agent. */
CV_COUNTERS(cv_guard_drops, GUARD_DROP_REASONS);

/* Whether a packet of the tunnel needs the rules' address translation; untranslated it would reset the connection. */
static __always_inline int needs_translation(const struct __sk_buff *skb, const struct connection *connection) {
    __u16 port = bpf_ntohs(connection->local_port);

    return skb->ifindex == LOOPBACK || port == outbound_port || port == inbound_port;
}

SEC("classifier")
int guard(struct __sk_buff *skb) {
    struct packet packet = {};
    int tunnel = (skb->mark & tunnel_mark_mask) == tunnel_mark;

    if (skb->mark & passed_mark)
        return tc_pass();
    if (skb->ifindex == LOOPBACK && !tunnel)
        return tc_pass();
    switch (find_transport(skb, &packet)) {
    case FOUND_UNREADABLE:
        return tunnel ? tc_pass() : tc_drop(&cv_guard_drops, GUARD_DROP_UNREADABLE, 0);
    case FOUND_TCP:
        break;
    default:
        return tc_pass();
    }
    if (tunnel && needs_translation(skb, &packet.connection))
        return tc_drop(&cv_guard_drops, GUARD_DROP_UNTRANSLATED, packet.flags);
    if (tunnel || is_preexisting(&packet.connection, packet.flags))
        return tc_pass();
    return tc_drop(&cv_guard_drops, GUARD_DROP_UNMARKED, packet.flags);
}

char LICENSE[] SEC("license") = "Apache-2.0";
