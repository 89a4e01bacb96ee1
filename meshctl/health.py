"""The health of an installation, from what its processes report. Pure.

Healthy means: every part has all its pods ready, every node's ztunnel follows its node agent and has accepted the last
configuration, the CNI plugin is in place, and every identity has a certificate that has not expired.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from meshctl import pod_states
from meshctl.components import Part, Readiness, reason
from meshctl.output import Table
from meshctl.pages import Process, Sample
from meshctl.synchrony import State, state
from meshkit.kube import Json

_EXPIRY: Final = "culvert_certificate_expiry_timestamp_seconds"


class Sync(StrEnum):
    """Whether a ztunnel has the control plane's last configuration."""

    SYNCED = "synced"
    BEHIND = "behind"
    REFUSED = "refused"
    NOT_CONNECTED = "not connected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the mesh, as its node agent and the control plane report it.

    Attributes:
        captured: pods in the mesh; None when the node agent did not answer.
        plugin: whether new pods are captured from their start; None when no plugin is used.
        certificates: identities with a certificate.
        missing: identities without one.
        expires: the first end of validity.
    """

    name: str
    agent: bool
    ztunnel: bool
    sync: Sync = Sync.UNKNOWN
    captured: int | None = None
    connected: bool = False
    plugin: bool | None = None
    certificates: int = 0
    missing: int = 0
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """A ztunnel that was replaced and carries its open connections to their end.

    Attributes:
        connections: still open; None when the pod did not answer.
        until: when the kubelet ends it at the latest.
    """

    node: str
    pod: str
    connections: int | None
    until: datetime

    def __str__(self) -> str:
        """Return one sentence for people."""
        count = "an unknown number of" if self.connections is None else str(self.connections)
        return f"{self.node}: {self.pod} drains {count} open connections, until {self.until:%H:%M:%S}Z at the latest"


@dataclass(frozen=True, slots=True)
class Health:
    """The health of an installation; without problems it is healthy.

    Attributes:
        pods: the pods of all nodes with their states; None when they were not asked for.
    """

    parts: Sequence[Readiness]
    nodes: Sequence[Node]
    problems: Sequence[str] = field(default_factory=list)
    drains: Sequence[Drain] = field(default_factory=list)
    pods: Sequence[Json] | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The same as JSON; ``pods`` only where they were asked for."""
        document: dict[str, Any] = {
            "healthy": not self.problems,
            "components": [{"name": one.part.title, "desired": one.desired, "ready": one.ready} for one in self.parts],
            "nodes": [_document(one) for one in self.nodes],
            "draining": [
                {"node": one.node, "pod": one.pod, "connections": one.connections, "until": one.until.isoformat()}
                for one in self.drains
            ],
            "problems": list(self.problems),
        }
        if self.pods is not None:
            document["pods"] = list(self.pods)
        return document


def of_node(name: str, processes: Iterable[Process], samples: Sequence[Sample] | None, sync: Sync) -> Node:
    """Return the health of a node; ``samples`` are its node agent's, None when it did not answer."""
    here = [one for one in processes if one.node == name]
    agent = any(one.ready for one in here if one.part is Part.NODE_AGENT)
    ztunnel = any(one.ready for one in here if one.part is Part.ZTUNNEL)
    if samples is None:
        return Node(name, agent, ztunnel, sync)
    values = {one.name: one.value for one in samples if not one.labels}
    ends = [one.value for one in samples if one.name == _EXPIRY]
    held = [end for end in ends if end > 0]
    plugin = values.get("istio_cni_install_ready")
    return Node(
        name,
        agent,
        ztunnel,
        sync,
        captured=int(values.get("culvert_captured_pods", 0)),
        connected=values.get("ztunnel_connected", 0) > 0,
        plugin=None if plugin is None else plugin > 0,
        certificates=len(held),
        missing=len(ends) - len(held),
        expires=datetime.fromtimestamp(min(held), UTC) if held else None,
    )


def drain_of(process: Process, samples: Sequence[Sample] | None) -> Drain:
    """Return how far a draining ztunnel is; ``samples`` are its metrics, None when it did not answer."""
    open_connections = [one.value for one in samples or () if one.name == "culvert_open_connections"]
    until = datetime.fromisoformat(process.item["metadata"]["deletionTimestamp"])
    return Drain(process.node, process.pod, int(open_connections[0]) if open_connections else None, until)


def sync_of(node: str, streams: Sequence[Json]) -> Sync:
    """Return whether the ztunnel of a node has what the control plane sent last."""
    mine = [one for one in streams if one.get("node") == node]
    if not mine:
        return Sync.NOT_CONNECTED
    types = [one for stream in mine for one in stream["types"].values()]
    states = {state(one) for one in types}
    if State.NACK in states:
        return Sync.REFUSED
    return Sync.SYNCED if states <= {State.SYNCED} else Sync.BEHIND


def problems(
    parts: Sequence[Readiness], nodes: Sequence[Node], processes: Sequence[Process], now: datetime
) -> list[str]:
    """Return the problems, one sentence each."""
    found = [f"{one.part.title}: {one.ready} of {one.desired} ready" for one in parts if not one.complete]
    found += [
        f"{one.part.title} on {one.node or 'no node'} ({one.pod}): {reason(one.item)}"
        for one in processes
        if not one.ready and not one.item["metadata"].get("deletionTimestamp")
    ]
    for node in nodes:
        found += [f"{node.name}: {text}" for text in _node_problems(node, now)]
    return found


def _node_problems(node: Node, now: datetime) -> list[str]:
    found: list[str] = []
    if node.agent and node.captured is None:
        found.append("the node agent does not answer")
    if node.captured is not None and not node.connected:
        found.append("ztunnel is not connected to the node agent: enrolled pods cannot start")
    if node.plugin is False:
        found.append("the CNI plugin is not in place: new pods are captured late")
    if node.ztunnel and node.sync in (Sync.NOT_CONNECTED, Sync.REFUSED):
        found.append(f"ztunnel and control plane: {node.sync.value}")
    if node.missing:
        found.append(f"{node.missing} identities have no certificate")
    if node.expires is not None and node.expires <= now:
        found.append(f"a certificate expired at {node.expires:%Y-%m-%d %H:%M:%S}Z")
    return found


def table(health: Health, now: datetime) -> str:
    """Return the same as tables: parts, nodes, draining ztunnels, pods."""
    parts = Table(("COMPONENT", "READY"), [(one.part.title, f"{one.ready}/{one.desired}") for one in health.parts])
    rows = [
        (
            one.name,
            "ready" if one.agent else "not ready",
            "ready" if one.ztunnel else "not ready",
            one.sync.value,
            {None: "-", True: "installed", False: "missing"}[one.plugin],
            "?" if one.captured is None else str(one.captured),
            _certificates(one, now),
        )
        for one in health.nodes
    ]
    columns = ("NODE", "NODE AGENT", "ZTUNNEL", "XDS", "CNI PLUGIN", "CAPTURED PODS", "CERTIFICATES")
    drains = "".join(f"\n{one}" for one in health.drains)
    pods = "" if health.pods is None else f"\n\n{pod_states.table(health.pods)}"
    return f"{parts}\n\n{Table(columns, rows)}" + (f"\n{drains}" if drains else "") + pods


def _certificates(node: Node, now: datetime) -> str:
    if node.expires is None:
        return str(node.certificates)
    left_s = int((node.expires - now).total_seconds())
    hours, minutes = divmod(max(left_s, 0) // 60, 60)
    return f"{node.certificates}, first ends in {hours} h {minutes} min"


def _document(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "nodeAgentReady": node.agent,
        "ztunnelReady": node.ztunnel,
        "xds": node.sync.value,
        "cniPlugin": node.plugin,
        "capturedPods": node.captured,
        "certificates": node.certificates,
        "certificatesMissing": node.missing,
        "firstCertificateExpires": node.expires.isoformat() if node.expires else None,
    }
