/*
 * layout_check: no program. Its type information has every struct and enum that programs share with user space
 * (bpf/include); a test of engine/crates/bpf compares it with the loader's mirrors. Never loaded.
 */
#include "capture.h"
#include "connection.h"
#include "guard.h"

struct connection layout_connection;
enum stage layout_stage;
enum guard_drop layout_guard_drop;
struct pod_plan layout_pod_plan;
struct port_key layout_port_key;
struct range_key layout_range_key;
struct destination layout_destination;
struct client layout_client;
struct listener_slot layout_listener_slot;
struct arrival layout_arrival;
enum pod_flag layout_pod_flag;
enum port_list layout_port_list;
enum range_flag layout_range_flag;
enum treatment layout_treatment;
enum capture_count layout_capture_count;
