/* Verdicts of traffic control (tc). Every drop passes tc_drop, so that it has a reason and is counted. */
#ifndef CULVERT_VERDICT_H
#define CULVERT_VERDICT_H

#include <linux/pkt_cls.h>
#include <linux/types.h>

#include "lib/packet.h"
#include "lib/stats.h"

/* The packet goes on to the next filter. */
static __always_inline int tc_pass(void) { return TC_ACT_UNSPEC; }

/*
 * A dropped SYN must look lost on the way, so that TCP retries it for two minutes: TC_ACT_SHOT is reported to the
 * socket, which then retries every 0.5 s and gives up after about 3 s. Established connections do not give up, and
 * recover faster with the 0.5 s retries.
 */
static __always_inline int tc_drop(void *counters, __u32 reason, __u8 tcp_flags) {
    stats_count(counters, reason);
    return tcp_flags & TCP_SYN ? TC_ACT_STOLEN : TC_ACT_SHOT;
}

#endif
