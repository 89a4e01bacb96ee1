"""What all computations start from: objects, the mesh's configuration, and what is wrong with objects."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from controlplane.graph.collection import Setting, Source
from controlplane.graph.scheduler import Graph
from controlplane.inputs.kinds import KINDS, InputKind
from controlplane.inputs.mesh import MeshContext
from meshapi.mesh_config.model import MeshConfig
from meshapi.resources import base, core
from meshkit.kube import Key

ObjectT = TypeVar("ObjectT", bound=base.Object)

MESH: Key = ("", "mesh")
"""The key of the only mesh configuration."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an object, as it is now, cannot be used.

    Attributes:
        kind: title of the object's kind.
        key: the object.
        reason: names the field and the fix.
        generation: of the invalid form.
        is_substituted: whether a fail-closed substitute is in force; otherwise the last good form is.
    """

    kind: str
    key: Key
    reason: str
    generation: int
    is_substituted: bool


@dataclass(frozen=True, slots=True)
class Rejection:
    """A resource that a proxy has refused (a NACK) and has not accepted since.

    Attributes:
        proxy: a proxy that refused it.
        reason: what the proxy wrote.
        others: whether more proxies have refused it.
    """

    proxy: str
    reason: str
    others: bool


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of a token issuer, as far as they could be fetched.

    Attributes:
        keys: the last good ones, as JSON (RFC 7517); ``None``: there never were any.
        fault: why they could not be fetched the last time; empty: they could.
    """

    keys: str | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates of authorities out of a ConfigMap.

    Attributes:
        pem: the certificates; empty: there are none.
        fault: why there are none, as what the ConfigMap does or has.
    """

    pem: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class TlsSecret:
    """A certificate with its private key, and roots, out of a Secret that gateways or DestinationRules name.

    Attributes:
        chain: the certificate first, PEM; empty: it cannot be used.
        key: the private key, PEM; never shown.
        fault: why it cannot be used, as what the Secret does or has.
        warning: what is wrong with one that is used all the same.
        roots: certificates of authorities that the peer's certificate is checked against, PEM; empty: there are none.
        revoked: revocation lists of these authorities, PEM.
        roots_fault: why there are no roots, as what the Secret does or has.
        is_there: whether the Secret exists.
    """

    chain: str = ""
    key: str = field(default="", repr=False)
    fault: str = ""
    warning: str = ""
    roots: str = ""
    revoked: str = ""
    roots_fault: str = ""
    is_there: bool = True


class Inputs:
    """The sources of one graph.

    Attributes:
        mesh: facts about the whole mesh.
        config: the mesh configuration in force, under ``MESH``; absent until it was read.
        namespaces: all namespaces, discovered or not.
        faults: invalid objects, by title of the kind and key.
        rejections: resources that proxies have refused, by type URL and name (``inputs.rejections.name_in``).
        key_sets: keys of token issuers that are fetched, by URL (empty: the issuer names it) and issuer.
        certificates: certificates of authorities that policies and gateways name, by key of the ConfigMap.
        secrets: what gateways and DestinationRules name, by key of the Secret; absent until it was read.
    """

    def __init__(self, graph: Graph, mesh: MeshContext, kinds: Iterable[InputKind] = KINDS) -> None:
        self.mesh = Setting(graph, mesh)
        self.config: Source[Key, MeshConfig] = Source(graph, "mesh configuration")
        self.namespaces: Source[Key, core.Namespace] = Source(graph, "namespaces")
        self.faults: Source[tuple[str, Key], Fault] = Source(graph, "faults")
        self.rejections: Source[tuple[str, str], Rejection] = Source(graph, "rejections")
        self.key_sets: Source[tuple[str, str], KeySet] = Source(graph, "key sets")
        self.certificates: Source[Key, Certificates] = Source(graph, "certificates")
        self.secrets: Source[Key, TlsSecret] = Source(graph, "secrets")
        self._sources: dict[type[Any], Source[Key, base.Object]] = {
            item.model: Source(graph, item.kind.plural_title) for item in kinds
        }

    def of(self, model: type[ObjectT]) -> Source[Key, ObjectT]:
        """Return the objects of a kind, by its model."""
        return cast("Source[Key, ObjectT]", self._sources[model])
