"""``culvert-controlplane``: wiring and life cycle. Everything is built here and passed on; nothing else decides."""

import asyncio
import contextlib
import gc
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any, NoReturn, Protocol

from controlplane import debug
from controlplane.addresses.allocator import Allocator
from controlplane.ambient.model import TYPES, Model, create
from controlplane.ca import namespace_config_maps, node_authorizer
from controlplane.ca.errors import CaError
from controlplane.ca.service import CertificateService, Limits
from controlplane.ca.serving import OwnServingCertificate
from controlplane.ca.signing import SigningSource
from controlplane.ca.tokens import TokenAuthenticator
from controlplane.config_map_certificates import ConfigMapCertificates
from controlplane.envoy import layer7
from controlplane.inputs.config_warnings import ConfigWarnings
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.registry import Registry
from controlplane.inputs.rejections import Rejections
from controlplane.key_sets.fetching import Fetcher
from controlplane.key_sets.following import KeySets
from controlplane.leader import Election
from controlplane.metrics import Metrics, own_version
from controlplane.proxies.automatic import AutomaticWaypoints
from controlplane.proxies.controller import Proxies
from controlplane.proxy_secrets import ProxySecrets
from controlplane.settings import Settings, host_and_port
from controlplane.status import gateways, ingresses
from controlplane.status.events import EventWriter, MeshEvents, RejectionEvents
from controlplane.status.ingresses import IngressStatusWriter
from controlplane.status.outcomes import Outcomes
from controlplane.status.policy_ancestors import PolicyAncestors
from controlplane.status.route_parents import RouteParents
from controlplane.status.shared_lists import SharedListWriter
from controlplane.status.shared_rejections import SharedRejections
from controlplane.status.writer import StatusWriter
from controlplane.webhook import registration
from controlplane.webhook.serving import injection, validation
from controlplane.xds import sync_status, worlds
from controlplane.xds.debug_requests import DebugRequests
from controlplane.xds.nearby import Nearby, labels_of
from controlplane.xds.observer import StreamObserver
from controlplane.xds.publisher import Publisher
from controlplane.xds.snapshot import Snapshot
from meshapi import names
from meshapi.identity import SpiffeId
from meshapi.resources.core import Node, Pod
from meshapi.resources.gateway import Gateway
from meshapi.resources.networking import ServiceEntry
from meshkit import admin, kube, log, process
from meshkit.kube import Key
from meshkit.linux import memory
from meshkit.tasks import Backoff, background
from meshkit.tls import server_context
from meshkit.xds.ads import AggregatedDiscovery
from meshkit.xds.peer import Peer
from meshkit.xds.serving import serve_tls
from meshkit.xds.source import ResourceSource

_log = log.logger("controlplane")

_MAX_REVIEW_BYTES = 8 * 1024 * 1024
"""A request to review has the object twice, as it was and as it will be; etcd takes 1.5 MB of it."""
_CERTIFICATES_TIMEOUT_S = 10.0
_LOOK_S = 0.02
_LAYER_7 = frozenset({names.WAYPOINT_NODE, names.GATEWAY_NODE})
_GC_THRESHOLDS = (50_000, 20, 100)
"""A list of a hundred thousand pods makes millions of objects and no garbage; with Python's default (700 objects), a
third of the time of a start went into looking for it."""


class Writer(Protocol):
    """Writes to Kubernetes while this replica leads."""

    def run(self) -> Coroutine[Any, Any, NoReturn]:
        """Write until cancelled."""
        ...


class ControlPlane:
    """One running control plane. Construct, then ``run`` once.

    Attributes:
        port: where xDS and the CA are served; 0 before they are.
        ready: set when proxies can be served.
    """

    def __init__(self, settings: Settings, access: kube.Access) -> None:
        self.port = 0
        self.ready = asyncio.Event()
        self._settings = settings
        self._client = kube.Client(access)
        self.metrics = Metrics()
        self._warnings = ConfigWarnings(self.metrics)
        self.model = create(_context(settings))
        self._snapshot = Snapshot(TYPES)
        self._layer7 = layer7.create(self.model)
        self._worlds = worlds.create(self._layer7)
        self._publisher = Publisher(self.model, self._snapshot, self._worlds, self.metrics, self._warnings)
        self._key_sets = KeySets(self.model.inputs, self._publisher.touch, Fetcher())
        read = (self.model.inputs, self.model.gateways)
        self._certificates = ConfigMapCertificates(*read, self._publisher.touch, self._client)
        self._secrets = ProxySecrets(*read, self._layer7.envoy.credentials, self._publisher.touch, self._client)
        self._registry = Registry(
            self._client,
            self.model.inputs,
            system_namespace=settings.pod_namespace,
            metrics=self.metrics,
            warnings=self._warnings,
            touch=self._publisher.touch,
        )
        life = timedelta(seconds=settings.self_signed_ca_ttl_s)
        self._signing = SigningSource(self._client, namespace=settings.pod_namespace, life=life, metrics=self.metrics)
        self._bundles = [
            make(self._client, self._signing, self._registry.namespaces, self._registry.discovery.discovers)
            for make in (namespace_config_maps.of_roots, namespace_config_maps.of_revocation_lists)
        ]
        self._registry.on_roots(self._signing.trust)
        for one in self._bundles:
            self._registry.on_mesh_change(one.all_due)
        reports = gateways.reports(self._layer7)
        self._proxies = Proxies(self._client, self.model.inputs, reports, settings.proxy_defaults)
        self._registry.on_mesh_change(self._proxies.all_due)
        self._webhooks = [
            make(self._client, self._signing, namespace=settings.pod_namespace, is_served=self.ready.is_set)
            for make in (registration.of_reviews, registration.of_pods)
        ]
        self._instance = settings.pod_name or socket.gethostname()
        self._writers = self._make_writers()
        rejections = Rejections(self.model.inputs.rejections, self._publisher.touch, self._gateway_of)
        self._shared_rejections = SharedRejections(
            self._client, rejections, namespace=settings.pod_namespace, instance=self._instance
        )
        self._election = Election(
            self._client,
            namespace=settings.pod_namespace,
            name=names.CONTROL_PLANE_LEASE,
            identity=f"{self._instance}_{uuid.uuid4()}",
            on_change=self.metrics.leads.set,
        )
        self._own_certificate = OwnServingCertificate(
            self._signing, identity=self._own_identity, dns_names=settings.serving_dns_names
        )
        self._tokens = TokenAuthenticator(self._client, time.monotonic)
        self._observer = StreamObserver(self.metrics, own_version(), rejections)
        self._debug_requests = DebugRequests(self._observer, namespace=settings.pod_namespace, instance=self._instance)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set.

        Raises:
            OSError: an address cannot be bound.
            ConfigError: the Kubernetes API cannot be reached as configured.
        """
        async with self._client, self._pages(), background() as tasks:
            tasks.start(
                *(informer.run() for informer in self._registry.informers),
                *(one.informer.run() for one in self._bundles),
                *(informer.run() for informer in self._proxies.informers),
                self._shared_rejections.informer.run(),
                *(one.informer.run() for one in self._webhooks),
                self._shared_rejections.run(),
                self._key_sets.run(),
                self._certificates.run(),
                self._secrets.run(),
                self._serve(),
            )
            async with background() as leading:
                leading.start(self._election.run(self._duties))
                await stop.wait()
            # Another replica writes from now on. Until the Service's endpoints have changed, the API server still sends
            # reviews here, and it refuses an object whose review gets no answer.
            await asyncio.sleep(self._settings.minimum_drain_s)

    def _make_writers(self) -> list[Writer]:
        """Return what only the leader runs."""
        events = EventWriter(self._client, instance=self._instance)
        waypoints: list[Writer] = [self._proxies, self._make_automatic()] if self._settings.waypoint_image else []
        return [
            *self._bundles,
            Allocator(self._client, self._registry.informer(ServiceEntry)),
            StatusWriter(self._client, Outcomes(self._layer7), self._publisher.opened),
            SharedListWriter(
                self._client,
                (*RouteParents(self._layer7).lists, *PolicyAncestors(self._layer7).lists),
                self._publisher.opened,
            ),
            MeshEvents(events, self._registry.report, namespace=self._settings.pod_namespace),
            RejectionEvents(events, self.model),
            IngressStatusWriter(self._client, ingresses.reports(self._layer7), events, self._publisher.opened),
            *self._webhooks,
            *waypoints,
        ]

    def _make_automatic(self) -> AutomaticWaypoints:
        gateways, needs = self.model.inputs.of(Gateway), self.model.waypoints.needs
        retention_s = self._settings.automatic_waypoint_retention_s
        return AutomaticWaypoints(self._client, gateways, needs, retention_s=retention_s)

    async def _duties(self) -> None:
        """Write what one replica only must write, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for writer in self._writers:
                tasks.create_task(writer.run())

    def pending(self) -> list[str]:
        """Return what the control plane still waits for."""
        waiting = [f"list of {kind}" for kind in self._registry.pending()]
        if not self._signing.is_loaded:
            waiting.append("signing certificate")
        if not waiting and not self.ready.is_set():
            waiting.append("xDS port")
        return waiting

    async def _serve(self) -> None:
        # Proxies take the first answer as complete, so none is given before every kind has been listed.
        await self._registry.wait_synced()
        await self._publisher.open()
        await self._wait_certificates()
        # A search for cycles through everything that a large cluster holds stops all streams for a second or more.
        # What has been listed mostly stays, and has no cycles: it is taken out of the search.
        memory.settle()
        await self._load_signing()
        self._own_certificate.renew()
        discovery = AggregatedDiscovery(self._view, self._tokens.name, self._observer, self._debug_requests.answer)
        authority = CertificateService(
            self._signing,
            self._tokens,
            pods=_PodsOfModel(self.model),
            limits=Limits(
                default_life=timedelta(seconds=self._settings.workload_cert_ttl_s),
                max_life=timedelta(seconds=self._settings.max_workload_cert_ttl_s),
                trusted=self._settings.trusted_accounts,
            ),
            trust_domain=self._trust_domain,
            wait_changed=self._publisher.wait_changed,
            metrics=self.metrics,
        )
        settings = self._settings
        async with (
            admin.serve(
                [host_and_port(settings.webhook_address)],
                {
                    "POST /validate": validation(self.metrics),
                    "POST /inject": injection(lambda: self.model.inputs.mesh.value, settings.proxy_defaults),
                },
                tls=server_context(self._own_certificate.current),
                max_request_bytes=_MAX_REVIEW_BYTES,
            ),
            serve_tls(settings.xds_address, self._own_certificate.current, [discovery, authority]) as self.port,
        ):
            self.ready.set()
            for one in self._webhooks:
                one.look()
            _log.info("ready", xds=self._settings.xds_address, resources=len(self.model.all(names.ADDRESS_TYPE)))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._signing.follow(self._trust_domain))
                tasks.create_task(self._own_certificate.follow())

    async def _wait_certificates(self) -> None:
        """Wait until the certificates of gateways are read: without them, running gateways would lose listeners.

        What cannot be read in time is left out, and comes later.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CERTIFICATES_TIMEOUT_S
        while self._secrets.pending() or self._certificates.pending() or not self.model.is_settled:
            if loop.time() > deadline:
                _log.warning("certificates are not read yet", secrets=len(self._secrets.pending()))
                return
            await asyncio.sleep(_LOOK_S)

    async def _load_signing(self) -> None:
        backoff = Backoff(first_s=0.2, cap_s=15.0)
        while True:
            try:
                await self._signing.load(self._trust_domain())
            except (CaError, kube.KubeError) as error:
                _log.warning("no signing certificate, will retry", reason=str(error))
                await asyncio.sleep(backoff.next())
            else:
                return

    @contextlib.asynccontextmanager
    async def _pages(self) -> AsyncIterator[None]:
        version = admin.text_page(own_version())
        public = {
            "GET /metrics": admin.metrics(self.metrics.registry),
            "GET /version": version,
            "GET //version": version,  # what `istioctl version` requests
            # Kiali reads it through a port-forward. Proxies' names are nothing for other pods (CVE-2026-31838).
            "GET /debug/syncz": admin.loopback_only(
                admin.json_page(lambda: sync_status.flat_page(self._observer.peers))
            ),
        }
        pages = {
            "GET /debug/syncz": admin.json_page(self._observer.page),
            "GET /debug/model": admin.json_page(lambda: debug.model_page(self.model)),
        }
        settings = self._settings
        async with (
            admin.serve([host_and_port(settings.metrics_address)], public),
            admin.serve([host_and_port(settings.health_address)], {"GET /ready": admin.readiness(self.pending)}),
            admin.serve([host_and_port(settings.admin_address)], pages),
        ):
            yield

    def _view(self, peer: Peer) -> ResourceSource:
        """Return what a proxy may see: those of layer 4 all see the same, each other one its own world."""
        if peer.node_type not in _LAYER_7:
            return self._snapshot
        # Waypoints name their Gateway for good; what users run as gateways is chosen by labels, which change.
        is_chosen = peer.node_type == names.GATEWAY_NODE
        world: ResourceSource = (
            self._worlds.following(lambda: self._gateway_of(peer))
            if is_chosen
            else self._worlds.view(self._gateway_of(peer))
        )
        return Nearby(world, labels_of(*self._place(peer)))

    def _gateway_of(self, peer: Peer) -> Key | None:
        """Return the Gateway of a proxy of layer 7; ``None``: it has none, or is none."""
        return worlds.view_of(peer, self.model) if peer.node_type in _LAYER_7 else None

    def _place(self, peer: Peer) -> tuple[Pod | None, Node | None]:
        """Return the pod and the node of a proxy, as far as they are known."""
        name, _, namespace = peer.name.rpartition(".")
        pod = self.model.inputs.of(Pod).find((namespace, name))
        return pod, None if pod is None else self.model.inputs.of(Node).find(("", pod.spec.node_name))

    def _trust_domain(self) -> str:
        return self.model.mesh.trust_domain

    def _own_identity(self) -> SpiffeId:
        return SpiffeId(self._trust_domain(), self._settings.pod_namespace, names.CONTROL_PLANE_SERVICE_ACCOUNT)


def _context(settings: Settings) -> MeshContext:
    return MeshContext(
        root_namespace=settings.pod_namespace,
        cluster_id=settings.cluster_id,
        cluster_domain=settings.cluster_domain,
        enrolment=settings.enrolment,
        sends_dry_run=settings.ambient_enable_dry_run_authorization_policy,
    )


class _PodsOfModel(node_authorizer.Pods):
    def __init__(self, model: Model) -> None:
        self._model = model

    def pod(self, namespace: str, name: str) -> Pod | None:
        return self._model.pods.find((namespace, name))

    def pods_on(self, node: str) -> list[Pod]:
        return self._model.pods_on(node)


def main() -> None:
    """Entry point of ``culvert-controlplane``."""
    settings = Settings.from_command_line()
    log.configure(level=settings.log_level, log_format=settings.log_format)
    gc.set_threshold(*_GC_THRESHOLDS)

    async def work(stop: asyncio.Event) -> None:
        access = await kube.load(settings.kubeconfig)
        await ControlPlane(settings, access).run(stop)

    sys.exit(process.run("controlplane", work, expected=(OSError, kube.ConfigError)))


if __name__ == "__main__":
    main()
