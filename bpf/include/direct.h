/*
 * Direct connections: two pods of one node, without the tunnel. What the programs, the node agent and the engine share
 * (engine/crates/bpf mirrors it; a test compares the two). Addresses are as in capture.h.
 */
#ifndef CULVERT_DIRECT_H
#define CULVERT_DIRECT_H

#include "connection.h"

/* What a pod may connect to directly: key of cv_direct. */
struct direct_key {
    __u64 netns; /* the client's */
    __u8 address[16];
    __u16 port; /* host order */
    __u16 _pad[3];
};
_Static_assert(sizeof(struct direct_key) == 32, "no padding: it is compared as bytes");

/* That policy allows it, and for which two pods that was decided. */
struct direct_verdict {
    __u64 destination_netns;
    __u8 source[16]; /* the address that the client was authorized with */
};
_Static_assert(sizeof(struct direct_verdict) == 24, "no padding");

/* One endpoint of a service, and the end of its share of the weights. */
struct direct_endpoint {
    __u8 address[16];
    __u16 port; /* host order */
    __u16 _pad;
    __u32 share_end;
};
_Static_assert(sizeof(struct direct_endpoint) == 24, "no padding");

#define DIRECT_ENDPOINTS 32

/* The endpoints that the tunnel would choose among for a pod (cv_services; its key is a struct direct_key). */
struct direct_service {
    __u32 count;
    __u32 shares;
    struct direct_endpoint endpoints[DIRECT_ENDPOINTS];
};
_Static_assert(sizeof(struct direct_service) == 8 + 24 * DIRECT_ENDPOINTS, "no padding");

/* Of a direct connection. */
enum direct_state {
    DIRECT_OPENING = 0, /* its SYN may be taken by the destination */
    DIRECT_OPEN = 1,    /* it has been; no other SYN is */
};

/* What of the end of a connection has been seen: bits of direct_flow.ending. Counters of bytes include FINs. */
enum direct_ending {
    ENDING_FIN_ACKED = 1,    /* the client's */
    ENDING_FIN_RECEIVED = 2, /* the destination's */
};

/* A direct connection, by its addresses as the client sees them (cv_flows). Times: CLOCK_MONOTONIC, in ns; 0: not yet.
 */
struct direct_flow {
    __u64 source_netns;
    __u64 destination_netns;
    __u64 cookie; /* of the client's socket */
    __u64 began;
    __u64 opened;
    __u64 received;  /* by the client when its own FIN was acknowledged */
    __u8 target[16]; /* what the client has connected to: a service, or the destination itself */
    __be16 target_port;
    __u16 state;  /* enum direct_state */
    __u32 ending; /* bits of enum direct_ending */
};
_Static_assert(sizeof(struct direct_flow) == 72, "no padding");

enum direct_event_kind {
    DIRECT_OPENED = 0,
    DIRECT_CLOSED = 1,
    DIRECT_FORBIDDEN = 2, /* established, and no longer allowed: to be destroyed */
};

/* An element of cv_flow_events. */
struct direct_event {
    struct connection connection; /* as the client sees it */
    __u32 kind;                   /* enum direct_event_kind */
    struct direct_flow flow;
    __u64 at;
    __u64 to_destination; /* bytes that the destination has acknowledged */
    __u64 to_client;
};
_Static_assert(sizeof(struct direct_event) == 136, "no padding");

/* What is known of the table of flows: keys of cv_flow_table. */
enum flow_table {
    FLOW_TABLE_USED = 0,  /* entries in cv_flows */
    FLOW_TABLE_OWNER = 1, /* the engine that fills cv_direct, by when it began; 0: none */
    FLOW_TABLE_SEEN = 2,  /* when that engine has last been seen to do so */
    FLOW_TABLE_SIZE = 3
};

/* What was counted: keys of cv_flow_counts. */
enum direct_count {
    DIRECT_COUNT_CONNECTED = 0,  /* connections that were sent directly */
    DIRECT_COUNT_FULL = 1,       /* sent to the tunnel, because cv_flows is full */
    DIRECT_COUNT_UNRECORDED = 2, /* held back by the guard: another source address than the verdict's, or no memory */
    DIRECT_COUNT_FORBIDDEN = 3,  /* refused at the destination: policy changed while they opened */
    DIRECT_COUNT_LOST = 4,       /* events that found the queue full */
    DIRECT_COUNTS = 5
};

#endif
