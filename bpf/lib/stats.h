/* Counting by reason, in a map of CV_COUNTERS. */
#ifndef CULVERT_STATS_H
#define CULVERT_STATS_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

static __always_inline void stats_count(void *counters, __u32 reason) {
    __u64 *count = bpf_map_lookup_elem(counters, &reason);

    if (count)
        *count += 1; /* of this CPU alone: no two programs of it run at the same time */
}

#endif
