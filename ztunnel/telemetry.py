"""What the ztunnel process itself counts, beside the engine's metrics and those of every proxy."""

from collections.abc import Callable

from meshkit import metrics


def source(
    *,
    active: Callable[[], float],
    pending: Callable[[], float],
    connections: Callable[[], float],
    crashes: int,
) -> metrics.Source:
    """Return the source.

    Args:
        active: number of workloads that are served.
        pending: number of workloads whose listeners are not open.
        connections: number of open connections.
        crashes: how often the process was started again within its container.
    """
    return lambda: [
        metrics.gauge("workload_manager_active_proxy_count", "Workloads that are served", active()),
        metrics.gauge("workload_manager_pending_proxy_count", "Workloads whose listeners are not open", pending()),
        metrics.gauge("culvert_open_connections", "Open connections of captured pods", connections()),
        metrics.counter(
            "culvert_ztunnel_crashes", "Times that ztunnel was started again in its container", float(crashes)
        ),
    ]
