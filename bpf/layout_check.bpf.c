/*
 * layout_check: no program. Its type information has every struct and enum that programs share with user space
 * (bpf/include); a test of engine/crates/bpf compares it with the loader's mirrors. Never loaded.
 */
#include "capture.h"
#include "connection.h"
#include "direct.h"
#include "egress.h"
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
struct direct_key layout_direct_key;
struct direct_verdict layout_direct_verdict;
struct direct_flow layout_direct_flow;
struct direct_event layout_direct_event;
enum flow_table layout_flow_table;
enum direct_state layout_direct_state;
enum direct_ending layout_direct_ending;
enum direct_event_kind layout_direct_event_kind;
enum direct_count layout_direct_count;
struct direct_endpoint layout_direct_endpoint;
struct direct_service layout_direct_service;
enum egress_drop layout_egress_drop;
enum begun_by layout_begun_by;
struct answerable layout_answerable;
struct on_link layout_on_link;
