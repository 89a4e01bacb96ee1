/*
 * flows: what the capture by BPF needs at the links of a pod. Attach point: tc; an instance for each pod.
 *
 * cv_loopback, on what leaves by the loopback link: a packet that enters the tunnel tells where its socket was going
 * (cv_origins); the kernel chooses the client's port only after the hooks of capture.bpf.c. It drops nothing.
 *
 * cv_arrival, on what arrives there: notes what may begin a connection for inbound.bpf.c, which leaves connections
 * within the pod alone, the tunnel's to the application above all. And what the tunnel sends to the application gets
 * the mark by which the answers are routed back to it (with tcp_fwmark_accept and fwmark_reflect), because the tunnel
 * connects from its client's address. It drops nothing; without it, connections within the pod are handed to the
 * tunnel, which refuses them.
 *
 * cv_outside, on what arrives by every other link: removes the note that an earlier packet may have left. It drops
 * nothing; without it, the guard drops the answer to a packet that has the addresses of that earlier one.
 *
 * cv_guard, on what leaves by every other link: drops TCP of the application that no hook has passed. Its sockets are
 * asked: one that leaves on purpose has been noted (TREAT_PASS), a captured one never comes here. Accepted connections
 * are judged by the plan once, and noted. Direct connections (direct.bpf.c) pass in both directions if they are
 * recorded. What carries neither data nor a new connection is let pass. Connections that are older than the guard are
 * exempt by 4-tuple. So a process that the hooks do not see gets nothing out, nor does anything while the hooks are
 * missing. Fails closed: a packet that cannot be parsed is dropped. Every drop is counted (enum guard_drop). Kernel
 * minimum: 5.10.
 */
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "guard.h"
#include "lib/direct_flow.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/plan.h"
#include "lib/preexisting.h"
#include "lib/stats.h"
#include "lib/verdict.h"

volatile const __u64 netns = 0;
volatile const __u32 tunnel_mark = 0;
volatile const __u32 tunnel_mark_mask = 0;
volatile const __u32 reply_mark = 0;
volatile const __u32 reply_mark_mask = 0;
/* Host order. */
volatile const __u16 outbound_port = 0;
volatile const __u16 hbone_port = 0;
volatile const __u16 dns_port = 0;

/* enum guard_drop → packets; written here, read by the node agent. */
CV_COUNTERS(cv_guard_drops, GUARD_DROP_REASONS);

static __always_inline int is_tunnels(const struct __sk_buff *skb) {
    return (skb->mark & tunnel_mark_mask) == tunnel_mark;
}

/* What is remembered of the packet's socket, if it is a whole one. */
static __always_inline struct destination *remembered(struct bpf_sock *sk) {
    return sk ? bpf_sk_storage_get(&cv_sockets, sk, 0, 0) : 0;
}

static __always_inline struct bpf_sock *whole_socket(struct __sk_buff *skb) {
    struct bpf_sock *sk = skb->sk;

    return sk ? bpf_sk_fullsock(sk) : 0;
}

static __always_inline void note_origin(struct __sk_buff *skb, const struct packet *packet, __u16 protocol) {
    struct client client = {.netns = netns, .port = packet->connection.local_port, .protocol = protocol};
    struct destination *to = remembered(whole_socket(skb));

    __builtin_memcpy(client.address, packet->connection.local, sizeof(client.address));
    /* Never the answer of an earlier connection from this port. */
    if (to && (to->treatment == TREAT_CAPTURE || to->treatment == TREAT_DNS))
        bpf_map_update_elem(&cv_origins, &client, to, BPF_ANY);
    else
        bpf_map_delete_elem(&cv_origins, &client);
}

SEC("classifier")
int cv_loopback(struct __sk_buff *skb) {
    struct packet packet = {};
    __u16 port;

    if (is_tunnels(skb) || glance(skb) != GLANCE_UNKNOWN)
        return tc_pass();
    switch (find_transport(skb, &packet)) {
    case FOUND_TCP:
        port = bpf_ntohs(packet.connection.remote_port);
        if ((packet.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && (port == outbound_port || port == dns_port))
            note_origin(skb, &packet, IPPROTO_TCP);
        break;
    case FOUND_UDP:
        if (packet.connection.remote_port == bpf_htons(dns_port))
            note_origin(skb, &packet, IPPROTO_UDP);
        break;
    default:
        break;
    }
    return tc_pass();
}

SEC("classifier")
int cv_arrival(struct __sk_buff *skb) {
    struct packet packet = {};
    struct arrival *arrival;
    __u32 here = 0;

    if (is_tunnels(skb))
        skb->mark = (skb->mark & ~reply_mark_mask) | reply_mark;
    if (glance(skb) == GLANCE_DATA)
        return tc_pass();
    /* The end of a handshake looks for a listener too, where the kernel has sent a SYN cookie. */
    if (find_transport(skb, &packet) != FOUND_TCP || packet.payload || packet.flags & TCP_RST)
        return tc_pass();
    arrival = bpf_map_lookup_elem(&cv_arrivals, &here);
    if (!arrival)
        return tc_pass();
    /* The packet's sender is `local` in its own view. */
    arrival->netns = netns;
    __builtin_memcpy(arrival->remote, packet.connection.local, sizeof(arrival->remote));
    arrival->remote_port = bpf_ntohs(packet.connection.local_port);
    arrival->local_port = bpf_ntohs(packet.connection.remote_port);
    return tc_pass();
}

SEC("classifier")
int cv_outside(struct __sk_buff *skb) {
    struct arrival *arrival;
    __u32 here = 0;

    if (glance(skb) == GLANCE_DATA)
        return tc_pass();
    arrival = bpf_map_lookup_elem(&cv_arrivals, &here);
    if (arrival)
        arrival->netns = 0;
    return tc_pass();
}

/* Whether the plan lets the application answer; noted, so that a change of the plan leaves open connections alone. */
static __always_inline int may_answer(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *packet) {
    struct destination noted = {.treatment = TREAT_PASS};
    __u64 key = netns;
    struct pod_plan *plan = bpf_map_lookup_elem(&cv_pods, &key);
    __u16 port = bpf_ntohs(packet->connection.local_port);

    if (!plan || !plan_passes_inbound(plan, netns, port, packet->connection.remote, skb->ifindex, hbone_port))
        return 0;
    if (sk && sk->state != BPF_TCP_LISTEN)
        bpf_sk_storage_get(&cv_sockets, sk, &noted, BPF_SK_STORAGE_GET_F_CREATE);
    return 1;
}

/* Whether the packet is of a direct connection that is recorded: its client's, or the destination's answer. */
static __always_inline int is_direct(const struct connection *connection) {
    struct connection as_client = {};
    struct direct_flow *flow = direct_flow_of(connection);

    if (flow && flow->source_netns == netns)
        return 1;
    connection_reverse(&as_client, connection);
    flow = direct_flow_of(&as_client);
    return flow && flow->destination_netns == netns;
}

SEC("classifier")
int cv_guard(struct __sk_buff *skb) {
    struct packet packet = {};
    struct destination *to;
    struct bpf_sock *sk;

    if (is_tunnels(skb))
        return tc_pass();
    switch (find_transport(skb, &packet)) {
    case FOUND_TCP:
        break;
    case FOUND_UNREADABLE:
        return tc_drop(&cv_guard_drops, GUARD_DROP_UNREADABLE, 0);
    default:
        return tc_pass();
    }
    sk = whole_socket(skb);
    to = remembered(sk);
    if (to && to->treatment == TREAT_PASS)
        return tc_pass();
    if (to && to->treatment == TREAT_DIRECT && !(packet.flags & TCP_SYN))
        return tc_pass();
    if (!(packet.flags & (TCP_SYN | TCP_FIN)) && !packet.payload)
        return tc_pass();
    if (is_preexisting(&packet.connection, packet.flags))
        return tc_pass();
    if ((packet.flags & (TCP_SYN | TCP_ACK)) != TCP_SYN && may_answer(skb, sk, &packet))
        return tc_pass();
    if (is_direct(&packet.connection))
        return tc_pass();
    return tc_drop(&cv_guard_drops, GUARD_DROP_UNMARKED, packet.flags);
}

char LICENSE[] SEC("license") = "Apache-2.0";
