"""How many connections took a way, by the metrics of the ztunnels at its ends. Pure.

ztunnels count by workload (a Deployment, not its pods), from their start on.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from meshctl.pages import Sample
from meshctl.proxy_config.dump import Item
from meshkit.kube import Json

_OPENED = "istio_tcp_connections_opened_total"
_CLOSED = "istio_tcp_connections_closed_total"
_NO_FLAG = "-"


@dataclass(frozen=True, slots=True)
class Pair:
    """Who calls whom, as metrics name them."""

    source_workload: str
    source_workload_namespace: str
    destination_workload: str
    destination_workload_namespace: str


def pair(source: Item, destination: Item) -> Pair:
    """Return the labels of two workloads of a dump."""
    return Pair(
        source.get("workloadName", ""), source.get("namespace", ""),
        destination.get("workloadName", ""), destination.get("namespace", ""),
    )  # fmt: skip


def of(pair: Pair, samples: Iterable[Sample]) -> Json:
    """Return the counts of a pair: opened, by what secured them, and ended for a reason, by its response flag.

    Args:
        samples: of the called pod's ztunnel; where it is not captured, of the caller's.
    """
    opened: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for one in samples:
        if any(one.labels.get(label) != value for label, value in asdict(pair).items()):
            continue
        if one.name == _OPENED:
            opened[one.labels.get("connection_security_policy", "")] += int(one.value)
        elif one.name == _CLOSED and one.labels.get("response_flags", _NO_FLAG) != _NO_FLAG:
            failed[one.labels["response_flags"]] += int(one.value)
    return {"opened": dict(sorted(opened.items())), "failed": dict(sorted(failed.items()))}
