/* Addresses in the 16 bytes of struct connection. */
#ifndef CULVERT_ADDR_H
#define CULVERT_ADDR_H

#include <linux/in6.h>
#include <linux/types.h>

/* `to` must be zero before: the mapped form (RFC 4291, 2.5.5.2) has ten zero bytes in front. */
static __always_inline void addr_from_ipv4(__u8 *to, __be32 address) {
    to[10] = 0xff;
    to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, sizeof(address));
}

static __always_inline void addr_from_ipv6(__u8 *to, const struct in6_addr *address) {
    __builtin_memcpy(to, address, sizeof(*address));
}

#endif
