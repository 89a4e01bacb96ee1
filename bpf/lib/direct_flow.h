/* Direct connections: the maps that the programs share with the engine, and looking things up in them. */
#ifndef CULVERT_DIRECT_FLOW_H
#define CULVERT_DIRECT_FLOW_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "direct.h"
#include "lib/plan.h"
#include "lib/reverse.h"
#include "lib/stats.h"

/* Client's namespace, address and port → verdict; written by the engine. What is not here goes to the tunnel. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 16384);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct direct_key);
    __type(value, struct direct_verdict);
} cv_direct SEC(".maps");

/* Client's namespace, address and port of a service → endpoints; written by the engine. What is not here: no service.
 */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 8192);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct direct_key);
    __type(value, struct direct_service);
} cv_services SEC(".maps");

/* Direct connection → what is known of it; written by cv_direct_ops, read by the engine. Full: the tunnel carries. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 131072);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct connection);
    __type(value, struct direct_flow);
} cv_flows SEC(".maps");

/* enum flow_table → how many there are, counted by the programs, and who decides, written by the engine. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, FLOW_TABLE_SIZE);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u64);
} cv_flow_table SEC(".maps");

/* Beginnings and ends; a queue, because two engines may read it while one follows the other. Full: lost and counted. */
struct {
    __uint(type, BPF_MAP_TYPE_QUEUE);
    __uint(max_entries, 32768);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __uint(key_size, 0);
    __uint(value_size, sizeof(struct direct_event));
} cv_flow_events SEC(".maps");

/* enum direct_count → connections or events; written here, read by the engine. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, DIRECT_COUNTS);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u64);
} cv_flow_counts SEC(".maps");

static __always_inline struct direct_verdict *direct_verdict_of(__u64 netns, const __u8 *address, __u16 port) {
    struct direct_key key = {.netns = netns, .port = port};

    __builtin_memcpy(key.address, address, sizeof(key.address));
    return bpf_map_lookup_elem(&cv_direct, &key);
}

static __always_inline int direct_same_address(const __u8 *one, const __u8 *other) {
    const __u64 *a = (const __u64 *)one, *b = (const __u64 *)other;

    return a[0] == b[0] && a[1] == b[1];
}

/* Whether a plan is of a captured pod that has this address and lets connections be direct. */
static __always_inline int direct_fits(const struct pod_plan *plan, const __u8 *address, int v4) {
    const __u32 wanted = POD_CAPTURE | POD_INBOUND;

    if ((plan->flags & (wanted | POD_TUNNEL_ALWAYS)) != wanted)
        return 0;
    return direct_same_address(v4 ? plan->address_v4 : plan->address_v6, address);
}

static __always_inline struct direct_flow *direct_flow_of(const struct connection *as_client) {
    return bpf_map_lookup_elem(&cv_flows, as_client);
}

static __always_inline void direct_account(__s64 flows) {
    __u32 key = FLOW_TABLE_USED;
    __u64 *used = bpf_map_lookup_elem(&cv_flow_table, &key);

    if (used)
        __sync_fetch_and_add(used, flows);
}

#endif
