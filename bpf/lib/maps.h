/*
 * Definitions of maps. Names begin with cv_ and have at most 15 characters: the kernel cuts the rest.
 */
#ifndef CULVERT_MAPS_H
#define CULVERT_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* One 64-bit counter for each reason and CPU; written by the program, read and summed by user space. */
#define CV_COUNTERS(name, reasons)                                                                                     \
    struct {                                                                                                           \
        __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                                                       \
        __uint(max_entries, reasons);                                                                                  \
        __type(key, __u32);                                                                                            \
        __type(value, __u64);                                                                                          \
    } name SEC(".maps")

#endif
