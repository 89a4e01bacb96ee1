"""ReferenceGrants: whether an object may refer to one of another namespace. Source: Gateway API v1."""

from dataclasses import dataclass

from controlplane.graph.derived import Fetch
from controlplane.graph.lookups import Index
from controlplane.inputs.sources import Inputs
from meshapi.resources.gateway import GROUP
from meshapi.resources.gateway_routes import ReferenceGrant
from meshkit.kube import Key


@dataclass(frozen=True, slots=True)
class Referrer:
    """Who refers: an object of a kind of the Gateway API, in a namespace."""

    kind: str
    namespace: str


class Grants:
    """The ReferenceGrants of one mesh."""

    def __init__(self, inputs: Inputs) -> None:
        self._by_namespace: Index[str, Key, ReferenceGrant] = Index(
            inputs.of(ReferenceGrant), lambda grant: (grant.metadata.namespace,)
        )

    def allow(self, who: Referrer, kind: str, key: Key, fetch: Fetch) -> bool:
        """Return whether ``who`` may refer to an object of the core group."""
        return who.namespace == key[0] or any(
            _grants(grant, who, kind, key[1]) for grant in fetch.members(self._by_namespace, key[0])
        )


def _grants(grant: ReferenceGrant, who: Referrer, kind: str, name: str) -> bool:
    from_ = any((one.group, one.kind, one.namespace) == (GROUP, who.kind, who.namespace) for one in grant.spec.from_)
    to = any((one.group, one.kind) == ("", kind) and one.name in {"", name} for one in grant.spec.to)
    return from_ and to
