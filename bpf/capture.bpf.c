/*
 * capture: sends what a captured pod's application connects to, to the tunnel's listeners in the same pod.
 *
 * Attach points: connect, sendmsg, recvmsg and getpeername of the node's cgroup of pods. They see the address that a
 * system call names, before routing, and change address and port. Sockets of other namespaces cost one look-up.
 * What a socket was going to is remembered in its storage, so that getpeername, recvmsg and the tunnel
 * (tunnel.bpf.c) learn of it, and so that the guard (flows.bpf.c) knows what leaves on purpose.
 * A connection to a pod of the same node that the engine has allowed (cv_direct) is left as it is, and recorded when it
 * connects (direct.bpf.c).
 * Why here: no packet is rewritten, so there is no connection tracking, and the other end sees the pod's address.
 *
 * The tunnel is reached at the pod's own address: at 127.0.0.1 getsockname would change, and a socket that is bound to
 * a link could not reach it. DNS is the exception, because the tunnel answers it on loopback.
 *
 * Fails closed: a connection that must be captured and whose destination cannot be remembered is refused (EPERM). What
 * has no address of the pod to go by is left to the kernel, which has no route for it, and to the guard. Kernel
 * minimum: 5.15.
 */
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "lib/addr.h"
#include "lib/direct_flow.h"
#include "lib/plan.h"

#define AF_INET 2
#define SOCK_STREAM 1
#define DNS_SERVER_PORT 53
#define REFUSE 0
#define PROCEED 1

volatile const __u32 tunnel_mark = 0;
volatile const __u32 tunnel_mark_mask = 0;
/* Host order. */
volatile const __u16 outbound_port = 0;
volatile const __u16 dns_port = 0;

/* Direct connections at a time; 0: none. */
volatile const __u64 direct_limit = 0;

static __always_inline int count(__u32 reason, int verdict) {
    stats_count(&cv_captures, reason);
    return verdict;
}

static __always_inline void read_v4(const struct bpf_sock_addr *ctx, struct destination *to) {
    addr_from_ipv4(to->address, ctx->user_ip4);
    to->port = ctx->user_port;
}

static __always_inline void read_v6(const struct bpf_sock_addr *ctx, struct destination *to) {
    __u32 *words = (__u32 *)to->address;

    words[0] = ctx->user_ip6[0];
    words[1] = ctx->user_ip6[1];
    words[2] = ctx->user_ip6[2];
    words[3] = ctx->user_ip6[3];
    to->port = ctx->user_port;
}

static __always_inline void write_v4(struct bpf_sock_addr *ctx, const __u8 *address, __be16 port) {
    ctx->user_ip4 = ((const __u32 *)address)[3];
    ctx->user_port = port;
}

static __always_inline void write_v6(struct bpf_sock_addr *ctx, const __u8 *address, __be16 port) {
    const __u32 *words = (const __u32 *)address;

    ctx->user_ip6[0] = words[0];
    ctx->user_ip6[1] = words[1];
    ctx->user_ip6[2] = words[2];
    ctx->user_ip6[3] = words[3];
    ctx->user_port = port;
}

static __always_inline void write(struct bpf_sock_addr *ctx, int v6, const __u8 *address, __be16 port) {
    if (v6)
        write_v6(ctx, address, port);
    else
        write_v4(ctx, address, port);
}

/* What a plan wants of a destination; the first rule that applies decides, in the order of the other backends. */
static __always_inline __u16 treat(struct bpf_sock_addr *ctx, const struct pod_plan *plan, __u64 netns,
                                   const struct destination *to) {
    __u32 bits = plan_range(plan, netns, to->address);
    __u16 port = bpf_ntohs(to->port);

    if (bits & RANGE_LOCAL)
        return TREAT_LOCAL;
    if (plan_excludes_link(plan, ctx->sk->bound_dev_if) || bits & RANGE_PROBES)
        return TREAT_PASS;
    if (plan_lists(plan, netns, port, PORT_OUTBOUND_NEVER))
        return TREAT_PASS;
    if (plan->flags & POD_DNS && port == DNS_SERVER_PORT)
        return TREAT_DNS;
    if (ctx->protocol != IPPROTO_TCP)
        return TREAT_LOCAL;
    if (bits & RANGE_EXCLUDED)
        return TREAT_PASS;
    if (!(plan->flags & POD_OUTBOUND_LISTED) || bits & RANGE_ONLY || plan_lists(plan, netns, port, PORT_OUTBOUND_ONLY))
        return TREAT_CAPTURE;
    return TREAT_PASS;
}

static __always_inline int is_empty(const __u8 *address) {
    const __u64 *halves = (const __u64 *)address;

    return !halves[0] && !halves[1];
}

static __always_inline int is_v4(const __u8 *address) {
    const __u32 *words = (const __u32 *)address;

    return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

static __always_inline int remember(struct bpf_sock_addr *ctx, struct destination *to) {
    struct destination *kept = bpf_sk_storage_get(&cv_sockets, ctx->sk, to, BPF_SK_STORAGE_GET_F_CREATE);

    if (!kept)
        return 0;
    *kept = *to;
    return 1;
}

static __always_inline int to_dns(struct bpf_sock_addr *ctx, struct destination *to, int v6) {
    __u8 loopback[16] = {};

    if (is_v4(to->address))
        addr_from_ipv4(loopback, bpf_htonl(INADDR_LOOPBACK));
    else
        loopback[15] = 1;
    if (!remember(ctx, to))
        return count(CAPTURE_REFUSED_NO_STORAGE, REFUSE);
    write(ctx, v6, loopback, bpf_htons(dns_port));
    return count(CAPTURE_DNS, PROCEED);
}

static __always_inline int to_tunnel(struct bpf_sock_addr *ctx, const struct pod_plan *plan, struct destination *to,
                                     int v6) {
    const __u8 *tunnel = is_v4(to->address) ? plan->address_v4 : plan->address_v6;

    if (is_empty(tunnel)) {
        bpf_sk_storage_delete(&cv_sockets, ctx->sk);
        return count(CAPTURE_REFUSED_NO_ADDRESS, PROCEED);
    }
    if (!remember(ctx, to))
        return count(CAPTURE_REFUSED_NO_STORAGE, REFUSE);
    write(ctx, v6, tunnel, bpf_htons(outbound_port));
    return count(CAPTURE_OUTBOUND, PROCEED);
}

static __always_inline int direct_is_full(void) {
    __u32 key = FLOW_TABLE_USED;
    __u64 *used = bpf_map_lookup_elem(&cv_flow_table, &key);

    return !used || *used >= direct_limit;
}

/* Whether the socket will be seen to connect from `source`; most are bound to no address yet. */
static __always_inline int comes_from(struct bpf_sock_addr *ctx, const __u8 *source) {
    __u8 bound[16] __attribute__((aligned(8))) = {};
    struct bpf_sock *sk = ctx->sk;

    ADDR_READ(bound, sk, src);
    if (is_empty(bound) || (is_v4(bound) && !((const __u32 *)bound)[3]))
        return 1;
    return direct_same_address(bound, source);
}

/* Choose an endpoint by weight, as the tunnel does; where a service is not known, the address itself is the endpoint.
 */
static __always_inline void choose(__u64 netns, const struct destination *to, struct direct_endpoint *chosen) {
    struct direct_key key = {.netns = netns, .port = bpf_ntohs(to->port)};
    struct direct_service *service;
    __u32 ticket;

    __builtin_memcpy(key.address, to->address, sizeof(key.address));
    __builtin_memcpy(chosen->address, to->address, sizeof(chosen->address));
    chosen->port = key.port;
    service = bpf_map_lookup_elem(&cv_services, &key);
    if (!service)
        return;
    ticket = ((__u64)bpf_get_prandom_u32() * service->shares) >> 32;
    for (__u32 number = 0; number < DIRECT_ENDPOINTS; number++) {
        if (number >= service->count)
            break;
        if (ticket < service->endpoints[number].share_end) {
            *chosen = service->endpoints[number];
            return;
        }
    }
}

/*
 * Send the connection directly where the engine has allowed it and nothing of either pod is against it; else 0. A
 * service's connection for which an endpoint is chosen that is not direct is the tunnel's, which chooses among such
 * endpoints only.
 */
static __always_inline int to_peer(struct bpf_sock_addr *ctx, const struct pod_plan *plan, __u64 netns,
                                   struct destination *to, int v6) {
    int v4 = is_v4(to->address);
    struct direct_endpoint chosen = {};
    struct direct_verdict *verdict;
    struct pod_plan *peer;
    __u64 peer_netns;

    if (!direct_limit || ctx->type != SOCK_STREAM)
        return 0;
    choose(netns, to, &chosen);
    verdict = direct_verdict_of(netns, chosen.address, chosen.port);
    if (!verdict || !direct_fits(plan, verdict->source, v4) || !comes_from(ctx, verdict->source))
        return 0;
    peer_netns = verdict->destination_netns;
    peer = bpf_map_lookup_elem(&cv_pods, &peer_netns);
    if (!peer || !direct_fits(peer, chosen.address, v4))
        return 0;
    if (direct_is_full()) {
        stats_count(&cv_flow_counts, DIRECT_COUNT_FULL);
        return 0;
    }
    to->treatment = TREAT_DIRECT;
    if (!remember(ctx, to)) {
        to->treatment = TREAT_CAPTURE;
        return 0;
    }
    write(ctx, v6, chosen.address, bpf_htons(chosen.port));
    return 1;
}

/* `connecting`: else one datagram is sent, and what an earlier one has left is still good for its answer. */
static __always_inline int outbound(struct bpf_sock_addr *ctx, int v6, int connecting) {
    __u64 netns = bpf_get_netns_cookie(ctx);
    struct pod_plan *plan = bpf_map_lookup_elem(&cv_pods, &netns);
    struct destination to = {};

    if (!plan || (ctx->sk->mark & tunnel_mark_mask) == tunnel_mark)
        return PROCEED;
    if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
        return PROCEED;
    if (v6)
        read_v6(ctx, &to);
    else
        read_v4(ctx, &to);
    to.treatment = plan->flags & POD_CAPTURE ? treat(ctx, plan, netns, &to) : TREAT_LOCAL;
    if (to.treatment == TREAT_DNS)
        return to_dns(ctx, &to, v6);
    if (to.treatment == TREAT_CAPTURE && connecting && to_peer(ctx, plan, netns, &to, v6))
        return PROCEED;
    if (to.treatment == TREAT_CAPTURE)
        return to_tunnel(ctx, plan, &to, v6);
    /* The socket may have been captured before: what it was going to then must not be told of this connection. */
    if (connecting)
        bpf_sk_storage_delete(&cv_sockets, ctx->sk);
    if (to.treatment == TREAT_PASS && ctx->protocol == IPPROTO_TCP) {
        if (!remember(ctx, &to))
            return count(CAPTURE_REFUSED_NO_STORAGE, REFUSE);
        stats_count(&cv_captures, CAPTURE_PASSED);
    }
    return PROCEED;
}

static __always_inline const struct destination *captured(struct bpf_sock_addr *ctx) {
    struct destination *kept = bpf_sk_storage_get(&cv_sockets, ctx->sk, 0, 0);

    if (kept && (kept->treatment == TREAT_CAPTURE || kept->treatment == TREAT_DNS || kept->treatment == TREAT_DIRECT))
        return kept;
    return 0;
}

SEC("cgroup/connect4")
int cv_connect4(struct bpf_sock_addr *ctx) { return outbound(ctx, 0, 1); }

SEC("cgroup/connect6")
int cv_connect6(struct bpf_sock_addr *ctx) { return outbound(ctx, 1, 1); }

SEC("cgroup/sendmsg4")
int cv_sendmsg4(struct bpf_sock_addr *ctx) { return outbound(ctx, 0, 0); }

SEC("cgroup/sendmsg6")
int cv_sendmsg6(struct bpf_sock_addr *ctx) { return outbound(ctx, 1, 0); }

/* The peer is what the application connected to. */
SEC("cgroup/getpeername4")
int cv_getpeername4(struct bpf_sock_addr *ctx) {
    const struct destination *to = captured(ctx);

    if (to)
        write_v4(ctx, to->address, to->port);
    return PROCEED;
}

SEC("cgroup/getpeername6")
int cv_getpeername6(struct bpf_sock_addr *ctx) {
    const struct destination *to = captured(ctx);

    if (to)
        write_v6(ctx, to->address, to->port);
    return PROCEED;
}

/* An answer comes from the resolver that was queried; clients ignore one from elsewhere. */
SEC("cgroup/recvmsg4")
int cv_recvmsg4(struct bpf_sock_addr *ctx) {
    const struct destination *to;

    if (ctx->user_port != bpf_htons(dns_port) || ctx->user_ip4 != bpf_htonl(INADDR_LOOPBACK))
        return PROCEED;
    to = captured(ctx);
    if (to)
        write_v4(ctx, to->address, to->port);
    return PROCEED;
}

SEC("cgroup/recvmsg6")
int cv_recvmsg6(struct bpf_sock_addr *ctx) {
    const struct destination *to;

    if (ctx->user_port != bpf_htons(dns_port))
        return PROCEED;
    to = captured(ctx);
    if (to)
        write_v6(ctx, to->address, to->port);
    return PROCEED;
}

char LICENSE[] SEC("license") = "Apache-2.0";
