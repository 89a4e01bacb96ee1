"""Decides which objects enter the model: those of discovered namespaces, except ServiceEntries of visibility NONE.

All other objects are kept here, outside the model. A change of ``discoverySelectors`` or of a namespace's labels moves
objects between the two, without a new list. The control plane's own namespace and the root namespace are always
discovered: the node agents' certificates and the mesh's policies depend on them.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from controlplane.ambient.model import Model
from controlplane.graph.index import Index, Key
from controlplane.inputs import visibility
from controlplane.inputs.mesh import MeshContext
from meshapi.mesh_config.model import Visibility
from meshapi.resources.base import Object
from meshapi.resources.core import Namespace
from meshapi.resources.networking import ServiceEntry
from meshapi.selectors import LabelSelector

ObjectT = TypeVar("ObjectT", bound=Object)
Put = Callable[[ObjectT | None, ObjectT | None], None]


class _Refiltered(Protocol):
    def refilter(self, namespace: str | None) -> None: ...


class Discovery:
    """Filters between the informers and the model."""

    def __init__(self, model: Model, *, system_namespace: str) -> None:
        self._model = model
        self._system_namespace = system_namespace
        self._selectors: tuple[LabelSelector, ...] = ()
        self._feeds: list[_Refiltered] = []

    def feed(self, held: Index[ObjectT], put: Put[ObjectT]) -> "Feed[ObjectT]":
        """Return the way into the model of one kind of objects; the model holds them in ``held``."""
        feed = Feed(held, put, self.discovers, self._is_visible)
        self._feeds.append(feed)
        return feed

    def discovers(self, namespace: str) -> bool:
        """Return whether a namespace is discovered; objects without a namespace always are."""
        if not self._selectors or namespace in {"", self._system_namespace, self._model.mesh.root_namespace}:
            return True
        found = self._model.namespaces.find(("", namespace))
        return found is not None and any(selector.matches(found.metadata.labels) for selector in self._selectors)

    def put_namespace(self, old: Namespace | None, new: Namespace | None) -> bool:
        """File a namespace; return whether it is discovered now and was not before, or the reverse."""
        item = new if new is not None else old
        if item is None:
            return False
        name = item.metadata.name
        before = self.discovers(name)
        self._model.put_namespace(old, new)
        if self._selectors or self._model.mesh.service_entry_visibility is not None:
            self._refilter(name)
        return before is not self.discovers(name)

    def put_mesh(self, mesh: MeshContext, selectors: tuple[LabelSelector, ...]) -> None:
        """Take new facts about the whole mesh, and the selectors of discovered namespaces (none: all are)."""
        if mesh == self._model.mesh and selectors == self._selectors:
            return
        self._selectors = selectors
        self._model.put_mesh(mesh)
        self._refilter(None)

    def _refilter(self, namespace: str | None) -> None:
        for feed in self._feeds:
            feed.refilter(namespace)

    def _is_visible(self, item: Object) -> bool:
        if not isinstance(item, ServiceEntry):
            return True
        labels = self._model.labels_of_namespace(item.metadata.namespace)
        return visibility.of_entry(item, self._model.mesh, labels) is not Visibility.NONE


class Feed(Generic[ObjectT]):
    """Objects of one kind on their way into the model, and those that stay outside.

    Args:
        held: the model's objects.
        put: files an object in the model.
        discovers: whether a namespace is discovered.
        is_visible: whether an object is visible in any namespace.
    """

    def __init__(
        self,
        held: Index[ObjectT],
        put: Put[ObjectT],
        discovers: Callable[[str], bool],
        is_visible: Callable[[ObjectT], bool],
    ) -> None:
        self._held = held
        self._put = put
        self._discovers = discovers
        self._is_visible = is_visible
        self._outside: Index[ObjectT] = Index()

    def put(self, old: ObjectT | None, new: ObjectT | None) -> None:
        """Take a change from an informer."""
        known = old if old is not None and self._held.find(old.key) is not None else None
        if old is not None and known is None:
            self._outside.put(old, None)
        if new is not None and self._admits(new):
            self._put(known, new)
            return
        if known is not None:
            self._put(known, None)
        if new is not None:
            self._outside.put(None, new)

    def find(self, key: Key) -> ObjectT | None:
        """Return an object, in the model or outside."""
        return self._held.find(key) or self._outside.find(key)

    def refilter(self, namespace: str | None) -> None:
        """Move objects whose admission has changed, of one namespace or (``None``) of all."""
        for name in [namespace] if namespace is not None else {*self._held.namespaces(), *self._outside.namespaces()}:
            for item in self._held.within(name):
                if not self._admits(item):
                    self._put(item, None)
                    self._outside.put(None, item)
            for item in self._outside.within(name):
                if self._admits(item):
                    self._outside.put(item, None)
                    self._put(None, item)

    def _admits(self, item: ObjectT) -> bool:
        return self._discovers(item.metadata.namespace) and self._is_visible(item)
