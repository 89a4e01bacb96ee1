/* Finding TCP in a packet, whatever precedes its header. Reads from the network header on; changes nothing. */
#ifndef CULVERT_PACKET_H
#define CULVERT_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "connection.h"
#include "lib/addr.h"

#define FRAGMENT_OFFSET 0x1fff
#define EXTENSION_HEADERS 8 /* limit for the verifier; real packets have fewer */
#define TCP_FLAGS 13
#define TCP_SYN 0x02

enum found { NOT_TCP, TCP, UNREADABLE };

static __always_inline int packet_load(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size) {
    return bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET);
}

static __always_inline enum found find_tcp_v4(struct __sk_buff *skb, struct connection *connection, __u32 *offset) {
    struct iphdr ip;

    if (packet_load(skb, 0, &ip, sizeof(ip)) < 0)
        return UNREADABLE;
    if (ip.protocol != IPPROTO_TCP)
        return NOT_TCP;
    if (ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
        return UNREADABLE; /* only the first fragment has the ports */
    addr_from_ipv4(connection->local, ip.saddr);
    addr_from_ipv4(connection->remote, ip.daddr);
    *offset = ip.ihl * 4;
    return TCP;
}

static __always_inline enum found find_tcp_v6(struct __sk_buff *skb, struct connection *connection, __u32 *offset) {
    struct ipv6hdr ip;
    __u8 head[4];
    __u8 next;

    if (packet_load(skb, 0, &ip, sizeof(ip)) < 0)
        return UNREADABLE;
    next = ip.nexthdr;
    *offset = sizeof(ip);
    for (int number = 0; number < EXTENSION_HEADERS; number++) {
        switch (next) {
        case IPPROTO_TCP:
            addr_from_ipv6(connection->local, &ip.saddr);
            addr_from_ipv6(connection->remote, &ip.daddr);
            return TCP;
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
        case IPPROTO_FRAGMENT:
            if (packet_load(skb, *offset, head, sizeof(head)) < 0)
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

/*
 * `connection` must be zero before. Its ports and `flags` are written only if the answer is TCP. UNREADABLE: it may be
 * TCP, and what it is cannot be seen; the caller decides which way that fails.
 */
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
    if (packet_load(skb, offset, tcp, sizeof(tcp)) < 0)
        return UNREADABLE;
    __builtin_memcpy(&connection->local_port, tcp, 2);
    __builtin_memcpy(&connection->remote_port, tcp + 2, 2);
    *flags = tcp[TCP_FLAGS];
    return TCP;
}

#endif
