/*
 * adopt: finds the tunnel's listener in a pod where it was opened before tunnel.bpf.c could see it.
 *
 * Attach point: none; the node agent runs it once (BPF_PROG_TEST_RUN) on a thread inside the pod's namespace, as if a
 * packet were on its loopback link. Changes nothing where a listener is known. Its failure leaves the pod's connections
 * from outside refused until the tunnel listens again. Kernels that forbid such programs to fill cv_listeners refuse to
 * load it (7.3 and later). Kernel minimum: 5.10.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "lib/addr.h"
#include "lib/plan.h"

volatile const __u64 netns = 0;
volatile const __u16 inbound_port = 0; /* host order */

#define ANY_PORT 9 /* no peer ever sends from it (RFC 863) */
#define NOT_FOUND TC_ACT_SHOT
#define FOUND TC_ACT_OK

static __always_inline int is_known(void) {
    struct listener_slot key = {.netns = netns};
    struct bpf_sock *sk;

    for (__u32 slot = 0; slot < LISTENER_SLOTS; slot++) {
        key.slot = slot;
        sk = bpf_map_lookup_elem(&cv_listeners, &key);
        if (sk) {
            bpf_sk_release(sk);
            return 1;
        }
    }
    return 0;
}

/* The look-up runs inbound.bpf.c, which must take it for a connection within the pod. */
static __always_inline void announce(const __u8 *address) {
    __u32 here = 0;
    struct arrival *arrival = bpf_map_lookup_elem(&cv_arrivals, &here);

    if (!arrival)
        return;
    arrival->netns = netns;
    __builtin_memcpy(arrival->remote, address, sizeof(arrival->remote));
    arrival->remote_port = ANY_PORT;
    arrival->local_port = inbound_port;
}

static __always_inline int keep(struct bpf_sock *sk) {
    struct listener_slot key = {.netns = netns};
    long refused = -1;

    if (sk->state == BPF_TCP_LISTEN)
        refused = bpf_map_update_elem(&cv_listeners, &key, sk, BPF_NOEXIST);
    bpf_sk_release(sk);
    return refused ? NOT_FOUND : FOUND;
}

SEC("classifier")
int cv_adopt(struct __sk_buff *skb) {
    struct bpf_sock_tuple tuple = {};
    __u8 address[16] __attribute__((aligned(8))) = {};
    struct bpf_sock *sk;

    if (is_known())
        return FOUND;
    /* The tunnel listens at every address of both families, or of IPv4 where there is no other. */
    tuple.ipv4.saddr = bpf_htonl(INADDR_LOOPBACK);
    tuple.ipv4.daddr = bpf_htonl(INADDR_LOOPBACK);
    tuple.ipv4.sport = bpf_htons(ANY_PORT);
    tuple.ipv4.dport = bpf_htons(inbound_port);
    addr_from_ipv4(address, bpf_htonl(INADDR_LOOPBACK));
    announce(address);
    sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    return sk ? keep(sk) : NOT_FOUND;
}

char LICENSE[] SEC("license") = "Apache-2.0";
