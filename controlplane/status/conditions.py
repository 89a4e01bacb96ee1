"""What is made of an object, as conditions: layer 4 of a policy, labels for waypoints of everything else. Pure.

Types and reasons are Istio's (``pilot/pkg/serviceregistry/ambient/policies.go`` and ``pilot/pkg/model/service.go``).
``False`` of a policy does not mean that nothing of it is in force; the message names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.ambient import authorization, peer_authentication
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import Rejection
from controlplane.waypoints.attachment import Attachment
from meshapi import names
from meshapi.errors import brief, listed
from meshapi.resources import base, security
from meshapi.resources.networking import Resolution, ServiceEntry

ZTUNNEL_ACCEPTED: Final = "ZtunnelAccepted"
WAYPOINT_ACCEPTED: Final = "WaypointAccepted"
WAYPOINT_BOUND: Final = "istio.io/WaypointBound"
GATEWAY_ACCEPTED: Final = "GatewayAccepted"
TYPES: Final = frozenset({ZTUNNEL_ACCEPTED, WAYPOINT_ACCEPTED, WAYPOINT_BOUND, GATEWAY_ACCEPTED})
"""Condition types that the control plane writes; on every kind of object it leaves other types alone."""
ACCEPTED: Final = "Accepted"
UNSUPPORTED: Final = "UnsupportedValue"
INVALID: Final = "Invalid"
REJECTED: Final = "RejectedByProxy"
NOT_BOUND: Final = "AncestorNotBound"
NOT_READY: Final = "WaypointIsNotReady"
OVERRIDDEN: Final = "Overridden"
_ATTACHED: Final = "attached to ztunnel"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition without its times."""

    accepted: bool
    reason: str
    message: str
    type: str = ZTUNNEL_ACCEPTED


def of_policy(policy: security.AuthorizationPolicy, mesh: MeshContext, problems: Sequence[str]) -> Condition | None:
    """Return the condition of an AuthorizationPolicy; ``None`` for one that only waypoints enforce.

    Args:
        policy: the policy.
        mesh: the mesh.
        problems: what layer 4 leaves out of it, as its translation reports.
    """
    spec = policy.spec
    if spec.target_ref is not None or spec.target_refs:
        return None
    if spec.action not in {security.Action.ALLOW, security.Action.DENY}:
        return Condition(False, UNSUPPORTED, f"action {spec.action} needs a waypoint (layer 7); ztunnels do not get it")
    if not authorization.is_sent(policy, mesh):
        reason = "dry run is not sent to ztunnels; set controlPlane.dryRunPolicies to true in the chart's values"
        return Condition(False, UNSUPPORTED, reason)
    found = [*problems, *_unknown(policy)]
    if found:
        return _unsupported(found)
    if authorization.is_dry_run(policy):
        return Condition(True, ACCEPTED, f"{_ATTACHED} for a dry run: it decides nothing, what it would is counted")
    return Condition(True, ACCEPTED, _ATTACHED)


def of_peer(peer: security.PeerAuthentication, mesh: MeshContext) -> Condition:
    """Return the condition of a PeerAuthentication."""
    chooses = bool(peer_authentication.selector(peer))
    problems = []
    if chooses and peer.metadata.namespace == mesh.root_namespace:
        problems.append("a selector in the root namespace chooses nothing; write the object into the pods' namespace")
    if peer.spec.port_level_mtls and not chooses:
        problems.append("spec.portLevelMtls counts only with spec.selector; it is ignored")
    modes = {"spec.mtls.mode": peer.spec.mtls.mode} | {
        f"spec.portLevelMtls[{port}].mode": tls.mode for port, tls in sorted(peer.spec.port_level_mtls.items())
    }
    problems += [
        f"{path} DISABLE is taken for PERMISSIVE: calls between pods of the mesh stay encrypted"
        for path, mode in modes.items()
        if mode is security.MtlsMode.DISABLE
    ]
    problems += _unknown(peer)
    return _unsupported(problems) if problems else Condition(True, ACCEPTED, _ATTACHED)


def of_entry(entry: ServiceEntry) -> Condition | None:
    """Return the condition of a ServiceEntry; ``None`` for one whose hosts have addresses."""
    if entry.spec.resolution is not Resolution.NONE or entry.spec.addresses:
        return None
    held = f"{names.EGRESS_LABEL}={names.EGRESS_REGISTRY_ONLY}"
    message = (
        f"{_ATTACHED}; spec.resolution is NONE and spec.addresses is empty, so the hosts have no address: pods with"
    )
    return Condition(True, ACCEPTED, f"{message} {held} resolve them and are refused connections; write spec.addresses")


def of_attachment(attachment: Attachment | None) -> Condition | None:
    """Return the condition of an object whose labels, or whose namespace's, name a waypoint."""
    if attachment is None:
        return None
    if attachment.problem is not None:
        return Condition(False, attachment.problem.reason, attachment.problem.message, WAYPOINT_BOUND)
    if attachment.waypoint is None:
        return None
    message = f"attached to waypoint {'/'.join(attachment.waypoint)}"
    if attachment.ingress:
        message += "; traffic from ingress gateways goes through it, too"
    elif attachment.ingress is not None:
        message += f"; traffic from ingress gateways does not go through it: {names.INGRESS_USE_WAYPOINT_LABEL}=true"
    return Condition(True, "WaypointAccepted", message, WAYPOINT_BOUND)


def of_refused(reason: str) -> Condition:
    """Return the condition of an object that could not be read."""
    return Condition(False, INVALID, f"{reason}; the last good form stays in effect")


def of_rejected(rejection: Rejection) -> Condition:
    """Return the condition of an object that a proxy refuses."""
    by = f"{rejection.proxy} and others" if rejection.others else rejection.proxy
    return Condition(
        False, REJECTED, f"rejected by {by}: {brief(rejection.reason)}; the last good form stays in effect"
    )


def of_substituted(reason: str) -> Condition:
    """Return the condition of an object that could not be read and has no last good form."""
    return Condition(False, INVALID, f"{reason}; until it is fixed, the selected workloads deny all traffic")


def _unsupported(problems: Sequence[str]) -> Condition:
    return Condition(False, UNSUPPORTED, listed(problems))


def _unknown(item: base.Object) -> list[str]:
    return [f"{path} is not known and ignored" for path in base.unknown_fields(item)]
