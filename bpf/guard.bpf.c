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
 * Fails closed: a packet that cannot be parsed is dropped, unless the tunnel sent it. Kernel minimum: 5.10.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "guard.h"

#define FRAGMENT_OFFSET 0x1fff
#define LOOPBACK 1          /* the index of every namespace's loopback link */
#define EXTENSION_HEADERS 8 /* limit for the verifier; real packets have fewer */
#define TCP_FLAGS 13
#define TCP_SYN 0x02

volatile const __u32 tunnel_mark = 0;
volatile const __u32 tunnel_mark_mask = 0;
volatile const __u32 passed_mark = 0;
/* Host order. Packets from these ports go to applications and clients, which expect them from other addresses. */
volatile const __u16 outbound_port = 0;
volatile const __u16 inbound_port = 0;

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1); /* set by the loader to the number of connections */
    __type(key, struct connection);
    __type(value, __u32); /* enum stage */
} cv_preexisting SEC(".maps");

enum found { NOT_TCP, TCP, UNREADABLE };

static __always_inline int load(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size) {
    return bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET);
}

static __always_inline void map_ipv4(__u8 *to, __be32 address) {
    to[10] = 0xff;
    to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, sizeof(address));
}

static __always_inline enum found find_tcp_v4(struct __sk_buff *skb, struct connection *connection, __u32 *offset) {
    struct iphdr ip;

    if (load(skb, 0, &ip, sizeof(ip)) < 0)
        return UNREADABLE;
    if (ip.protocol != IPPROTO_TCP)
        return NOT_TCP;
    if (ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
        return UNREADABLE; /* only the first fragment has the ports */
    map_ipv4(connection->local, ip.saddr);
    map_ipv4(connection->remote, ip.daddr);
    *offset = ip.ihl * 4;
    return TCP;
}

static __always_inline enum found find_tcp_v6(struct __sk_buff *skb, struct connection *connection, __u32 *offset) {
    struct ipv6hdr ip;
    __u8 head[4];
    __u8 next;

    if (load(skb, 0, &ip, sizeof(ip)) < 0)
        return UNREADABLE;
    next = ip.nexthdr;
    *offset = sizeof(ip);
    for (int number = 0; number < EXTENSION_HEADERS; number++) {
        switch (next) {
        case IPPROTO_TCP:
            __builtin_memcpy(connection->local, &ip.saddr, sizeof(ip.saddr));
            __builtin_memcpy(connection->remote, &ip.daddr, sizeof(ip.daddr));
            return TCP;
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
        case IPPROTO_FRAGMENT:
            if (load(skb, *offset, head, sizeof(head)) < 0)
                return UNREADABLE;
            if (next == IPPROTO_FRAGMENT && ((head[2] << 8 | head[3]) & 0xfff8))
                return head[0] == IPPROTO_TCP ? UNREADABLE : NOT_TCP;
            *offset += next == IPPROTO_FRAGMENT ? 8 : (head[1] + 1) * 8;
            next = head[0];
            break;
        default:
            return NOT_TCP;
        }
    }
    return UNREADABLE;
}

static __always_inline enum found find_tcp(struct __sk_buff *skb, struct connection *connection, __u8 *flags) {
    enum found found = NOT_TCP;
    __u32 offset = 0;
    __u8 tcp[14];

    if (skb->protocol == bpf_htons(ETH_P_IP))
        found = find_tcp_v4(skb, connection, &offset);
    else if (skb->protocol == bpf_htons(ETH_P_IPV6))
        found = find_tcp_v6(skb, connection, &offset);
    if (found != TCP)
        return found;
    if (load(skb, offset, tcp, sizeof(tcp)) < 0)
        return UNREADABLE;
    __builtin_memcpy(&connection->local_port, tcp, 2);
    __builtin_memcpy(&connection->remote_port, tcp + 2, 2);
    *flags = tcp[TCP_FLAGS];
    return TCP;
}

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

/*
 * A dropped SYN must look lost on the way, so that TCP retries it for two minutes: TC_ACT_SHOT is reported to the
 * socket, which then retries every 0.5 s and gives up after about 3 s. Established connections do not give up, and
 * recover faster with the 0.5 s retries.
 */
static __always_inline int drop(__u8 flags) { return flags & TCP_SYN ? TC_ACT_STOLEN : TC_ACT_SHOT; }

SEC("classifier")
int guard(struct __sk_buff *skb) {
    struct connection connection = {};
    __u8 flags = 0;
    int tunnel = (skb->mark & tunnel_mark_mask) == tunnel_mark;

    if (skb->mark & passed_mark)
        return TC_ACT_UNSPEC;
    if (skb->ifindex == LOOPBACK && !tunnel)
        return TC_ACT_UNSPEC;
    switch (find_tcp(skb, &connection, &flags)) {
    case NOT_TCP:
        return TC_ACT_UNSPEC;
    case UNREADABLE:
        return tunnel ? TC_ACT_UNSPEC : TC_ACT_SHOT;
    case TCP:
        break;
    }
    if (tunnel)
        return needs_translation(skb, &connection) ? drop(flags) : TC_ACT_UNSPEC;
    return is_preexisting(&connection, flags) ? TC_ACT_UNSPEC : drop(flags);
}

char LICENSE[] SEC("license") = "Apache-2.0";
