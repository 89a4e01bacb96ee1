/* Shared by the guard program and its loader (engine/crates/bpf mirrors it; a test compares the two). */
#ifndef CULVERT_GUARD_H
#define CULVERT_GUARD_H

#include "connection.h"

/* State of a connection when the guard was attached. */
enum stage {
    STAGE_OPENING = 0, /* SYN sent, may be retransmitted */
    STAGE_OPEN = 1,
};

/* Why a packet was dropped: keys of cv_guard_drops. */
enum guard_drop {
    GUARD_DROP_UNREADABLE = 0,   /* the application's, and no TCP header can be found */
    GUARD_DROP_UNMARKED = 1,     /* the application's, and the capture rules have not passed it */
    GUARD_DROP_UNTRANSLATED = 2, /* the tunnel's, and the capture rules have not translated its addresses */
    GUARD_DROP_REASONS = 3,
};

#endif
