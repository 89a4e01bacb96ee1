/*
 * Default deny for what leaves a pod: what the programs and the node agent share (engine/crates/bpf mirrors it; a test
 * compares the two). Addresses are 16 bytes, IPv4 mapped (RFC 4291, 2.5.5.2).
 */
#ifndef CULVERT_EGRESS_H
#define CULVERT_EGRESS_H

#include <linux/types.h>

/* Why a packet was dropped: keys of cv_egress_drops. */
enum egress_drop {
    EGRESS_DROP_UNREADABLE = 0, /* its headers cannot be found, or its frame says something else than its packet */
    EGRESS_DROP_TCP = 1,        /* the application's TCP, which neither the tunnel carries nor a peer has begun */
    EGRESS_DROP_UDP = 2,        /* UDP of the application that is no answer */
    EGRESS_DROP_ICMP = 3,       /* ICMP that is neither the answer to an echo nor neighbour discovery on the link */
    EGRESS_DROP_PROTOCOL = 4,   /* another protocol above IP, or a later fragment */
    EGRESS_DROP_LINK = 5,       /* another protocol than IP and ARP */
    EGRESS_DROP_BYPASS = 6,     /* it has not passed the filter in the pod, whatever it is */
    EGRESS_DROP_REASONS = 7,
};

/* Who has begun what may be answered: values of cv_answerable. */
enum begun_by {
    BEGUN_BY_PEER = 1,   /* a packet from outside */
    BEGUN_BY_TUNNEL = 2, /* the tunnel: what the kernel sends for it without its socket, which has no data, passes */
};

/* What may be answered, as the pod sees it: key of cv_answerable. */
struct answerable {
    __u8 local[16];
    __u8 remote[16];
    __be16 local_port; /* of an echo: its identifier, in both */
    __be16 remote_port;
    __u32 netns; /* inode number of the pod's namespace */
    __u32 protocol;
};

_Static_assert(sizeof(struct answerable) == 44, "no padding: it is compared as bytes");

/* A range of addresses that are reached without a router. */
struct on_link {
    __u8 address[16];
    __u32 bits; /* of the prefix; 0: none */
};

_Static_assert(sizeof(struct on_link) == 20, "no padding");

#define ON_LINK_RANGES 8

#endif
