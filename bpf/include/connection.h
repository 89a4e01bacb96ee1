/* A TCP connection as programs and user space name it (engine/crates/bpf mirrors it; a test compares the two). */
#ifndef CULVERT_CONNECTION_H
#define CULVERT_CONNECTION_H

#include <linux/types.h>

/* As the pod sees it. IPv4 addresses are mapped (RFC 4291, 2.5.5.2); all fields in network order. */
struct connection {
    __u8 local[16];
    __u8 remote[16];
    __be16 local_port;
    __be16 remote_port;
};

_Static_assert(sizeof(struct connection) == 36, "no padding: it is compared as bytes");

#endif
