"""What is said of gateways at the edge, as a collection: it changes with their objects and with routes."""

from controlplane.envoy.layer7 import Layer7
from controlplane.gateways.listener import EdgeGateway
from controlplane.gateways.report import GatewayReport, ListenerReport
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.stages import CONDITIONS
from meshkit.kube import Key


def reports(layer7: Layer7) -> Collection[Key, GatewayReport]:
    """Return the reports of all gateways, by the key of their Gateway."""
    routes = layer7.routing.gateway

    def report(gateway: EdgeGateway, fetch: Fetch) -> GatewayReport:
        found = (ListenerReport(one, routes.attached(gateway.key, one.id, fetch)) for one in gateway.listeners)
        return GatewayReport(gateway, tuple(found))

    return Derived(layer7.model.graph, "reports of gateways", layer7.model.gateways.of_gateway_api, CONDITIONS, report)
