"""Which informers there are, and where their events go.

Everything that the graph knows comes through here. Handlers only store objects and report changes.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from controlplane.inputs.config_warnings import ConfigWarnings
from controlplane.inputs.discovery import Discovery, Feed
from controlplane.inputs.kinds import KINDS, InputKind
from controlplane.inputs.mesh_report import MeshReport
from controlplane.inputs.sources import MESH, Fault, Inputs
from controlplane.metrics import Metrics
from meshapi import names
from meshapi.errors import DataError, InvalidResource, listed
from meshapi.mesh_config import reading
from meshapi.mesh_config.model import MeshConfig, WaypointProvisioning
from meshapi.mesh_config.notices import is_trusted
from meshapi.resources import base, core
from meshkit.kube import Client, Informer, Json, Key, Kind, Selection, kinds

ObjectT = TypeVar("ObjectT", bound=base.Object)


class Registry:
    """The informers of the control plane. Construct, then run every one of ``informers`` as a task."""

    def __init__(
        self,
        client: Client,
        inputs: Inputs,
        *,
        system_namespace: str,
        metrics: Metrics,
        warnings: ConfigWarnings,
        touch: Callable[[str], None],
        input_kinds: Iterable[InputKind] = KINDS,
    ) -> None:
        self._inputs = inputs
        self.discovery = Discovery(inputs, system_namespace=system_namespace)
        self._defaults = inputs.mesh.value
        self._metrics = metrics
        self._warnings = warnings
        self._touch = touch
        self._mesh_listeners: list[Callable[[], None]] = []
        self._roots_listeners: list[Callable[[tuple[str, ...]], None]] = []
        self._client = client
        self._network = ""
        self.report = MeshReport(metrics)
        self._config = MeshConfig()
        self._good: dict[str, Any] = {}
        """Values of the mesh configuration in force."""
        self._system_namespace = system_namespace
        self.namespaces: Informer[core.Namespace] = self._informer(
            kinds.NAMESPACE, lambda item: base.read(core.Namespace, item)
        )
        self.namespaces.add_handler(self._on_namespace)
        only_mesh = Selection(namespace=system_namespace, fields=f"metadata.name={names.MESH_CONFIGMAP}")
        mesh: Informer[reading.Reading] = Informer(client, kinds.CONFIG_MAP, reading.read, selection=only_mesh)
        mesh.add_handler(self._on_mesh_config)
        self._informers: dict[type[Any], Informer[Any]] = {
            item.model: self._input_informer(item) for item in input_kinds
        }
        self.informers: list[Informer[Any]] = [self.namespaces, mesh, *self._informers.values()]

    def informer(self, model: type[ObjectT]) -> Informer[ObjectT]:
        """Return the informer of a kind, by its model."""
        return self._informers[model]

    def on_roots(self, listener: Callable[[tuple[str, ...]], None]) -> None:
        """Call ``listener`` with the additional roots of the mesh configuration, PEM, when they may have changed."""
        self._roots_listeners.append(listener)

    def on_mesh_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when facts about the whole mesh may have changed."""
        self._mesh_listeners.append(listener)

    def pending(self) -> list[str]:
        """Return the kinds whose first list is not in yet."""
        return [informer.kind.plural for informer in self.informers if not informer.synced]

    async def wait_synced(self) -> None:
        """Wait until every kind has been listed."""
        for informer in self.informers:
            await informer.wait_synced()

    def _input_informer(self, item: InputKind) -> Informer[Any]:
        kind, source = item.kind, self._inputs.of(item.model)
        feed = self.discovery.feed(source) if item.discovered else None
        put = source.set if feed is None else feed.put
        informer = self._informer(kind, self._reader(item, feed))
        updates = self._metrics.inbound_updates.labels(kind.name)

        def handle(old: base.Object | None, new: base.Object | None) -> None:
            key = _key(old, new)
            put(key, new)
            updates.inc()
            if new is None:
                self._inputs.faults.set((kind.title, key), None)
                self._warnings.clear(kind.title, "/".join(filter(None, key)))
            self._touch(kind.name.lower())

        def gone(key: Key) -> None:
            self._inputs.faults.set((kind.title, key), None)
            self._warnings.clear(kind.title, "/".join(filter(None, key)))
            self._touch(kind.name.lower())

        informer.add_handler(handle)
        informer.add_refusal_handler(lambda _, __: self._touch(kind.name.lower()), gone)
        return informer

    def _informer(self, kind: Kind, parse: Callable[[Json], Any]) -> Informer[Any]:
        def refused(key: Key, error: DataError) -> None:
            self._warnings.reject(kind.title, "/".join(filter(None, key)), str(error))

        informer = Informer(self._client, kind, parse, on_refused=refused)
        informer.add_handler(self._event_counter(kind))
        return informer

    def _event_counter(self, kind: Kind) -> Callable[[Any, Any], None]:
        """Count adds, updates and deletes as Istio does: its own resources apart from Kubernetes'."""
        is_config = kind.group.endswith("istio.io")
        family = self._metrics.config_events if is_config else self._metrics.registry_events
        name = kind.name if is_config or kind is kinds.ENDPOINT_SLICE else kind.plural.capitalize()
        add, update, delete = (family.labels(name, event) for event in ("add", "update", "delete"))

        def count(old: Any, new: Any) -> None:
            (add if old is None else delete if new is None else update).inc()

        return count

    def _reader(self, item: InputKind, feed: Feed[Any] | None) -> Callable[[Json], base.Object]:
        """Return how an object is read. What is wrong with an invalid one is noted in ``faults``.

        An invalid object without a last good form is replaced by its kind's fail-closed substitute, if there is one.
        """
        faults, name = self._inputs.faults, item.kind.title

        def parse(body: Json) -> base.Object:
            metadata = body["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            try:
                found = base.read(item.model, body)
            except InvalidResource as error:
                held = faults.find((name, key))
                has_good = feed is not None and feed.find(key) is not None and not (held and held.is_substituted)
                substitutes = item.substitute is not None and not has_good
                faults.set((name, key), Fault(name, key, str(error), int(metadata.get("generation", 0)), substitutes))
                if item.substitute is None or has_good:
                    raise
                self._warnings.substitute(name, "/".join(key), str(error))
                substitute: base.Object = item.substitute(body)
                return substitute
            if len(faults):
                faults.set((name, key), None)
            if item.is_mesh_resource and (unknown := base.unknown_fields(found)):
                message = f"unknown fields are ignored: {listed(unknown)}; check the spelling"
                self._warnings.warn(name, "/".join(key), message)
            return found

        return parse

    def _on_namespace(self, old: core.Namespace | None, new: core.Namespace | None) -> None:
        is_other = self.discovery.put_namespace(_key(old, new), new)
        if new is not None and new.metadata.name == self._system_namespace:
            self._network = new.metadata.labels.get(names.NETWORK_LABEL, "")
            self._put_mesh()
        elif is_other:
            self._notify_mesh_listeners()
        else:
            self._touch("namespace")

    def _on_mesh_config(self, _: reading.Reading | None, new: reading.Reading | None) -> None:
        self._good = new.with_last_good(self._good) if new is not None else {}
        self._config = reading.config_of(self._good)
        self.report.read(new)
        self._put_mesh()
        self._inputs.config.set(MESH, self._config)
        self._touch("mesh")
        roots = tuple(one.pem for one in self._config.ca_certificates if one.pem and is_trusted(one, self._config))
        for listener in self._roots_listeners:
            listener(roots)

    def _put_mesh(self) -> None:
        config = self._config
        mesh = dataclasses.replace(
            self._defaults,
            trust_domain=config.trust_domain,
            trust_domain_aliases=config.trust_domain_aliases,
            root_namespace=config.root_namespace or self._system_namespace,
            network=self._network,
            default_export_to=config.default_service_export_to,
            service_entry_visibility=config.service_entry_visibility,
            automatic_waypoints=config.waypoints is WaypointProvisioning.AUTOMATIC,
        )
        self.discovery.put_mesh(mesh, config.discovery_selectors)
        self._notify_mesh_listeners()

    def _notify_mesh_listeners(self) -> None:
        for listener in self._mesh_listeners:
            listener()
        self._touch("mesh")


def _key(old: base.Object | None, new: base.Object | None) -> Key:
    item = new if new is not None else old
    if item is None:
        raise AssertionError("an event is about an object")
    return item.key
