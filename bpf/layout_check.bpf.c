/*
 * layout_check: no program. Its type information has every struct and enum that programs share with user space
 * (bpf/include); a test of engine/crates/bpf compares it with the loader's mirrors. Never loaded.
 */
#include "connection.h"
#include "guard.h"

struct connection layout_connection;
enum stage layout_stage;
enum guard_drop layout_guard_drop;
