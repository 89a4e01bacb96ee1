/* Plans of pods: the maps that every program of the capture shares, and looking things up in them. */
#ifndef CULVERT_PLAN_H
#define CULVERT_PLAN_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "lib/maps.h"
#include "lib/stats.h"

#define PLAN_PREFIX_BITS 96 /* generation and namespace, in front of the address */

/* Namespace cookie → plan; written by the node agent. Full: the pod is not enrolled. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 4096);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u64);
    __type(value, struct pod_plan);
} cv_pods SEC(".maps");

/* Port on a list → 1; written by the node agent. Full: the pod is not enrolled. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 262144);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct port_key);
    __type(value, __u32);
} cv_ports SEC(".maps");

/* Range → bits of enum range_flag; written by the node agent. Full: the pod is not enrolled. */
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 262144);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct range_key);
    __type(value, __u32);
} cv_ranges SEC(".maps");

/* Socket → where it was going; written by the hooks, ends with the socket. */
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, int);
    __type(value, struct destination);
} cv_sockets SEC(".maps");

/*
 * The client's end, as the tunnel sees it → where it was going; written when a packet enters the tunnel, read by the
 * tunnel once (SO_ORIGINAL_DST). The oldest is evicted: its tunnel then refuses the connection.
 */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct client);
    __type(value, struct destination);
} cv_origins SEC(".maps");

/* Slot → the tunnel's listener for plain text; written at listen(), ends with the socket. Full: refused connections. */
struct {
    __uint(type, BPF_MAP_TYPE_SOCKHASH);
    __uint(max_entries, 65536);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __uint(key_size, sizeof(struct listener_slot));
    __uint(value_size, sizeof(__u64));
} cv_listeners SEC(".maps");

/*
 * The packet without data that this CPU is taking in from a loopback link; written by cv_arrival, read and cleared by
 * cv_inbound in the same turn of the kernel, because that hook cannot tell by which link a packet has come.
 */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct arrival);
} cv_arrivals SEC(".maps");

/* enum capture_count → connections; written here, read by the node agent. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, CAPTURE_COUNTS);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u64);
} cv_captures SEC(".maps");

static __always_inline int plan_lists(const struct pod_plan *plan, __u64 netns, __u16 port, __u16 list) {
    struct port_key key = {.netns = netns, .generation = plan->generation, .port = port, .list = list};

    return bpf_map_lookup_elem(&cv_ports, &key) != 0;
}

/* Bits of the longest range that has the address. */
static __always_inline __u32 plan_range(const struct pod_plan *plan, __u64 netns, const __u8 *address) {
    struct range_key key = {.prefix_bits = PLAN_PREFIX_BITS + 128, .generation = plan->generation, .netns = netns};
    __u32 *bits;

    __builtin_memcpy(key.address, address, sizeof(key.address));
    bits = bpf_map_lookup_elem(&cv_ranges, &key);
    return bits ? *bits : 0;
}

static __always_inline int plan_excludes_link(const struct pod_plan *plan, __u32 link) {
    int found = 0;

    if (!link)
        return 0;
    for (int number = 0; number < EXCLUDED_LINKS; number++)
        found |= plan->excluded_links[number] == link;
    return found;
}

/* Whether a connection from outside belongs to the application alone. `hbone_port` is the tunnel's own, host order. */
static __always_inline int plan_passes_inbound(const struct pod_plan *plan, __u64 netns, __u16 port, const __u8 *remote,
                                               __u32 link, __u16 hbone_port) {
    if (!(plan->flags & POD_CAPTURE) || !(plan->flags & POD_INBOUND) || port == hbone_port)
        return 1;
    if (plan_excludes_link(plan, link) || plan_range(plan, netns, remote) & RANGE_PROBES)
        return 1;
    if (plan->flags & POD_INBOUND_LISTED)
        return !plan_lists(plan, netns, port, PORT_INBOUND_ONLY);
    return plan_lists(plan, netns, port, PORT_INBOUND_NEVER);
}

#endif
