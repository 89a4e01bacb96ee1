/* Connections that are older than a guard, and are exempt from it. */
#ifndef CULVERT_PREEXISTING_H
#define CULVERT_PREEXISTING_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "guard.h"
#include "lib/packet.h"

/* Exempt connection → enum stage; filled by the loader, advanced and emptied by the program. Nothing is evicted. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 1); /* set by the loader to the number of connections */
    __type(key, struct connection);
    __type(value, __u32); /* enum stage */
} cv_preexisting SEC(".maps");

static __always_inline int is_preexisting(const struct connection *connection, __u8 flags) {
    __u32 *stage = bpf_map_lookup_elem(&cv_preexisting, connection);

    if (!stage)
        return 0;
    if (!(flags & TCP_SYN)) {
        *stage = STAGE_OPEN;
        return 1;
    }
    if (*stage == STAGE_OPENING)
        return 1;
    /* The exempt connection has ended; a new one reuses its ports. */
    bpf_map_delete_elem(&cv_preexisting, connection);
    return 0;
}

#endif
