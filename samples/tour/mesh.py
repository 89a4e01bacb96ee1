"""What the mesh itself counted: the metrics of every ztunnel."""

from collections import Counter
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from samples.tour.commands import Kubectl

_OPENED = "istio_tcp_connections_opened_total"


@dataclass(frozen=True, order=True)
class Edge:
    """Who called whom over what."""

    source: str
    destination: str
    service: str
    security: str
    source_principal: str
    destination_principal: str


def connections(kube: Kubectl) -> Counter[Edge]:
    """Return the connections opened so far, as the clients' side counted them."""
    found: Counter[Edge] = Counter()
    for pod in kube.document("pods", "-n", "istio-system", "-l", "app=ztunnel")["items"]:
        path = f"/api/v1/namespaces/istio-system/pods/{pod['metadata']['name']}:15020/proxy/metrics"
        for family in text_string_to_metric_families(kube.run("get", "--raw", path)):
            for sample in family.samples:
                if sample.name == _OPENED and sample.labels["reporter"] == "source":
                    found[_edge(sample.labels)] += int(sample.value)
    return found


def since(before: Counter[Edge], now: Counter[Edge]) -> Counter[Edge]:
    """Return what has come since."""
    return now - before


def _edge(labels: dict[str, str]) -> Edge:
    return Edge(
        source=labels["source_workload"],
        destination=labels["destination_workload"],
        service=labels["destination_service"],
        security=labels["connection_security_policy"],
        source_principal=labels["source_principal"].removeprefix("spiffe://"),
        destination_principal=labels["destination_principal"].removeprefix("spiffe://"),
    )
