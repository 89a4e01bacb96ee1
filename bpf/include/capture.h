/*
 * Capture by BPF: what the programs and the node agent share (engine/crates/bpf mirrors it; a test compares the two).
 * Addresses are 16 bytes, IPv4 mapped (RFC 4291, 2.5.5.2). A namespace is named by its cookie.
 */
#ifndef CULVERT_CAPTURE_H
#define CULVERT_CAPTURE_H

#include <linux/types.h>

/* Bits of pod_plan.flags. */
enum pod_flag {
    POD_CAPTURE = 1,          /* else nothing new is taken */
    POD_DNS = 2,              /* DNS goes to the tunnel */
    POD_INBOUND = 4,          /* connections to the pod are taken */
    POD_INBOUND_LISTED = 8,   /* of them, only those to the ports of PORT_INBOUND_ONLY */
    POD_OUTBOUND_LISTED = 16, /* only PORT_OUTBOUND_ONLY and RANGE_ONLY are taken; else all that is not excluded */
    POD_TUNNEL_ALWAYS = 32    /* never directly, in either direction */
};

/* Which list a port is on. */
enum port_list {
    PORT_OUTBOUND_NEVER = 0,
    PORT_OUTBOUND_ONLY = 1,
    PORT_INBOUND_NEVER = 2,
    PORT_INBOUND_ONLY = 3,
};

/* Bits of a range. The longest range that has an address decides, so each has the bits of those around it too. */
enum range_flag {
    RANGE_LOCAL = 1,    /* the pod itself */
    RANGE_EXCLUDED = 2, /* never taken: an excluded range, or reached by an excluded link */
    RANGE_ONLY = 4,     /* taken where POD_OUTBOUND_LISTED */
    RANGE_PROBES = 8    /* the kubelet's probes come from here */
};

/* What the hooks have decided for a socket. */
enum treatment {
    TREAT_LOCAL = 0,   /* stays in the pod; nothing is remembered */
    TREAT_PASS = 1,    /* leaves on purpose */
    TREAT_CAPTURE = 2, /* goes to the tunnel */
    TREAT_DNS = 3,     /* goes to the tunnel's DNS */
    TREAT_DIRECT = 4   /* goes to a pod of this node, recorded in cv_flows */
};

/* What was counted: keys of cv_captures. */
enum capture_count {
    CAPTURE_OUTBOUND = 0,            /* connections to the tunnel */
    CAPTURE_INBOUND = 1,             /* connections from outside, handed to the tunnel */
    CAPTURE_DNS = 2,                 /* DNS queries or connections to the tunnel */
    CAPTURE_PASSED = 3,              /* connections that left on purpose */
    CAPTURE_REFUSED_NO_STORAGE = 4,  /* the destination could not be remembered */
    CAPTURE_REFUSED_NO_LISTENER = 5, /* the tunnel does not listen */
    CAPTURE_REFUSED_NO_ADDRESS = 6,  /* the pod has no address of the family to reach the tunnel by */
    CAPTURE_COUNTS = 7
};

#define EXCLUDED_LINKS 8

/* A pod's plan, by its namespace (cv_pods). Its ports and ranges are those of the same generation. */
struct pod_plan {
    __u8 address_v4[16]; /* where the tunnel is reached; zero where the pod has no such address */
    __u8 address_v6[16];
    __u32 flags;
    __u32 generation;
    __u32 excluded_links[EXCLUDED_LINKS]; /* interface indices; zero: none */
};

_Static_assert(sizeof(struct pod_plan) == 72, "no padding");

/* Key of cv_ports. */
struct port_key {
    __u64 netns;
    __u32 generation;
    __u16 port; /* host order */
    __u16 list; /* enum port_list */
};

_Static_assert(sizeof(struct port_key) == 16, "no padding: it is compared as bytes");

/* Key of cv_ranges, a trie: the prefix includes generation and namespace. */
struct range_key {
    __u32 prefix_bits;
    __u32 generation;
    __u64 netns;
    __u8 address[16];
};

_Static_assert(sizeof(struct range_key) == 32, "no padding: it is compared as bytes");

/* What is remembered of a socket (cv_sockets). */
struct destination {
    __u8 address[16];
    __be16 port;
    __u16 treatment; /* enum treatment */
};

_Static_assert(sizeof(struct destination) == 20, "no padding");

/* The pod's end of what was sent to the tunnel: key of cv_origins. */
struct client {
    __u64 netns;
    __u8 address[16];
    __be16 port;
    __u16 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
    __u32 _pad;
};

_Static_assert(sizeof(struct client) == 32, "no padding: it is compared as bytes");

/* Key of cv_listeners. A slot for each thread of each tunnel that listens. */
struct listener_slot {
    __u64 netns;
    __u32 slot;
    __u32 _pad;
};

_Static_assert(sizeof(struct listener_slot) == 16, "no padding: it is compared as bytes");

#define LISTENER_SLOTS 16

/* A packet that may begin a connection, arriving on a loopback link, on one CPU (cv_arrivals). Ports in host order. */
struct arrival {
    __u64 netns; /* 0: none */
    __u8 remote[16];
    __u16 remote_port;
    __u16 local_port;
    __u32 _pad;
};

_Static_assert(sizeof(struct arrival) == 32, "no padding: it is compared as bytes");

#endif
