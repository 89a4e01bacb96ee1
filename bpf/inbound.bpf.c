/*
 * inbound: hands connections that reach a captured pod from outside to the tunnel's listener.
 *
 * Attach point: sk_lookup of the pod's namespace; one instance for each pod, because the hook cannot tell namespaces
 * apart. Sees a SYN before a listener is chosen, and chooses one. The accepted socket has the real addresses of both
 * ends. Connections within the pod, the tunnel's own included, are left alone: they arrive on the loopback link. The
 * kernel tells this hook the link that has the address, not the link that the packet arrived on, so flows.bpf.c writes
 * arrivals on loopback into cv_arrivals. This hook uses an entry once; a packet from outside clears it. Direct
 * connections (direct.bpf.c) are left to the application's own listener.
 *
 * Fails closed: what must be captured while the tunnel does not listen is refused. Kernel minimum: 5.17 (the link on
 * which a packet from outside has arrived).
 */
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "lib/addr.h"
#include "lib/direct_flow.h"
#include "lib/plan.h"

volatile const __u64 netns = 0;
volatile const __u16 hbone_port = 0; /* host order */

static __always_inline int hand_over(struct bpf_sk_lookup *ctx) {
    struct listener_slot key = {.netns = netns};

    for (__u32 slot = 0; slot < LISTENER_SLOTS; slot++) {
        struct bpf_sock *listener;
        long refused;

        key.slot = slot;
        listener = bpf_map_lookup_elem(&cv_listeners, &key);
        if (!listener)
            continue;
        /* Of listeners that share the port, the kernel chooses one by itself. */
        refused = bpf_sk_assign(ctx, listener, 0);
        bpf_sk_release(listener);
        if (!refused) {
            stats_count(&cv_captures, CAPTURE_INBOUND);
            return SK_PASS;
        }
    }
    stats_count(&cv_captures, CAPTURE_REFUSED_NO_LISTENER);
    return SK_DROP;
}

/* Whether the SYN has come from the pod itself. */
static __always_inline int is_from_within(const struct bpf_sk_lookup *ctx, const __u8 *remote) {
    const __u64 *halves = (const __u64 *)remote, *noted;
    struct arrival *arrival;
    __u32 here = 0;

    arrival = bpf_map_lookup_elem(&cv_arrivals, &here);
    if (!arrival || arrival->netns != netns)
        return 0;
    noted = (const __u64 *)arrival->remote;
    if (noted[0] != halves[0] || noted[1] != halves[1])
        return 0;
    if (arrival->remote_port != bpf_ntohs(ctx->remote_port) || arrival->local_port != ctx->local_port)
        return 0;
    arrival->netns = 0;
    return 1;
}

enum direct { DIRECT_NOT, DIRECT_ALLOWED, DIRECT_DENIED };

/*
 * Whether the SYN is of a direct connection that is recorded, and whether policy still allows it. If it does not, the
 * SYN is refused: as plain text, for the tunnel's listener, it would come without the identity that policy denies.
 */
static __always_inline enum direct find_direct(const struct bpf_sk_lookup *ctx, const __u8 *remote) {
    struct connection as_client = {};
    struct direct_flow *flow;
    __u64 source;

    __builtin_memcpy(as_client.local, remote, sizeof(as_client.local));
    ADDR_READ(as_client.remote, ctx, local);
    as_client.local_port = ctx->remote_port;
    as_client.remote_port = bpf_htons(ctx->local_port);
    flow = direct_flow_of(&as_client);
    if (!flow || flow->state != DIRECT_OPENING || flow->destination_netns != netns)
        return DIRECT_NOT;
    source = flow->source_netns;
    if (bpf_map_lookup_elem(&cv_pods, &source) && direct_verdict_of(source, as_client.remote, ctx->local_port))
        return DIRECT_ALLOWED;
    stats_count(&cv_flow_counts, DIRECT_COUNT_FORBIDDEN);
    return DIRECT_DENIED;
}

SEC("sk_lookup")
int cv_inbound(struct bpf_sk_lookup *ctx) {
    __u64 key = netns;
    struct pod_plan *plan;
    __u8 remote[16] __attribute__((aligned(8))) = {};

    if (ctx->protocol != IPPROTO_TCP)
        return SK_PASS;
    plan = bpf_map_lookup_elem(&cv_pods, &key);
    if (!plan)
        return SK_PASS;
    ADDR_READ(remote, ctx, remote);
    if (is_from_within(ctx, remote))
        return SK_PASS;
    switch (find_direct(ctx, remote)) {
    case DIRECT_ALLOWED:
        return SK_PASS;
    case DIRECT_DENIED:
        return SK_DROP;
    default:
        break;
    }
    if (plan_passes_inbound(plan, netns, ctx->local_port, remote, ctx->ingress_ifindex, hbone_port))
        return SK_PASS;
    return hand_over(ctx);
}

char LICENSE[] SEC("license") = "Apache-2.0";
