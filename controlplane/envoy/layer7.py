"""Layer 7 of one mesh: its collections, wired."""

from dataclasses import dataclass

from controlplane.ambient.model import Model
from controlplane.envoy.collections import EnvoyCollections
from controlplane.envoy.edge.collections import EdgeCollections
from controlplane.envoy.patches.attachment import EnvoyFilters
from controlplane.envoy.telemetry.reporting import Reporting
from controlplane.metrics import own_version
from controlplane.routing.collections import RoutingCollections
from controlplane.routing.policies import Policies
from controlplane.routing.telemetry.scope import Telemetries
from controlplane.routing.workloads import Workloads


@dataclass(frozen=True, slots=True)
class Layer7:
    """The collections of layer 7.

    Attributes:
        model: what they are computed from.
        routing: what users' objects say.
        telemetries: what is reported.
        patches: what users change of it.
        envoy: what proxies get.
    """

    model: Model
    routing: RoutingCollections
    telemetries: Telemetries
    patches: EnvoyFilters
    envoy: EnvoyCollections


def create(model: Model) -> Layer7:
    """Return the collections over a model; they are computed with it from now on."""
    routing = RoutingCollections(model.graph, model.inputs, model.gateways)
    policies = Policies(model.inputs, model.gateways)
    telemetries = Telemetries(model.inputs, model.gateways)
    reporting = Reporting(routing, telemetries)
    attached = Workloads(model.graph, model.inputs, model.waypoints)
    patches = EnvoyFilters(model.graph, model.inputs, model.waypoints, model.gateways, own_version())
    edge = EdgeCollections(
        model.graph,
        model.inputs,
        routing,
        model.gateways,
        model.waypoints,
        policies=policies,
        patches=patches,
        reporting=reporting,
    )
    envoy = EnvoyCollections(
        model.graph,
        routing,
        model.waypoints,
        policies,
        patches,
        inputs=model.inputs,
        reporting=reporting,
        attached=attached,
        edge=edge,
    )
    return Layer7(model, routing, telemetries, patches, envoy)
