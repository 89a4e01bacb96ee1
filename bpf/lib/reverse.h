/* Looking at a connection from its other end. */
#ifndef CULVERT_REVERSE_H
#define CULVERT_REVERSE_H

#include "connection.h"

static __always_inline void connection_reverse(struct connection *to, const struct connection *from) {
    __builtin_memcpy(to->local, from->remote, sizeof(to->local));
    __builtin_memcpy(to->remote, from->local, sizeof(to->remote));
    to->local_port = from->remote_port;
    to->remote_port = from->local_port;
}

#endif
