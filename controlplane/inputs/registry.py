"""Which informers there are, and where their events go.

Everything that the model knows comes through here. Handlers only store objects and report changes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from controlplane.ambient import proxy_settings
from controlplane.ambient.model import Model
from controlplane.inputs import fail_closed
from controlplane.inputs.config_warnings import ConfigWarnings
from controlplane.inputs.discovery import Discovery, Feed
from controlplane.inputs.mesh_report import MeshReport
from controlplane.metrics import Metrics
from meshapi import names
from meshapi.errors import DataError, InvalidResource, listed
from meshapi.mesh_config import reading
from meshapi.mesh_config.model import MeshConfig
from meshapi.mesh_config.notices import is_trusted
from meshapi.resources import base, core, networking, security
from meshkit.kube import Client, Informer, Json, Key, Kind, Selection, kinds

ObjectT = TypeVar("ObjectT", bound=base.Object)


class Registry:
    """The informers of the control plane. Construct, then run every one of ``informers`` as a task."""

    def __init__(
        self,
        client: Client,
        model: Model,
        *,
        system_namespace: str,
        metrics: Metrics,
        warnings: ConfigWarnings,
        touch: Callable[[str], None],
    ) -> None:
        self._model = model
        self.discovery = Discovery(model, system_namespace=system_namespace)
        self._defaults = model.mesh
        self._metrics = metrics
        self._warnings = warnings
        self._touch = touch
        self._mesh_listeners: list[Callable[[], None]] = []
        self._roots_listeners: list[Callable[[tuple[str, ...]], None]] = []
        self.substituted: dict[str, dict[Key, str]] = {}
        """By kind: invalid policies that have a fail-closed substitute, and the reason."""
        self._client = client
        self._network = ""
        self.report = MeshReport(metrics)
        self._config = MeshConfig()
        self._good: dict[str, Any] = {}
        """Values of the mesh configuration in force."""
        self._system_namespace = system_namespace
        self.namespaces = self._informer(kinds.NAMESPACE, _reader(core.Namespace))
        self.namespaces.add_handler(self._on_namespace)
        only_mesh = Selection(namespace=system_namespace, fields=f"metadata.name={names.MESH_CONFIGMAP}")
        mesh: Informer[reading.Reading] = Informer(client, kinds.CONFIG_MAP, reading.read, selection=only_mesh)
        mesh.add_handler(self._on_mesh_config)
        feed = self.discovery.feed
        policies = feed(model.policies, model.put_policy)
        peers = feed(model.peers, model.put_peer)
        self.entries = self._model_informer(
            kinds.SERVICE_ENTRY, self._lenient_reader(networking.ServiceEntry), feed(model.entries, model.put_entry).put
        )
        self.policies = self._model_informer(
            kinds.AUTHORIZATION_POLICY,
            self._fail_closed_reader(security.AuthorizationPolicy, policies, fail_closed.policy),
            policies.put,
        )
        self.peers = self._model_informer(
            kinds.PEER_AUTHENTICATION,
            self._fail_closed_reader(security.PeerAuthentication, peers, fail_closed.peer),
            peers.put,
        )
        self.informers: list[Informer[Any]] = [
            self.namespaces,
            mesh,
            *self._informers_of_workloads(model),
            self.entries,
            self.policies,
            self.peers,
        ]

    def _informers_of_workloads(self, model: Model) -> list[Informer[Any]]:
        feed = self.discovery.feed
        return [
            self._model_informer(kinds.NODE, _reader(core.Node), model.put_node),
            self._model_informer(kinds.POD, _reader(core.Pod), feed(model.pods, model.put_pod).put),
            self._model_informer(kinds.SERVICE, _reader(core.Service), feed(model.services, model.put_service).put),
            self._model_informer(
                kinds.ENDPOINT_SLICE, _reader(core.EndpointSlice), feed(model.slices, model.put_slice).put
            ),
            self._model_informer(
                kinds.WORKLOAD_ENTRY,
                self._lenient_reader(networking.WorkloadEntry),
                feed(model.workload_entries, model.put_workload_entry).put,
            ),
        ]

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

    def _model_informer(
        self,
        kind: Kind,
        parse: Callable[[Json], ObjectT],
        put: Callable[[ObjectT | None, ObjectT | None], None],
    ) -> Informer[ObjectT]:
        informer = self._informer(kind, parse)
        updates = self._metrics.inbound_updates.labels(kind.name)

        def handle(old: ObjectT | None, new: ObjectT | None) -> None:
            put(old, new)
            updates.inc()
            if new is None and old is not None:
                self.substituted.get(kind.name, {}).pop(old.key, None)
                self._warnings.clear(kind.name, "/".join(filter(None, old.key)))
            self._touch(kind.name.lower())

        informer.add_handler(handle)
        return informer

    def _informer(self, kind: Kind, parse: Callable[[Json], Any], selection: Selection | None = None) -> Informer[Any]:
        def refused(key: Key, error: DataError) -> None:
            self._warnings.reject(kind.name, "/".join(filter(None, key)), str(error))

        informer = Informer(self._client, kind, parse, selection=selection, on_refused=refused)
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

    def _lenient_reader(self, model: type[ObjectT]) -> Callable[[Json], ObjectT]:
        def parse(item: Json) -> ObjectT:
            policy = base.read(model, item)
            unknown = base.unknown_fields(policy)
            name = "/".join(policy.key)
            if unknown:
                message = f"unknown fields are ignored: {listed(unknown)}; check the spelling"
                self._warnings.warn(model.__name__, name, message)
            return policy

        return parse

    def _fail_closed_reader(
        self, model: type[ObjectT], held: Feed[ObjectT], stand_in: Callable[[Json], ObjectT]
    ) -> Callable[[Json], ObjectT]:
        """Parse a policy; an invalid one without a last good form is replaced by a fail-closed substitute."""
        read = self._lenient_reader(model)
        substituted = self.substituted.setdefault(model.__name__, {})

        def parse(item: Json) -> ObjectT:
            key = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
            try:
                policy = read(item)
            except InvalidResource as error:
                if held.find(key) is not None and key not in substituted:
                    raise
                substituted[key] = str(error)
                self._warnings.substitute(model.__name__, "/".join(key), str(error))
                return stand_in(item)
            substituted.pop(key, None)
            return policy

        return parse

    def _on_namespace(self, old: core.Namespace | None, new: core.Namespace | None) -> None:
        is_other = self.discovery.put_namespace(old, new)
        if new is not None and new.metadata.name == self._system_namespace:
            self._network = new.metadata.labels.get(names.NETWORK_LABEL, "")
            self._put_mesh()
        elif is_other:
            self._notify_mesh_listeners()

    def _on_mesh_config(self, _: reading.Reading | None, new: reading.Reading | None) -> None:
        self._good = new.with_last_good(self._good) if new is not None else {}
        self._config = reading.config_of(self._good)
        self.report.read(new)
        self._put_mesh()
        self._model.put_proxy_settings(proxy_settings.translate(self._config))
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
        )
        self.discovery.put_mesh(mesh, config.discovery_selectors)
        self._notify_mesh_listeners()

    def _notify_mesh_listeners(self) -> None:
        for listener in self._mesh_listeners:
            listener()
        self._touch("mesh")


def _reader(model: type[ObjectT]) -> Callable[[Json], ObjectT]:
    return lambda item: base.read(model, item)
