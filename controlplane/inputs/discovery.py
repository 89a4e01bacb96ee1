"""Decides which objects are in the mesh: those of discovered namespaces, except ServiceEntries of visibility NONE.

All other objects are kept here, outside the graph. A change of ``discoverySelectors`` or of a namespace's labels moves
objects between the two, without a new list. The control plane's own namespace and the root namespace are always
discovered: the node agents' certificates and the mesh's policies depend on them.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from controlplane.graph.collection import Source
from controlplane.inputs import visibility
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import Inputs
from meshapi.mesh_config.model import Visibility
from meshapi.resources.base import Object
from meshapi.resources.core import Namespace
from meshapi.resources.networking import ServiceEntry
from meshapi.selectors import LabelSelector
from meshkit.kube import Key

ObjectT = TypeVar("ObjectT", bound=Object)


class Discovery:
    """Filters between the informers and the graph."""

    def __init__(self, inputs: Inputs, *, system_namespace: str) -> None:
        self._inputs = inputs
        self._system_namespace = system_namespace
        self._selectors: tuple[LabelSelector, ...] = ()
        self._feeds: list[Feed[Any]] = []

    def feed(self, source: Source[Key, ObjectT]) -> "Feed[ObjectT]":
        """Return the way into the graph for the objects of one kind."""
        feed = Feed(source, self.discovers, self._is_visible)
        self._feeds.append(feed)
        return feed

    def discovers(self, namespace: str) -> bool:
        """Return whether a namespace is discovered; objects without a namespace always are."""
        if not self._selectors or namespace in {"", self._system_namespace, self._inputs.mesh.value.root_namespace}:
            return True
        found = self._inputs.namespaces.find(("", namespace))
        return found is not None and any(selector.matches(found.metadata.labels) for selector in self._selectors)

    def put_namespace(self, key: Key, new: Namespace | None) -> bool:
        """Set a namespace; return whether it is discovered now and was not before, or the reverse."""
        name = key[1]
        before = self.discovers(name)
        self._inputs.namespaces.set(key, new)
        if self._selectors or self._inputs.mesh.value.service_entry_visibility is not None:
            self._refilter(name)
        return before is not self.discovers(name)

    def put_mesh(self, mesh: MeshContext, selectors: tuple[LabelSelector, ...]) -> None:
        """Take new facts about the whole mesh, and the selectors of discovered namespaces (none: all are)."""
        if mesh == self._inputs.mesh.value and selectors == self._selectors:
            return
        self._selectors = selectors
        self._inputs.mesh.set(mesh)
        self._refilter(None)

    def _refilter(self, namespace: str | None) -> None:
        for feed in self._feeds:
            feed.refilter(namespace)

    def _is_visible(self, item: Object) -> bool:
        if not isinstance(item, ServiceEntry):
            return True
        namespace = self._inputs.namespaces.find(("", item.metadata.namespace))
        return visibility.of_entry(item, self._inputs.mesh.value, namespace) is not Visibility.NONE


class Feed(Generic[ObjectT]):
    """Objects of one kind on their way into the graph, and the ones that are kept outside.

    Args:
        source: the graph's objects.
        discovers: whether a namespace is discovered.
        is_visible: whether an object is visible in any namespace.
    """

    def __init__(
        self,
        source: Source[Key, ObjectT],
        discovers: Callable[[str], bool],
        is_visible: Callable[[ObjectT], bool],
    ) -> None:
        self._source = source
        self._discovers = discovers
        self._is_visible = is_visible
        self._outside: dict[Key, ObjectT] = {}

    def put(self, key: Key, new: ObjectT | None) -> None:
        """Set an object, as an informer reports it; ``None`` removes it."""
        self._outside.pop(key, None)
        if new is not None and not self._admits(new):
            self._outside[key] = new
            new = None
        self._source.set(key, new)

    def find(self, key: Key) -> ObjectT | None:
        """Return an object, in the graph or outside."""
        return self._source.find(key) or self._outside.get(key)

    def refilter(self, namespace: str | None) -> None:
        """Move objects whose admission has changed, of one namespace or (``None``) of all."""
        outgoing = [(key, item) for key, item in self._source.items() if not self._admits_in(namespace, key, item)]
        incoming = [
            (key, item) for key, item in self._outside.items() if namespace in {None, key[0]} and self._admits(item)
        ]
        for key, item in outgoing + incoming:
            self.put(key, item)

    def _admits_in(self, namespace: str | None, key: Key, item: ObjectT) -> bool:
        return namespace not in {None, key[0]} or self._admits(item)

    def _admits(self, item: ObjectT) -> bool:
        return self._discovers(item.metadata.namespace) and self._is_visible(item)
