/*
 * tunnel: answers the tunnel where a captured connection was going, and finds its listeners.
 *
 * Attach points: getsockopt and sock_ops of the tunnel's own cgroup, so that no other process pays for them.
 *
 * cv_getsockopt sees SO_ORIGINAL_DST after the kernel, which knows of no redirection. For a connection to
 * the outbound or the DNS port, the answer is what the client's hook (capture.bpf.c) has remembered; for one that was
 * handed over by inbound.bpf.c, it is the socket's own address, because nothing was rewritten. A UDP socket that is
 * connected to a client is answered for that client's last query. Fails closed: without an answer the kernel's error
 * stays, and the tunnel refuses the connection.
 *
 * cv_listening sees listen(), and keeps the listeners for plain text, for inbound.bpf.c to choose from.
 * Kernel minimum: 5.15.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "lib/addr.h"
#include "lib/plan.h"

#define AF_INET 2
#define AF_INET6 10
#define ORIGINAL_DST 80 /* SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST */
#define PROCEED 1

/* Host order. */
volatile const __u16 outbound_port = 0;
volatile const __u16 inbound_port = 0;
volatile const __u16 dns_port = 0;

/* Where the connection of a tunnel's socket was going; 0 where that is unknown. */
static __always_inline int find(struct bpf_sockopt *ctx, struct destination *to) {
    struct client client = {.netns = bpf_get_netns_cookie(ctx), .protocol = ctx->sk->protocol};
    struct destination *origin;
    __u32 port = ctx->sk->src_port;

    if (client.protocol == IPPROTO_TCP && port != outbound_port && port != dns_port) {
        ADDR_READ(to->address, ctx->sk, src);
        to->port = bpf_htons(port);
        /* The kernel may know of a redirection that rules have made. */
        return ctx->retval && port != inbound_port;
    }
    ADDR_READ(client.address, ctx->sk, dst);
    client.port = ctx->sk->dst_port;
    origin = bpf_map_lookup_elem(&cv_origins, &client);
    if (!origin)
        return 0;
    *to = *origin;
    return 1;
}

/* The compiler must not write both fields at once: the verifier refuses a write that is wider than a field. */
static __always_inline int succeed(struct bpf_sockopt *ctx, __s32 length) {
    ctx->optlen = length;
    barrier();
    ctx->retval = 0;
    return PROCEED;
}

static __always_inline int answer_v4(struct bpf_sockopt *ctx, const struct destination *to) {
    const __u32 *words = (const __u32 *)to->address;
    struct sockaddr_in *answer = ctx->optval;

    if ((void *)(answer + 1) > ctx->optval_end || words[2] != bpf_htonl(0xffff) || words[0] || words[1])
        return PROCEED;
    __builtin_memset(answer, 0, sizeof(*answer));
    answer->sin_family = AF_INET;
    answer->sin_port = to->port;
    answer->sin_addr.s_addr = words[3];
    return succeed(ctx, sizeof(*answer));
}

static __always_inline int answer_v6(struct bpf_sockopt *ctx, const struct destination *to) {
    struct sockaddr_in6 *answer = ctx->optval;

    if ((void *)(answer + 1) > ctx->optval_end)
        return PROCEED;
    __builtin_memset(answer, 0, sizeof(*answer));
    answer->sin6_family = AF_INET6;
    answer->sin6_port = to->port;
    __builtin_memcpy(&answer->sin6_addr, to->address, sizeof(to->address));
    return succeed(ctx, sizeof(*answer));
}

SEC("cgroup/getsockopt")
int cv_getsockopt(struct bpf_sockopt *ctx) {
    struct destination to = {};

    if (ctx->optname != ORIGINAL_DST || (ctx->level != IPPROTO_IP && ctx->level != IPPROTO_IPV6))
        return PROCEED;
    if (!find(ctx, &to))
        return PROCEED;
    return ctx->level == IPPROTO_IP ? answer_v4(ctx, &to) : answer_v6(ctx, &to);
}

SEC("sockops")
int cv_listening(struct bpf_sock_ops *ctx) {
    struct listener_slot key = {};

    if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB || ctx->local_port != inbound_port)
        return PROCEED;
    key.netns = bpf_get_netns_cookie(ctx);
    for (__u32 slot = 0; slot < LISTENER_SLOTS; slot++) {
        key.slot = slot;
        if (!bpf_sock_hash_update(ctx, &cv_listeners, &key, BPF_NOEXIST))
            break;
    }
    return PROCEED;
}

char LICENSE[] SEC("license") = "Apache-2.0";
