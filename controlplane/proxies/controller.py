"""Makes what runs for each waypoint and gateway, and writes its status. Runs on the leader only.

Level-triggered: a Gateway is reconciled when it, its Deployment, its Service or the mesh changes, and once a minute for
what is not watched (config maps with parameters, the other objects). Everything is applied on the server's side: fields
of others stay. An object that was there before and does not belong to a Gateway is left alone, and the status says so.
Where only a report about routes or listeners has changed, only the status is written.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NoReturn

from controlplane.gateways import classes, reading
from controlplane.gateways.classes import CLASSES, EDGE, REMOTE, ProxyClass
from controlplane.gateways.collections import parent_of
from controlplane.gateways.listener import Spoken
from controlplane.gateways.report import GatewayReport
from controlplane.graph.collection import Collection
from controlplane.inputs.sources import Inputs
from controlplane.proxies import edge_status, objects, overlays, status
from controlplane.proxies.defaults import ProxyDefaults
from controlplane.proxies.objects import ServicePort, Wanted
from controlplane.proxies.overlays import BadOverlay
from controlplane.proxies.status import Observed
from controlplane.workqueue import WorkQueue
from meshapi import names
from meshapi.resources.gateway import AddressType, Gateway, GatewayClass, ListenerSet
from meshkit.kube import Client, Informer, Json, Key, Kind, NotFound, PatchType, Selection, kinds, transitions
from meshkit.log import logger

_log = logger("controlplane.proxies")
_RESYNC_S: Final = 60.0
_MANAGED: Final = f"{names.GATEWAY_MANAGED_LABEL} in ({','.join(one.managed for one in CLASSES if one.managed)})"


class _Refused(Exception):
    """Nothing is made of a Gateway: a reason of the API, and why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Proxies:
    """Run ``informers`` as tasks, and ``run`` while this replica leads.

    Args:
        client: an open client.
        inputs: the objects that the control plane reads.
        reports: what the status of gateways at the edge says.
        defaults: of the installation.
        now: the present time.
    """

    def __init__(
        self,
        client: Client,
        inputs: Inputs,
        reports: Collection[Key, GatewayReport],
        defaults: ProxyDefaults,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._mesh = inputs.mesh
        self._gateways = inputs.of(Gateway)
        self._classes = inputs.of(GatewayClass)
        self._reports = reports
        self._defaults = defaults
        self._now = now
        self._due: WorkQueue[Key] = WorkQueue("gateway")
        self._made: dict[Key, tuple[tuple[ServicePort, ...], Observed]] = {}
        """What was applied last, and what was found then."""
        self._stale: set[Key] = set()
        """Of which something but the report has changed since."""
        self._gateways.add_handler(lambda key, _, __: self._changed(key))
        reports.add_handler(lambda key, _, __: self._due.add(key))
        self._sets = inputs.of(ListenerSet)
        self._sets.add_handler(self._on_listener_set)
        self._classes.add_handler(self._on_class)
        self.informers: list[Informer[Json]] = [
            Informer(client, kind, lambda item: item, selection=Selection(labels=_MANAGED))
            for kind in (kinds.DEPLOYMENT, kinds.SERVICE)
        ]
        for informer in self.informers:
            informer.add_handler(self._on_object)

    async def run(self) -> NoReturn:
        """Put right what is due until cancelled."""
        for informer in self.informers:
            await informer.wait_synced()
        for kind in CLASSES:
            await self._ensure_class(kind)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync())
            await self._due.run(self._reconcile)

    def all_due(self) -> None:
        """Put right all of them: something that concerns all has changed. Classes have no namespace."""
        for key in self._classes.keys():  # noqa: SIM118  (a collection iterates over its values)
            self._due.add(key)
        for key in self._gateways.keys():  # noqa: SIM118  (a collection iterates over its values)
            self._changed(key)

    def _changed(self, key: Key) -> None:
        self._stale.add(key)
        self._due.add(key)

    async def _resync(self) -> NoReturn:
        while True:
            self.all_due()
            await asyncio.sleep(_RESYNC_S)

    def _on_class(self, key: Key, _: GatewayClass | None, __: GatewayClass | None) -> None:
        self._due.add(key)
        self.all_due()

    def _on_listener_set(self, _: Key, old: ListenerSet | None, new: ListenerSet | None) -> None:
        for one in (old, new):
            if one is not None and (parent := parent_of(one)) is not None:
                self._due.add(parent)

    def _on_object(self, old: Json | None, new: Json | None) -> None:
        metadata = (new or old or {})["metadata"]
        gateway = (metadata.get("labels") or {}).get(names.GATEWAY_NAME_LABEL, "")
        self._changed((metadata["namespace"], gateway))

    async def _ensure_class(self, kind: ProxyClass) -> None:
        """Make the class where there is none; a class of another party keeps its name."""
        spec = {"controllerName": kind.controller, "description": kind.description}
        body: Json = {"metadata": {"name": kind.name}, "spec": spec}
        try:
            if await self._client.find(kinds.GATEWAY_CLASS, kind.name) is None:
                await self._client.patch(kinds.GATEWAY_CLASS, kind.name, body, patch_type=PatchType.APPLY)
        except NotFound:
            _log.info("the Gateway API is not installed, no gateways are made")

    def _class_of(self, gateway: Gateway) -> ProxyClass | None:
        found = self._classes.find(("", gateway.spec.gateway_class_name))
        return classes.by_name(gateway) if found is None else classes.by_controller(found.spec.controller_name)

    async def _reconcile(self, key: Key) -> None:
        if not key[0]:
            await self._accept_class(key[1])
            return
        gateway = self._gateways.find(key)
        if gateway is None or gateway.metadata.deletion_timestamp:
            self._made.pop(key, None)
            self._stale.discard(key)
            return  # what belongs to a Gateway that is gone is collected by its owner reference
        kind, report = self._class_of(gateway), self._reports.find(key)
        if kind is None or (kind is EDGE and report is None):
            return
        if kind is REMOTE:
            await self._write_status(gateway, report, Observed())
        elif report is not None and report.gateway.service is not None:
            await self._write_status(gateway, report, await self._look_at(gateway, report.gateway.service))
        elif not reading.is_manual(gateway):  # a waypoint that its user runs has the status that its user writes
            observed = await self._observed(gateway, kind, _ports(gateway, report))
            await self._write_status(gateway, report, observed)

    async def _look_at(self, gateway: Gateway, service: Key) -> Observed:
        """Return what is to be seen of a gateway that its user runs behind a Service."""
        namespace, name = service
        if not name:
            problem = "spec.addresses names a Service of another namespace; run the gateway in the Gateway's namespace"
            return Observed(problem=problem, reason="UnsupportedAddress")
        users = [one.gateway.key for one in self._reports if one.gateway.service == service]
        oldest = min((found for key in users if (found := self._gateways.find(key))), key=lambda one: one.metadata.age)
        if oldest.key != gateway.key:
            problem = f"Gateway {'/'.join(oldest.key)} is older and names the same Service; add listeners to that one"
            return Observed(problem=problem, reason="Invalid")
        hostname = f"{name}.{namespace}.svc.{self._mesh.value.cluster_domain}"
        held = await self._client.find(kinds.SERVICE, name, namespace)
        if held is None:
            return Observed(hostname=hostname)
        return Observed(hostname=hostname, addresses=_addresses_outside(held, hostname), ready=1)

    async def _observed(self, gateway: Gateway, kind: ProxyClass, ports: tuple[ServicePort, ...]) -> Observed:
        """Return what is to be seen of a Gateway, after it was applied if anything of it has changed."""
        held = self._made.get(gateway.key)
        if held is not None and held[0] == ports and gateway.key not in self._stale:
            return held[1]
        self._stale.discard(gateway.key)  # what changes from here on is seen the next time
        try:
            observed = await self._make(gateway, kind, ports)
        except _Refused as refused:
            observed = Observed(problem=str(refused), reason=refused.reason)
        self._made[gateway.key] = (ports, observed)
        return observed

    async def _make(self, gateway: Gateway, kind: ProxyClass, ports: tuple[ServicePort, ...]) -> Observed:
        """Apply what a proxy consists of; return what is to be seen of it."""
        mesh = self._mesh.value
        unsupported = [one.type for one in gateway.spec.addresses if one.type not in set(AddressType)]
        if unsupported:
            raise _Refused("UnsupportedAddress", f"addresses of type {unsupported[0]} are not supported")
        rendered = objects.render(gateway, kind, mesh, self._defaults, ports)
        try:
            wanted = overlays.apply(rendered, await self._overlays(gateway, mesh.root_namespace))
        except BadOverlay as error:
            raise _Refused("InvalidParameters", str(error)) from None
        for item in wanted:
            await self._apply(gateway, item)
        for item in rendered:
            if item.is_optional and item.kind not in {one.kind for one in wanted}:
                await self._remove(gateway, item)
        namespace, name = gateway.metadata.namespace, objects.deployment_name(gateway, kind)
        service = await self._client.get(kinds.SERVICE, name, namespace)
        deployment = await self._client.get(kinds.DEPLOYMENT, name, namespace)
        hostname = f"{name}.{namespace}.svc.{mesh.cluster_domain}"
        return Observed(
            hostname=hostname,
            addresses=_addresses_outside(service, hostname) if kind is EDGE else _cluster_addresses(service),
            ready=int((deployment.get("status") or {}).get("readyReplicas") or 0),
        )

    async def _overlays(self, gateway: Gateway, root_namespace: str) -> list[Mapping[str, str]]:
        """Return the config maps that patch a waypoint: its class's, then its own."""
        label = {"labelSelector": f"{names.GATEWAY_CLASS_DEFAULTS_LABEL}={gateway.spec.gateway_class_name}"}
        of_class = await self._client.items(kinds.CONFIG_MAP, root_namespace, label)
        of_class.sort(key=lambda item: str(item["metadata"].get("creationTimestamp", "")))
        found: list[Mapping[str, str]] = [item.get("data") or {} for item in of_class[:1]]
        reference = gateway.spec.infrastructure.parameters_ref
        if reference is None:
            return found
        if (reference.group, reference.kind) != (kinds.CONFIG_MAP.group, kinds.CONFIG_MAP.name):
            kind = f"{reference.group or 'core'}/{reference.kind}"
            raise _Refused("InvalidParameters", f"parametersRef: kind {kind} is not known; refer to a ConfigMap")
        own = await self._client.find(kinds.CONFIG_MAP, reference.name, gateway.metadata.namespace)
        if own is None:
            raise _Refused("InvalidParameters", f"parametersRef: there is no ConfigMap {reference.name}")
        return [*found, own.get("data") or {}]

    async def _apply(self, gateway: Gateway, item: Wanted) -> None:
        namespace = gateway.metadata.namespace
        held = await self._client.find(item.kind, item.name, namespace)
        if held is not None and not _belongs(held, gateway):
            what = f"{item.kind.name} {item.name}"
            raise _Refused("Invalid", f"{what} exists and does not belong to this Gateway; rename one of them")
        await self._client.patch(item.kind, item.name, item.body, namespace, patch_type=PatchType.APPLY)

    async def _remove(self, gateway: Gateway, item: Wanted) -> None:
        """Remove an optional object that was made for an overlay which is gone."""
        held = await self._client.find(item.kind, item.name, gateway.metadata.namespace)
        if held is not None and _belongs(held, gateway):
            with contextlib.suppress(NotFound):
                await self._client.delete(item.kind, item.name, gateway.metadata.namespace)

    async def _write_status(self, gateway: Gateway, report: GatewayReport | None, observed: Observed) -> None:
        namespace, name = gateway.key
        held = await self._client.find(kinds.GATEWAY, name, namespace)
        if held is None:
            return
        before = held.get("status") or {}
        if self._class_of(gateway) is REMOTE:
            wanted = status.of_remote(gateway, before, self._timestamp())
        elif report is None:
            wanted = status.of_gateway(gateway, observed, before, self._timestamp())
        else:
            wanted = edge_status.of_gateway(gateway, report, observed, before, self._timestamp())
        if report is not None:
            await self._write_listener_sets(report, is_programmed=edge_status.is_programmed(wanted))
        if all(before.get(field) == value for field, value in wanted.items()):
            return
        await self._apply_status(kinds.GATEWAY, name, wanted, namespace)
        _log.info("status of a gateway", gateway=f"{namespace}/{name}", ready=observed.ready, problem=observed.problem)

    async def _write_listener_sets(self, report: GatewayReport, *, is_programmed: bool) -> None:
        """Write the statuses of all ListenerSets that name a gateway, admitted or not."""
        for item in [one for one in self._sets if parent_of(one) == report.gateway.key]:
            namespace, name = item.key
            held = await self._client.find(kinds.LISTENER_SET, name, namespace)
            if held is None:
                continue
            before = held.get("status") or {}
            wanted = edge_status.of_listener_set(item, report, is_programmed, before, self._timestamp())
            if any(before.get(field) != value for field, value in wanted.items()):
                await self._apply_status(kinds.LISTENER_SET, name, wanted, namespace)

    async def _accept_class(self, name: str) -> None:
        """Say of a class that it is ours. One of another controller is left alone."""
        found = self._classes.find(("", name))
        if found is None or classes.by_controller(found.spec.controller_name) is None:
            return
        held = await self._client.find(kinds.GATEWAY_CLASS, name)
        if held is None:
            return
        before = held.get("status") or {}
        generation = int(held["metadata"].get("generation", 0))
        wanted = status.of_class(_without_placeholders(before), generation, self._timestamp())
        if any(one not in (before.get("conditions") or []) for one in wanted["conditions"]):
            await self._apply_status(kinds.GATEWAY_CLASS, name, wanted)

    async def _apply_status(self, kind: Kind, name: str, wanted: Json, namespace: str | None = None) -> None:
        body: Json = {"metadata": {"name": name}, "status": wanted}
        with contextlib.suppress(NotFound):  # deleted: nothing is left to write to
            await self._client.patch(kind, name, body, namespace, patch_type=PatchType.APPLY, subresource="status")

    def _timestamp(self) -> str:
        return transitions.stamp(self._now())


def _ports(gateway: Gateway, report: GatewayReport | None) -> tuple[ServicePort, ...]:
    """Return the ports of the Service: of listeners that can be served, certificates or not."""
    if report is None:
        return objects.ports_of(gateway)
    found = (one.listener for one in report.listeners if one.listener.accepted.is_true)
    return tuple(
        ServicePort(
            one.name, one.port, "UDP" if one.spoken is Spoken.UDP else (one.spoken or Spoken.TCP).value.split()[0]
        )
        for one in found
    )


def _cluster_addresses(service: Json) -> tuple[str, ...]:
    listed = service["spec"].get("clusterIPs") or [service["spec"].get("clusterIP", "")]
    return tuple(address for address in listed if address not in {"", "None"})


def _addresses_outside(service: Json, hostname: str) -> tuple[str, ...]:
    """Return by what a gateway is called: its load balancer, or inside of the cluster the name of its Service."""
    if service["spec"].get("type") != "LoadBalancer":
        return (hostname,)
    given = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(str(one.get("ip") or one.get("hostname")) for one in given if one.get("ip") or one.get("hostname"))


def _belongs(held: Json, gateway: Gateway) -> bool:
    """Return whether an object was made for this Gateway; one that an earlier Gateway of the name left counts."""
    labels = held["metadata"].get("labels") or {}
    return (
        labels.get(names.GATEWAY_MANAGED_LABEL) in {one.managed for one in CLASSES if one.managed}
        and labels.get(names.GATEWAY_NAME_LABEL) == gateway.metadata.name
    )


def _without_placeholders(held: Json) -> Json:
    """Return a status without the conditions that the API server writes itself (status ``Unknown``)."""
    return {"conditions": [one for one in held.get("conditions") or () if one.get("status") != "Unknown"]}
