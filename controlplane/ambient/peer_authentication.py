"""From PeerAuthentication to DENY policies for callers without identity.

Levels: mesh (root namespace, no selector), namespace (no selector), workload (selector, outside the root namespace).
The oldest object of a level counts; ``UNSET`` takes the parent's mode; without any, plain text is allowed.
``DISABLE`` is ``PERMISSIVE`` here: what ztunnel sends is always tunnelled where the peer can.

One static policy, "deny without identity", serves every workload that is STRICT on all ports. Only a workload level
object whose ports differ needs a policy of its own. Facts: Istio's ``ambient/policies.go``, ``authorization.go``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from meshapi import names
from meshapi.proto import authorization_pb2 as pb
from meshapi.resources.security import MtlsMode, PeerAuthentication


@dataclass(frozen=True, slots=True)
class Levels:
    """The objects that decide for one workload, from the widest to the narrowest."""

    mesh: PeerAuthentication | None = None
    namespace: PeerAuthentication | None = None
    workload: PeerAuthentication | None = None

    @property
    def parent_is_strict(self) -> bool:
        """Whether mesh and namespace demand mutual TLS."""
        mode = MtlsMode.PERMISSIVE
        for level in (self.mesh, self.namespace):
            if level is not None and level.spec.mtls.mode is not MtlsMode.UNSET:
                mode = level.spec.mtls.mode
        return mode is MtlsMode.STRICT


def selector(peer: PeerAuthentication) -> dict[str, str]:
    """Return the labels that pods must have; empty for an object of a whole namespace."""
    return peer.spec.selector.match_labels if peer.spec.selector else {}


def oldest(peers: Iterable[PeerAuthentication]) -> PeerAuthentication | None:
    """Return the object that counts among those of one level."""
    return min(peers, key=lambda peer: (peer.metadata.creation_timestamp, peer.key), default=None)


def attached(levels: Levels, root_namespace: str) -> list[str]:
    """Return the names of the policies that a workload must list."""
    static = f"{root_namespace}/{names.STATIC_STRICT_POLICY}"
    if levels.workload is None:
        return [static] if levels.parent_is_strict else []
    if _differing_ports(levels.workload, parent_is_strict=levels.parent_is_strict):
        namespace, name = levels.workload.key
        return [f"{namespace}/{names.CONVERTED_PEER_AUTHENTICATION_PREFIX}{name}"]
    return [static] if _is_strict(levels.workload, parent_is_strict=levels.parent_is_strict) else []


def converted(peer: PeerAuthentication, *, parent_is_strict: bool) -> pb.Authorization | None:
    """Return the policy of a workload level object whose ports differ, else ``None``."""
    ports = _differing_ports(peer, parent_is_strict=parent_is_strict)
    if not ports or not selector(peer):
        return None
    if _is_strict(peer, parent_is_strict=parent_is_strict):
        exempt = [pb.Clause(matches=[pb.Match(not_destination_ports=[port])]) for port in ports]
        rules = [pb.Rule(clauses=[pb.Clause(matches=[_without_identity()]), *exempt])]
    else:
        rules = [pb.Rule(clauses=[pb.Clause(matches=[_without_identity(destination_ports=[port])])]) for port in ports]
    namespace, name = peer.key
    return pb.Authorization(
        name=names.CONVERTED_PEER_AUTHENTICATION_PREFIX + name,
        namespace=namespace,
        scope=pb.WORKLOAD_SELECTOR,
        action=pb.DENY,
        rules=rules,
    )


def static_strict(root_namespace: str) -> pb.Authorization:
    """Return the policy that denies every caller without identity."""
    return pb.Authorization(
        name=names.STATIC_STRICT_POLICY,
        namespace=root_namespace,
        scope=pb.WORKLOAD_SELECTOR,
        action=pb.DENY,
        rules=[pb.Rule(clauses=[pb.Clause(matches=[_without_identity()])])],
    )


def _is_strict(peer: PeerAuthentication, *, parent_is_strict: bool) -> bool:
    mode = peer.spec.mtls.mode
    return parent_is_strict if mode is MtlsMode.UNSET else mode is MtlsMode.STRICT


def _differing_ports(peer: PeerAuthentication, *, parent_is_strict: bool) -> list[int]:
    """Return the ports whose strictness is not the workload's."""
    strict = _is_strict(peer, parent_is_strict=parent_is_strict)
    return sorted(
        int(port)
        for port, tls in peer.spec.port_level_mtls.items()
        if tls.mode is not MtlsMode.UNSET and (tls.mode is MtlsMode.STRICT) is not strict
    )


def _without_identity(destination_ports: Iterable[int] = ()) -> pb.Match:
    match = pb.Match(destination_ports=destination_ports)
    match.not_principals.add().presence.SetInParent()
    return match
