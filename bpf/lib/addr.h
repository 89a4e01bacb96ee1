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

/*
 * Both forms of an address are read before one is chosen. The compiler (clang 14) would else choose the field's place
 * and read once, and the verifier refuses arithmetic on pointers to sockets and contexts.
 */
#define ADDR_KEEP(word) asm volatile("" : "+r"(word))

static __always_inline void addr_from_either(__u8 *to, int v4, __u32 word, __u32 word0, __u32 word1, __u32 word2,
                                             __u32 word3) {
    __u32 *words = (__u32 *)to;

    ADDR_KEEP(word);
    ADDR_KEEP(word3);
    words[0] = v4 ? 0 : word0;
    words[1] = v4 ? 0 : word1;
    words[2] = v4 ? __builtin_bswap32(0xffff) : word2;
    words[3] = v4 ? word : word3;
}

/* Reads field_ip4 or field_ip6 of a context or a socket. */
#define ADDR_READ(to, from, field)                                                                                     \
    addr_from_either(to, (from)->family == 2, (from)->field##_ip4, (from)->field##_ip6[0], (from)->field##_ip6[1],     \
                     (from)->field##_ip6[2], (from)->field##_ip6[3])

#endif
