/* Finding TCP and UDP in a packet, whatever precedes the header. Reads from the network header on; changes nothing. */
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
#define TCP_OFFSET 12
#define TCP_FLAGS 13
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* UNREADABLE: it may be TCP, and what it is cannot be seen; the caller decides which way that fails. */
enum found { FOUND_OTHER, FOUND_TCP, FOUND_UDP, FOUND_UNREADABLE };

struct packet {
    struct connection connection;
    __u32 payload; /* bytes; of TCP only */
    __u32 offset;  /* of what is above IP and its extensions */
    __u8 protocol; /* of that; 0 where it is a later fragment or cannot be found */
    __u8 flags;    /* of TCP only */
};

/* Where the transport's header begins, and what it is. */
struct transport {
    __u32 offset;
    __u32 end; /* of the packet */
    __u8 protocol;
};

#define END_UNKNOWN 0xffffffff /* longer than its header can say (RFC 2675, BIG TCP) */

static __always_inline int packet_load(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size) {
    return bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET);
}

static __always_inline enum found found_protocol(__u8 protocol) {
    if (protocol == IPPROTO_TCP)
        return FOUND_TCP;
    return protocol == IPPROTO_UDP ? FOUND_UDP : FOUND_OTHER;
}

/* Of a later fragment: only the first has the ports. */
static __always_inline enum found found_fragment(__u8 protocol) {
    return protocol == IPPROTO_TCP ? FOUND_UNREADABLE : FOUND_OTHER;
}

static __always_inline enum found find_v4(struct __sk_buff *skb, struct connection *connection,
                                          struct transport *transport) {
    struct iphdr ip;

    if (packet_load(skb, 0, &ip, sizeof(ip)) < 0)
        return FOUND_UNREADABLE;
    if (ip.frag_off & bpf_htons(FRAGMENT_OFFSET))
        return found_fragment(ip.protocol);
    addr_from_ipv4(connection->local, ip.saddr);
    addr_from_ipv4(connection->remote, ip.daddr);
    transport->offset = ip.ihl * 4;
    transport->end = ip.tot_len ? bpf_ntohs(ip.tot_len) : END_UNKNOWN;
    transport->protocol = ip.protocol;
    return found_protocol(ip.protocol);
}

static __always_inline enum found find_v6(struct __sk_buff *skb, struct connection *connection,
                                          struct transport *transport) {
    struct ipv6hdr ip;
    __u8 head[4];
    __u8 next;

    if (packet_load(skb, 0, &ip, sizeof(ip)) < 0)
        return FOUND_UNREADABLE;
    addr_from_ipv6(connection->local, &ip.saddr);
    addr_from_ipv6(connection->remote, &ip.daddr);
    next = ip.nexthdr;
    transport->offset = sizeof(ip);
    transport->end = ip.payload_len ? sizeof(ip) + bpf_ntohs(ip.payload_len) : END_UNKNOWN;
    for (int number = 0; number < EXTENSION_HEADERS; number++) {
        switch (next) {
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
        case IPPROTO_FRAGMENT:
            if (packet_load(skb, transport->offset, head, sizeof(head)) < 0)
                return FOUND_UNREADABLE;
            if (next == IPPROTO_FRAGMENT && ((head[2] << 8 | head[3]) & 0xfff8))
                return found_fragment(head[0]);
            transport->offset += next == IPPROTO_FRAGMENT ? 8 : (head[1] + 1) * 8;
            next = head[0];
            break;
        default:
            transport->protocol = next;
            return found_protocol(next);
        }
    }
    return FOUND_UNREADABLE;
}

enum at_a_glance { GLANCE_UNKNOWN, GLANCE_DATA, GLANCE_OTHER };

static __always_inline enum at_a_glance glance_at_tcp(const __u8 *tcp, const __u8 *end, __u32 length) {
    if (tcp + TCP_FLAGS + 1 > end || tcp[TCP_FLAGS] & TCP_SYN)
        return GLANCE_UNKNOWN;
    return length > (tcp[TCP_OFFSET] >> 4) * 4 ? GLANCE_DATA : GLANCE_OTHER;
}

/*
 * What a packet certainly is, read in place, without options and extensions: one of TCP's later ones, with data or
 * without. For programs that look at every packet of a link and want only what begins a connection.
 */
static __always_inline enum at_a_glance glance(const struct __sk_buff *skb) {
    const __u8 *data = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
    const struct iphdr *v4 = (const void *)(data + ETH_HLEN);
    const struct ipv6hdr *v6 = (const void *)(data + ETH_HLEN);

    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if ((const __u8 *)(v4 + 1) > end || v4->ihl != 5 || v4->protocol != IPPROTO_TCP)
            return GLANCE_UNKNOWN;
        if (v4->frag_off & bpf_htons(FRAGMENT_OFFSET) || !v4->tot_len)
            return GLANCE_UNKNOWN;
        return glance_at_tcp((const __u8 *)(v4 + 1), end, bpf_ntohs(v4->tot_len) - sizeof(*v4));
    }
    if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if ((const __u8 *)(v6 + 1) > end || v6->nexthdr != IPPROTO_TCP || !v6->payload_len)
            return GLANCE_UNKNOWN;
        return glance_at_tcp((const __u8 *)(v6 + 1), end, bpf_ntohs(v6->payload_len));
    }
    return GLANCE_UNKNOWN;
}

/*
 * `packet` must be zero before. It is filled if the answer is TCP or UDP; if it is OTHER, only addresses, offset and
 * protocol are.
 */
static __always_inline enum found find_transport(struct __sk_buff *skb, struct packet *packet) {
    struct transport transport = {};
    enum found found = FOUND_OTHER;
    __u8 head[14];
    __u32 begin;

    if (skb->protocol == bpf_htons(ETH_P_IP))
        found = find_v4(skb, &packet->connection, &transport);
    else if (skb->protocol == bpf_htons(ETH_P_IPV6))
        found = find_v6(skb, &packet->connection, &transport);
    packet->protocol = transport.protocol;
    packet->offset = transport.offset;
    if (found != FOUND_TCP && found != FOUND_UDP)
        return found;
    if (packet_load(skb, transport.offset, head, found == FOUND_UDP ? 4 : sizeof(head)) < 0)
        return found == FOUND_UDP ? FOUND_OTHER : FOUND_UNREADABLE;
    __builtin_memcpy(&packet->connection.local_port, head, 2);
    __builtin_memcpy(&packet->connection.remote_port, head + 2, 2);
    if (found == FOUND_UDP)
        return found;
    packet->flags = head[TCP_FLAGS];
    begin = transport.offset + (head[TCP_OFFSET] >> 4) * 4;
    packet->payload = transport.end > begin ? transport.end - begin : 0;
    return found;
}

#endif
