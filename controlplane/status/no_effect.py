"""Kinds that users have from Istio and that change nothing here, and why: each of their objects says so."""

from typing import Final

from controlplane.status.conditions import UNSUPPORTED, WAYPOINT_ACCEPTED, Condition
from meshapi.resources import base
from meshapi.resources.extensions import ProxyConfig, WasmPlugin
from meshapi.resources.sidecar import Sidecar, WorkloadGroup
from meshkit.kube import Kind, kinds

_REASONS: Final[dict[Kind, tuple[type[base.Object], str]]] = {
    kinds.SIDECAR: (
        Sidecar,
        "no proxy runs in pods, and those of nodes and waypoints know all hosts; restrict callers by an "
        "AuthorizationPolicy, and who sees a host by its exportTo",
    ),
    kinds.WORKLOAD_GROUP: (WorkloadGroup, "workloads do not register themselves; write a WorkloadEntry for each"),
    kinds.PROXY_CONFIG: (
        ProxyConfig,
        "no proxy runs in pods; waypoints are set up by their Gateway's spec.infrastructure.parametersRef",
    ),
    kinds.WASM_PLUGIN: (WasmPlugin, "waypoints load no modules yet"),
}
KINDS: Final = tuple((kind, model) for kind, (model, _) in _REASONS.items())
"""With the models of their objects."""


def condition(kind: Kind) -> Condition:
    """Return the condition of every object of a kind."""
    return Condition(False, UNSUPPORTED, f"{kind.name} has no effect: {_REASONS[kind][1]}", WAYPOINT_ACCEPTED)
