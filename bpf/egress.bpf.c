/*
 * egress: default deny for what leaves a pod (namespaces with the label culvert.io/egress).
 *
 * Attach points: tc of every link of the pod but loopback, beside and behind the guard; an instance for each pod.
 *
 * cv_egress_out, on what leaves: passes what the tunnel sends, what answers a packet from outside, ARP, and neighbour
 * discovery that stays on the link. Everything else is dropped: the application reaches other pods and the world by the
 * tunnel alone, which decides by the registry. Nothing that the application can set is trusted. A packet mark is one of
 * these things (CAP_NET_RAW suffices), so the tunnel is known by the cgroup of its sockets (cv_tunnels), and besides by
 * its mark. What a packet is, is read from the frame itself: a process that sends by a packet socket also sets the
 * protocol that the kernel keeps of the packet.
 *
 * cv_egress_host, on what arrives at the other end of such a link, in the host's namespace: drops what has not passed
 * cv_egress_out. Packet sockets can bypass the queue of a link and with it the programs of traffic control
 * (PACKET_QDISC_BYPASS, AF_XDP). What passed has a number in its tc_index, which goes along through a pair of links
 * (veth) and which no socket can set.
 *
 * cv_egress_in, on what arrives: notes what may be answered (cv_answerable). It drops nothing; without it, nothing from
 * outside is answered.
 *
 * Why here: every packet of the pod passes, whatever socket or protocol sends it.
 *
 * Fails closed: what cannot be read is dropped; so is an answer whose note was evicted. Every drop is counted (enum
 * egress_drop). Kernel minimum: 5.10.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "egress.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/reverse.h"
#include "lib/stats.h"
#include "lib/verdict.h"

#define DNS_SERVER_PORT 53
#define PASSED 0xc17e /* in tc_index */
#define IP_HEAD 20    /* bytes; the shortest header, of IPv4 */

#define ECHO_REPLY 0
#define ECHO_REQUEST 8
#define ECHO_REQUEST_V6 128
#define ECHO_REPLY_V6 129
#define LISTENER_QUERY 130 /* RFC 2710 */
#define LISTENER_DONE 132
#define ROUTER_SOLICITATION 133 /* RFC 4861 */
#define NEIGHBOUR_ADVERTISEMENT 136
#define LISTENER_REPORT_V2 143 /* RFC 3810 */

volatile const __u32 netns = 0; /* inode number */
volatile const __u32 tunnel_mark = 0;
volatile const __u32 tunnel_mark_mask = 0;
/* IPv6 only: ARP needs no such list. */
volatile const struct on_link on_link[ON_LINK_RANGES] = {};

/* enum egress_drop → packets of all pods; written here, read by the node agent. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, EGRESS_DROP_REASONS);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u64);
} cv_egress_drops SEC(".maps");

/* Cgroup of a tunnel → 1; written by the node agent when a ztunnel greets it. What is not here is no tunnel. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1024);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u64);
    __type(value, __u32);
} cv_tunnels SEC(".maps");

/* What may be answered → enum begun_by; written here and, once, by the node agent. The oldest is evicted: silence. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct answerable);
    __type(value, __u32);
} cv_answerable SEC(".maps");

static __always_inline int is_tunnels(struct __sk_buff *skb) {
    __u64 cgroup;

    if ((skb->mark & tunnel_mark_mask) != tunnel_mark)
        return 0;
    cgroup = bpf_skb_cgroup_id(skb);
    return cgroup && bpf_map_lookup_elem(&cv_tunnels, &cgroup) != 0;
}

/* `as_pod`: the connection as the pod's end sees it. */
static __always_inline void key_of(struct answerable *key, const struct connection *as_pod, __u8 protocol) {
    __builtin_memcpy(key->local, as_pod->local, sizeof(key->local));
    __builtin_memcpy(key->remote, as_pod->remote, sizeof(key->remote));
    key->local_port = as_pod->local_port;
    key->remote_port = as_pod->remote_port;
    key->netns = netns;
    key->protocol = protocol;
}

static __always_inline void note(const struct answerable *key, __u32 begun_by) {
    bpf_map_update_elem(&cv_answerable, key, &begun_by, BPF_ANY);
}

static __always_inline __u32 noted(const struct answerable *key) {
    __u32 *found = bpf_map_lookup_elem(&cv_answerable, key);

    return found ? *found : 0;
}

/* Whether a frame has the protocol that the kernel keeps of it. */
static __always_inline int has_its_protocol(struct __sk_buff *skb) {
    __be16 type;

    return bpf_skb_load_bytes(skb, ETH_HLEN - sizeof(type), &type, sizeof(type)) == 0 && type == (__be16)skb->protocol;
}

/* Whether the packet of IP is where the kernel keeps that it is. */
static __always_inline int has_its_packet(struct __sk_buff *skb) {
    __u8 in_frame[IP_HEAD], in_packet[IP_HEAD];

    if (bpf_skb_load_bytes(skb, ETH_HLEN, in_frame, sizeof(in_frame)) < 0)
        return 0;
    if (packet_load(skb, 0, in_packet, sizeof(in_packet)) < 0)
        return 0;
    for (int byte = 0; byte < IP_HEAD; byte++) {
        if (in_frame[byte] != in_packet[byte])
            return 0;
    }
    return 1;
}

static __always_inline int is_in(const __u8 *address, const volatile struct on_link *range) {
    const __u32 *words = (const __u32 *)address;
    const volatile __u32 *wanted = (const volatile __u32 *)range->address;
    int differ = 0;

    for (int word = 0; word < 4; word++) {
        __s32 bits = (__s32)range->bits - 32 * word;
        __u32 mask = bits >= 32 ? 0xffffffff : bits <= 0 ? 0 : ~0U << (32 - bits);

        differ |= ((words[word] ^ wanted[word]) & bpf_htonl(mask)) != 0;
    }
    return range->bits && !differ;
}

static __always_inline int is_link_local(const __u8 *address) {
    return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

/* A group that no router forwards to (RFC 4291, 2.7). */
static __always_inline int is_link_group(const __u8 *address) { return address[0] == 0xff && (address[1] & 0xf) <= 2; }

static __always_inline int is_on_link(const __u8 *address) {
    if (is_link_local(address) || is_link_group(address))
        return 1;
    for (int number = 0; number < ON_LINK_RANGES; number++) {
        if (is_in(address, &on_link[number]))
            return 1;
    }
    return 0;
}

/* Neighbour discovery goes to neighbours, and reports of groups to routers of the link: neither is routed further. */
static __always_inline int stays_on_link(__u8 type, const __u8 *to) {
    if (type >= ROUTER_SOLICITATION && type <= NEIGHBOUR_ADVERTISEMENT)
        return is_on_link(to);
    return ((type >= LISTENER_QUERY && type <= LISTENER_DONE) || type == LISTENER_REPORT_V2) && is_link_group(to);
}

/* Fills the ports with the identifier of an echo; returns the type, or a negative number. */
static __always_inline int read_icmp(struct __sk_buff *skb, struct packet *packet) {
    __u8 head[6];

    if (packet_load(skb, packet->offset, head, sizeof(head)) < 0)
        return -1;
    __builtin_memcpy(&packet->connection.local_port, head + 4, 2);
    __builtin_memcpy(&packet->connection.remote_port, head + 4, 2);
    return head[0];
}

static __always_inline int drop(__u32 reason, __u8 tcp_flags) { return tc_drop(&cv_egress_drops, reason, tcp_flags); }

static __always_inline int judge_icmp(struct __sk_buff *skb, struct packet *packet) {
    struct answerable key = {};
    int type = read_icmp(skb, packet);

    if (type < 0)
        return drop(EGRESS_DROP_UNREADABLE, 0);
    if (packet->protocol == IPPROTO_ICMPV6 && stays_on_link(type, packet->connection.remote))
        return tc_pass();
    if (type != (packet->protocol == IPPROTO_ICMPV6 ? ECHO_REPLY_V6 : ECHO_REPLY))
        return drop(EGRESS_DROP_ICMP, 0);
    key_of(&key, &packet->connection, packet->protocol);
    return noted(&key) == BEGUN_BY_PEER ? tc_pass() : drop(EGRESS_DROP_ICMP, 0);
}

static __always_inline int judge_tcp(const struct packet *packet) {
    struct answerable key = {};
    __u32 begun_by;

    key_of(&key, &packet->connection, packet->protocol);
    begun_by = noted(&key);
    if (begun_by == BEGUN_BY_PEER)
        return tc_pass();
    /* The kernel answers for connections that the tunnel has closed by a socket of its own. */
    if (begun_by == BEGUN_BY_TUNNEL && !packet->payload && !(packet->flags & TCP_SYN))
        return tc_pass();
    return drop(EGRESS_DROP_TCP, packet->flags);
}

static __always_inline int judge_udp(const struct packet *packet) {
    struct answerable key = {};

    key_of(&key, &packet->connection, packet->protocol);
    return noted(&key) == BEGUN_BY_PEER ? tc_pass() : drop(EGRESS_DROP_UDP, 0);
}

/* The tunnel's own: what it has begun is no question from outside when the other end's packets arrive. */
static __always_inline int pass_tunnels(struct __sk_buff *skb) {
    struct packet packet = {};
    struct answerable key = {};
    enum found found;

    if (glance(skb) != GLANCE_UNKNOWN)
        return tc_pass();
    found = find_transport(skb, &packet);
    if (found == FOUND_UDP || (found == FOUND_TCP && (packet.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)) {
        key_of(&key, &packet.connection, packet.protocol);
        note(&key, BEGUN_BY_TUNNEL);
    }
    return tc_pass();
}

static __always_inline int judge(struct __sk_buff *skb) {
    struct packet packet = {};

    if (is_tunnels(skb))
        return pass_tunnels(skb);
    if (!has_its_protocol(skb))
        return drop(EGRESS_DROP_UNREADABLE, 0);
    if (skb->protocol == bpf_htons(ETH_P_ARP))
        return tc_pass();
    if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
        return drop(EGRESS_DROP_LINK, 0);
    if (!has_its_packet(skb))
        return drop(EGRESS_DROP_UNREADABLE, 0);
    switch (find_transport(skb, &packet)) {
    case FOUND_TCP:
        return judge_tcp(&packet);
    case FOUND_UDP:
        return judge_udp(&packet);
    case FOUND_UNREADABLE:
        return drop(EGRESS_DROP_UNREADABLE, 0);
    default:
        break;
    }
    if (packet.protocol == (skb->protocol == bpf_htons(ETH_P_IP) ? IPPROTO_ICMP : IPPROTO_ICMPV6))
        return judge_icmp(skb, &packet);
    return drop(EGRESS_DROP_PROTOCOL, 0);
}

SEC("classifier")
int cv_egress_out(struct __sk_buff *skb) {
    int verdict = judge(skb);

    skb->tc_index = verdict == tc_pass() ? PASSED : 0;
    return verdict;
}

SEC("classifier")
int cv_egress_host(struct __sk_buff *skb) { return skb->tc_index == PASSED ? tc_pass() : drop(EGRESS_DROP_BYPASS, 0); }

SEC("classifier")
int cv_egress_in(struct __sk_buff *skb) {
    struct connection as_pod = {};
    struct packet packet = {};
    struct answerable key = {};
    int type;

    if (glance(skb) != GLANCE_UNKNOWN)
        return tc_pass();
    switch (find_transport(skb, &packet)) {
    case FOUND_TCP:
        if ((packet.flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
            return tc_pass();
        break;
    case FOUND_UDP:
        /* A resolver's answer to the tunnel must not open a way for the application to query it. */
        if (packet.connection.local_port == bpf_htons(DNS_SERVER_PORT))
            return tc_pass();
        break;
    case FOUND_OTHER:
        if (packet.protocol != IPPROTO_ICMP && packet.protocol != IPPROTO_ICMPV6)
            return tc_pass();
        type = read_icmp(skb, &packet);
        if (type != (packet.protocol == IPPROTO_ICMPV6 ? ECHO_REQUEST_V6 : ECHO_REQUEST))
            return tc_pass();
        break;
    default:
        return tc_pass();
    }
    connection_reverse(&as_pod, &packet.connection);
    key_of(&key, &as_pod, packet.protocol);
    if (packet.protocol == IPPROTO_TCP || noted(&key) != BEGUN_BY_TUNNEL)
        note(&key, BEGUN_BY_PEER);
    return tc_pass();
}

char LICENSE[] SEC("license") = "Apache-2.0";
