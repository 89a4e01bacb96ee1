/*
 * direct: records connections that capture.bpf.c sends directly to a pod of this node, from before the SYN to the end.
 *
 * Attach point: sock_ops of the node's cgroup of pods. Sees connections of both ends begin, and those that it has
 * recorded end; changes nothing of them. A record tells the destination (inbound.bpf.c) whose SYN it is: the kernel
 * knows the client's namespace, so a SYN without a record, from a raw socket or another machine, goes to the tunnel's
 * listener. A record is good for one connection: it is consumed at the destination when the handshake is complete, and
 * deleted when the client's socket closes.
 * Why here: at TCP_CONNECT_CB addresses and ports are final, and nothing has been sent yet.
 *
 * Fails closed: what cannot be recorded is held back by the guard (flows.bpf.c). Kernel minimum: 5.15.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "direct.h"
#include "lib/addr.h"
#include "lib/direct_flow.h"
#include "lib/plan.h"

#define PROCEED 1

static __always_inline void read_connection(struct bpf_sock_ops *ctx, struct connection *connection) {
    ADDR_READ(connection->local, ctx, local);
    ADDR_READ(connection->remote, ctx, remote);
    connection->local_port = bpf_htons(ctx->local_port);
    connection->remote_port = bpf_htons(bpf_ntohl(ctx->remote_port));
}

/* Without a record, the guard must not take a socket for that of a direct connection. */
static __always_inline int give_up(struct destination *kept) {
    kept->treatment = TREAT_LOCAL;
    stats_count(&cv_flow_counts, DIRECT_COUNT_UNRECORDED);
    return PROCEED;
}

static __always_inline int connecting(struct bpf_sock_ops *ctx) {
    struct connection connection = {};
    struct direct_flow flow = {.began = bpf_ktime_get_ns(), .cookie = bpf_get_socket_cookie(ctx)};
    struct direct_verdict *verdict;
    struct destination *kept;
    struct bpf_sock *sk = ctx->sk;

    if (!sk)
        return PROCEED;
    kept = bpf_sk_storage_get(&cv_sockets, sk, 0, 0);
    if (!kept || kept->treatment != TREAT_DIRECT)
        return PROCEED;
    read_connection(ctx, &connection);
    flow.source_netns = bpf_get_netns_cookie(ctx);
    verdict = direct_verdict_of(flow.source_netns, connection.remote, bpf_ntohs(connection.remote_port));
    if (!verdict || !direct_same_address(verdict->source, connection.local))
        return give_up(kept);
    flow.destination_netns = verdict->destination_netns;
    __builtin_memcpy(flow.target, kept->address, sizeof(flow.target));
    flow.target_port = kept->port;
    /* An older record of the same addresses has outlived its socket. */
    if (!bpf_map_delete_elem(&cv_flows, &connection))
        direct_account(-1);
    if (bpf_map_update_elem(&cv_flows, &connection, &flow, BPF_NOEXIST))
        return give_up(kept);
    direct_account(1);
    bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
    stats_count(&cv_flow_counts, DIRECT_COUNT_CONNECTED);
    return PROCEED;
}

static __always_inline void report(struct bpf_sock_ops *ctx, const struct connection *as_client,
                                   const struct direct_flow *flow, __u32 kind) {
    struct direct_event event = {.connection = *as_client, .kind = kind, .flow = *flow, .at = bpf_ktime_get_ns()};

    if (kind == DIRECT_CLOSED) {
        event.to_destination = ctx->bytes_acked;
        event.to_client = ctx->bytes_received;
    }
    if (bpf_map_push_elem(&cv_flow_events, &event, 0))
        stats_count(&cv_flow_counts, DIRECT_COUNT_LOST);
}

static __always_inline int connected(struct bpf_sock_ops *ctx) {
    struct connection connection = {};
    struct direct_flow *flow;

    read_connection(ctx, &connection);
    flow = direct_flow_of(&connection);
    if (!flow || flow->cookie != bpf_get_socket_cookie(ctx))
        return PROCEED;
    flow->opened = bpf_ktime_get_ns();
    report(ctx, &connection, flow, DIRECT_OPENED);
    return PROCEED;
}

/* The record is marked first and the verdict read then: the engine removes a verdict first and reads the records then.
 */
static __always_inline int accepted(struct bpf_sock_ops *ctx) {
    struct connection connection = {}, as_client = {};
    struct destination noted = {.treatment = TREAT_PASS};
    struct direct_flow *flow;
    struct bpf_sock *sk = ctx->sk;

    read_connection(ctx, &connection);
    connection_reverse(&as_client, &connection);
    flow = direct_flow_of(&as_client);
    if (!flow || flow->state != DIRECT_OPENING || flow->destination_netns != bpf_get_netns_cookie(ctx))
        return PROCEED;
    flow->state = DIRECT_OPEN;
    if (sk)
        bpf_sk_storage_get(&cv_sockets, sk, &noted, BPF_SK_STORAGE_GET_F_CREATE);
    if (!direct_verdict_of(flow->source_netns, connection.local, bpf_ntohs(connection.local_port)))
        report(ctx, &as_client, flow, DIRECT_FORBIDDEN);
    return PROCEED;
}

static __always_inline int changing(struct bpf_sock_ops *ctx) {
    struct connection connection = {};
    __u32 before = ctx->args[0], now = ctx->args[1];
    struct direct_flow *flow;

    read_connection(ctx, &connection);
    flow = direct_flow_of(&connection);
    if (!flow || flow->cookie != bpf_get_socket_cookie(ctx))
        return PROCEED;
    if (now == BPF_TCP_FIN_WAIT2) {
        flow->ending |= ENDING_FIN_ACKED;
        flow->received = ctx->bytes_received;
    }
    if (now == BPF_TCP_CLOSE_WAIT || now == BPF_TCP_CLOSING)
        flow->ending |= ENDING_FIN_RECEIVED;
    if (now != BPF_TCP_CLOSE)
        return PROCEED;
    if (before == BPF_TCP_LAST_ACK || before == BPF_TCP_CLOSING)
        flow->ending |= ENDING_FIN_ACKED;
    /* From this state the end of the wait for the other side's FIN looks the same, with no byte more than then. */
    if (before == BPF_TCP_FIN_WAIT2 && ctx->bytes_received != flow->received)
        flow->ending |= ENDING_FIN_RECEIVED;
    report(ctx, &connection, flow, DIRECT_CLOSED);
    if (!bpf_map_delete_elem(&cv_flows, &connection))
        direct_account(-1);
    return PROCEED;
}

SEC("sockops")
int cv_direct_ops(struct bpf_sock_ops *ctx) {
    switch (ctx->op) {
    case BPF_SOCK_OPS_TCP_CONNECT_CB:
        return connecting(ctx);
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
        return connected(ctx);
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
        return accepted(ctx);
    case BPF_SOCK_OPS_STATE_CB:
        return changing(ctx);
    default:
        return PROCEED;
    }
}

char LICENSE[] SEC("license") = "Apache-2.0";
