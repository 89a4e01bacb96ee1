"""What DestinationRules name by ``tls.credentialName``, for each proxy whose clusters need it: over SDS, to it alone.

Without usable roots a proxy gets a root that has signed no certificate; without a usable certificate it gets none.
Either way its connections fail, and the DestinationRule's condition says why.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from controlplane.envoy import transport
from controlplane.envoy.placing import Made, placed
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.lookups import Group, Index
from controlplane.graph.scheduler import Graph
from controlplane.inputs.sources import Inputs, TlsSecret
from controlplane.stages import CLUSTERS
from meshkit.kube import Key

Use = tuple[Key, str]
"""The Gateway of a proxy, and the name of the Secret in its namespace."""


class Credentials:
    """The secrets of all proxies.

    Attributes:
        made: the collections of resources.
    """

    def __init__(self, graph: Graph, inputs: Inputs, clusters: Sequence[Derived[Any, Made]]) -> None:
        self._inputs = inputs
        self._uses: list[Index[Use, Any, Made]] = [Index(one, lambda made: made.credentials) for one in clusters]
        self.made: tuple[Derived[Any, Made], ...] = tuple(
            Derived(graph, f"credentials {number}", one, CLUSTERS, functools.partial(self._secrets, number))
            for number, one in enumerate(self._uses)
        )

    def wanted(self) -> set[Key]:
        """Return the Secrets that proxies need."""
        return {(view[0], name) for made in self.made for view, name in made.keys()}  # noqa: SIM118  # no mapping

    def on_change(self, handler: Callable[..., None]) -> None:
        """Call ``handler`` when other Secrets may be wanted."""
        for made in self.made:
            made.add_handler(handler)

    def _secrets(self, number: int, group: Group[Use, Any, Made], fetch: Fetch) -> Made | None:
        if any(fetch.members(earlier, group.key) for earlier in self._uses[:number]):
            return None
        view, name = group.key
        found = fetch.find(self._inputs.secrets, (view[0], name))
        # Not read yet: the cluster waits.
        return Made(() if found is None else placed(view, _messages(name, found)))


def _messages(name: str, found: TlsSecret) -> Iterable[secret_pb2.Secret]:
    if found.chain:
        yield secret_pb2.Secret(name=transport.credential_name(name), tls_certificate=transport.certificate(found))
    validation = transport.roots(found.roots, found.revoked) if found.roots else transport.no_roots()
    yield secret_pb2.Secret(name=transport.credential_roots_name(name), validation_context=validation)
