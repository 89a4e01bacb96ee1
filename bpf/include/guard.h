/* What the guard and its loader share (engine/crates/bpf mirrors it; a test there compares sizes). */
#ifndef CULVERT_GUARD_H
#define CULVERT_GUARD_H

#include <linux/types.h>

/* A TCP connection as the pod sees it. Addresses of IPv4 are mapped (RFC 4291, 2.5.5.2); everything in network order.
 */
struct connection {
    __u8 local[16];
    __u8 remote[16];
    __be16 local_port;
    __be16 remote_port;
};

/* How far a connection was when the guard came. */
enum stage {
    STAGE_OPENING = 0, /* its SYN may be sent again */
    STAGE_OPEN = 1,
};

#endif
