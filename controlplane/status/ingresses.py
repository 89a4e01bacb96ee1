"""Status of Ingresses: the addresses of the ingress gateway, and Events for what is wrong. Runs on the leader only.

An Ingress has no conditions, so what of it cannot be served is an Event on it, and the rest is served.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import NoReturn

from controlplane.envoy.layer7 import Layer7
from controlplane.gateways import ingresses, servers
from controlplane.gateways.ingresses import Claimed
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.stages import CONDITIONS
from controlplane.status import rejections
from controlplane.status.events import Event, EventWriter
from controlplane.workqueue import WorkQueue
from meshapi.resources.core import Service
from meshkit.kube import Client, Json, Key, NotFound, PatchType, kinds


@dataclass(frozen=True, slots=True)
class IngressReport:
    """What is said of an Ingress.

    Attributes:
        key: of the Ingress.
        addresses: of the gateway, each with its field: ``ip`` or ``hostname``.
        problems: what cannot be served, and why.
    """

    key: Key
    addresses: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


def reports(layer7: Layer7) -> Collection[Key, IngressReport]:
    """Return the reports of all Ingresses that are ours, by the key of the Gateway that each is."""
    istio, inputs = layer7.model.gateways.istio, layer7.model.inputs

    def report(claimed: Claimed, fetch: Fetch) -> IngressReport:
        config = istio.ingresses.config(fetch)
        root = fetch.setting(inputs.mesh).root_namespace
        service = fetch.find(inputs.of(Service), (root, ingresses.service_of(config)))
        given = () if service is None else service.status.load_balancer.ingress
        addresses = [*(("ip", one.ip) for one in given if one.ip)]
        addresses += [("hostname", one.hostname) for one in given if one.hostname and not one.ip]
        return IngressReport(
            claimed.item.key, tuple(addresses), tuple(dict.fromkeys(_problems(layer7, claimed, fetch)))
        )

    return Derived(layer7.model.graph, "reports of ingresses", istio.ingresses.claimed, CONDITIONS, report)


def _problems(layer7: Layer7, claimed: Claimed, fetch: Fetch) -> list[str]:
    key = claimed.gateway.key
    places = layer7.model.gateways.istio.at(key, fetch) or ()
    if not places:
        wanted = ", ".join(f"{name}={value}" for name, value in sorted(claimed.gateway.spec.selector.items()))
        return [f"no pod has the labels of the ingress gateway ({wanted}), so it is not served"]
    listeners = (one for place in places for one in place.of(servers.KIND, key))
    found = [one.fault.message for one in listeners if one.fault is not None]
    bound = fetch.find(layer7.routing.at_gateways.of_ingresses, key)
    found += () if bound is None else bound.problems
    rejection = rejections.first(layer7.model.inputs, layer7.envoy.of_source("Ingress", claimed.item.key, fetch), fetch)
    return found if rejection is None else [f"rejected by {rejection.proxy}: {rejection.reason}", *found]


class IngressStatusWriter:
    """Writes the reports. Run ``run`` as a task while this replica leads.

    Args:
        client: an open client.
        found: the reports.
        events: writes Events.
        synced: waits until the reports are complete.
    """

    def __init__(
        self, client: Client, found: Collection[Key, IngressReport], events: EventWriter, synced: asyncio.Event
    ) -> None:
        self._client = client
        self._reports = found
        self._events = events
        self._synced = synced
        self._said: dict[Key, tuple[str, ...]] = {}
        self._queue: WorkQueue[Key] = WorkQueue("status of an ingress")
        self._queue.follow(found, lambda key: key)

    async def run(self) -> NoReturn:
        """Write what differs until cancelled."""
        await self._synced.wait()
        await self._queue.run(self._reconcile)

    async def _reconcile(self, key: Key) -> None:
        report = self._reports.find(key)
        if report is None:
            self._said.pop(key, None)
            return
        namespace, name = report.key
        held = await self._client.find(kinds.INGRESS, name, namespace)
        if held is None:
            return
        wanted: list[Json] = [{field: value} for field, value in report.addresses]
        present = ((held.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        if [{field: one[field] for field in ("ip", "hostname") if one.get(field)} for one in present] != wanted:
            body: Json = {"status": {"loadBalancer": {"ingress": wanted}}}
            with contextlib.suppress(NotFound):  # deleted: nothing is left to write to
                await self._client.patch(
                    kinds.INGRESS, name, body, namespace, patch_type=PatchType.MERGE, subresource="status"
                )
        for problem in report.problems:
            if problem not in self._said.get(key, ()):
                event = Event("NotServed", "Translate", problem)
                await self._events.write(kinds.INGRESS, namespace, name, event)
        self._said[key] = report.problems
