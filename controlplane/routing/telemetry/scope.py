"""Which Telemetries count for a service at a waypoint, from the most general one to the most special one.

Where several are for one namespace, the oldest counts alone; all that are attached to a target count. A waypoint has no
labels that a selector could choose; pods of Gateways of Istio's API have, and what selects them counts as attached.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from controlplane.gateways.collections import Gateways
from controlplane.graph.derived import Fetch
from controlplane.graph.lookups import Index, SelectorIndex
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import MESH, Inputs
from controlplane.inputs.targets import Target, targets
from controlplane.routing import policies
from controlplane.routing.services import Service
from meshapi.mesh_config import providers
from meshapi.mesh_config.model import MeshConfig
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.telemetry import Telemetry
from meshkit.kube import Key

_DEFAULT: Final = MeshConfig()


class Telemetries:
    """The Telemetries of one mesh."""

    def __init__(self, inputs: Inputs, gateways: Gateways) -> None:
        self._gateways = gateways
        self._mesh = inputs.mesh
        self._config = inputs.config
        objects = inputs.of(Telemetry)
        self._for_namespaces: Index[str, Key, Telemetry] = Index(
            objects, lambda item: (item.metadata.namespace,) if item.spec.is_for_namespace else ()
        )
        self._attached: Index[Target, Key, Telemetry] = Index(objects, targets)
        self._selecting: SelectorIndex[Key, Telemetry] = SelectorIndex(objects, _selector)

    def config(self, fetch: Fetch) -> MeshConfig:
        """Return the mesh configuration in force."""
        return fetch.find(self._config, MESH) or _DEFAULT

    def mesh(self, fetch: Fetch) -> MeshContext:
        """Return facts about the whole mesh."""
        return fetch.setting(self._mesh)

    def providers(self, fetch: Fetch) -> Mapping[str, ExtensionProvider]:
        """Return the extension providers of the mesh configuration and the built-in ones, by name in lower case."""
        return providers.by_name(self.config(fetch).extension_providers)

    def counting(self, service: Service | None, view: Key, fetch: Fetch) -> tuple[Telemetry, ...]:
        """Return the Telemetries for a service at a waypoint, or (``None``) for the waypoint itself, in order."""
        root, owner = fetch.setting(self._mesh).root_namespace, view[0] if service is None else service.namespace
        gateway = fetch.find(self._gateways.known, view)
        labels = gateway.labels if gateway is not None and gateway.merged else frozenset()
        found = [
            *(one for space in {root, view[0], owner} for one in fetch.members(self._for_namespaces, space)),
            *(
                one
                for target in policies.targets_of(service, view, root, is_waypoint=gateway is None)
                for one in fetch.members(self._attached, target)
            ),
            *(one for space in {root, view[0]} for one in fetch.matching(self._selecting, space, labels)),
        ]
        return inherited(found, root=root, proxy=view[0], owner=owner)

    def parents(self, item: Telemetry, fetch: Fetch) -> tuple[Telemetry, ...]:
        """Return the Telemetries that are for all of the root namespace, and of the namespace of one."""
        root, own = fetch.setting(self._mesh).root_namespace, item.metadata.namespace
        found = [one for space in {root, own} for one in fetch.members(self._for_namespaces, space)]
        return inherited(found, root=root, proxy=own, owner=own)

    def rival(self, item: Telemetry, fetch: Fetch) -> Key | None:
        """Return the older Telemetry that counts for the namespace instead of one; ``None``: none does."""
        if not item.spec.is_for_namespace:
            return None
        oldest = min(fetch.members(self._for_namespaces, item.metadata.namespace), key=lambda one: one.metadata.age)
        return None if oldest.key == item.key else oldest.key


def inherited(found: Iterable[Telemetry], *, root: str, proxy: str, owner: str) -> tuple[Telemetry, ...]:
    """Return the Telemetries that count, in order: later ones change what earlier ones say.

    Telemetries for whole namespaces come first: the root namespace's, the waypoint's, the service's. Attached ones
    follow, in the same order of namespaces, the oldest first.

    Args:
        found: those of the three namespaces that are for all of it, and those that are attached.
        root: the root namespace.
        proxy: namespace of the waypoint.
        owner: namespace of the service.
    """
    by_age = sorted({one.key: one for one in found}.values(), key=lambda one: one.metadata.age)
    # A namespace that is several of the three has the place of the last one.
    places = {root: 0} | {proxy: 1} | {owner: 2}
    general: dict[str, Telemetry] = {}
    for one in by_age:
        if one.spec.is_for_namespace:
            general.setdefault(one.metadata.namespace, one)
    order = dict.fromkeys((root, proxy, owner))
    attached = [one for one in by_age if not one.spec.is_for_namespace]
    return (
        *(general[space] for space in order if space in general),
        *sorted(attached, key=lambda one: places[one.metadata.namespace]),
    )


def _selector(item: Telemetry) -> tuple[str, Mapping[str, str]] | None:
    selector = item.spec.selector
    if item.spec.targets or selector is None:
        return None
    return item.metadata.namespace, selector.match_labels
