/* Shared by the guard program and its loader (engine/crates/bpf mirrors it, with the same assertions). */
#ifndef CULVERT_GUARD_H
#define CULVERT_GUARD_H

#include <linux/types.h>

/* A TCP connection as the pod sees it. IPv4 addresses are mapped (RFC 4291, 2.5.5.2); all fields in network order. */
struct connection {
    __u8 local[16];
    __u8 remote[16];
    __be16 local_port;
    __be16 remote_port;
};

_Static_assert(sizeof(struct connection) == 36, "mirrored by the loader");
_Static_assert(__builtin_offsetof(struct connection, local_port) == 32, "mirrored by the loader");

/* State of a connection when the guard was attached. */
enum stage {
    STAGE_OPENING = 0, /* SYN sent, may be retransmitted */
    STAGE_OPEN = 1,
};

#endif
