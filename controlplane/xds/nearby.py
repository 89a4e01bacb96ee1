"""What one proxy of a waypoint sees: the waypoint's world, with endpoints arranged for the place of that proxy."""

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from controlplane.envoy import nearness
from controlplane.routing.localities import LOCALITY_KEYS
from meshapi import names
from meshapi.resources.core import Node, Pod
from meshkit.xds.source import Listener, Resource, ResourceSource, versioned

_ARRANGED: Final = frozenset({names.CLUSTER_TYPE, names.ENDPOINT_TYPE})


class Nearby:
    """A ``ResourceSource``: another one, with some of its resources arranged.

    Args:
        source: what all proxies of the waypoint see.
        proxy: labels of the proxy, those of its place among them.
    """

    def __init__(self, source: ResourceSource, proxy: Mapping[str, str]) -> None:
        self._source = source
        self._proxy = proxy
        self._made: dict[tuple[str, str], tuple[str, Resource]] = {}
        self.announces_missing = source.announces_missing

    def serves(self, type_url: str) -> bool:
        """See ``ResourceSource.serves``."""
        return self._source.serves(type_url)

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """See ``ResourceSource.lookup``."""
        found = self._source.lookup(type_url, name)
        return None if found is None else self._arranged(type_url, found)

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """See ``ResourceSource.resolve``."""
        return [self._arranged(type_url, one) for one in self._source.resolve(type_url, name)]

    def all(self, type_url: str) -> Collection[Resource]:
        """See ``ResourceSource.all``."""
        found = self._source.all(type_url)
        return [self._arranged(type_url, one) for one in found] if type_url in _ARRANGED else found

    def watch(self, listener: Listener) -> Callable[[], None]:
        """See ``ResourceSource.watch``."""
        return self._source.watch(listener)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``."""
        self._source.wanted(type_url, names)

    def _arranged(self, type_url: str, found: Resource) -> Resource:
        if type_url not in _ARRANGED or nearness.MARKER not in found.body:
            self._made.pop((type_url, found.name), None)
            return found
        key = (type_url, found.name)
        version, made = self._made.get(key, ("", found))
        if version != found.version:
            made = _arrange(type_url, found, self._proxy)
            self._made[key] = (found.version, made)
        return made


def _arrange(type_url: str, found: Resource, proxy: Mapping[str, str]) -> Resource:
    if type_url == names.ENDPOINT_TYPE:
        assignment = endpoint_pb2.ClusterLoadAssignment.FromString(found.body)
        nearness.arranged(assignment, proxy)
        return versioned(found.name, assignment, aliases=found.aliases, parents=found.parents)
    cluster = cluster_pb2.Cluster.FromString(found.body)
    nearness.arranged(cluster.load_assignment, proxy)
    return versioned(found.name, cluster, aliases=found.aliases, parents=found.parents)


def labels_of(pod: Pod | None, node: Node | None) -> Mapping[str, str]:
    """Return the labels of a proxy: its pod's, and those of the node's place."""
    own = {} if pod is None else dict(pod.metadata.labels)
    if node is None:
        return own
    place = {key: node.metadata.labels.get(key, "") for key in LOCALITY_KEYS}
    return {**own, **place, names.HOSTNAME_LABEL: node.metadata.name}
