"""A waypoint with everything around it, without Kubernetes: services' servers, the control plane's own code, a proxy.

All addresses are local ones of a network namespace of the test's own, so pods need no namespaces of theirs.
"""

import asyncio
import contextlib
import json
import ssl
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from controlplane.ambient import model as ambient
from controlplane.config_map_certificates import certificates_of
from controlplane.envoy import layer7
from controlplane.gateways import place
from controlplane.gateways import secrets as secrets_of_gateways
from controlplane.inputs.kinds import KINDS
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import MESH
from controlplane.status import gateways, ingresses
from controlplane.status.outcomes import Outcomes
from controlplane.status.policy_ancestors import PolicyAncestors
from controlplane.status.route_parents import RouteParents
from controlplane.xds import worlds
from controlplane.xds.nearby import Nearby, labels_of
from meshapi import names
from meshapi.identity import SpiffeId
from meshapi.mesh_config.reading import config_of
from meshapi.resources import base, core
from meshkit.kube import Key
from meshkit.xds import sds, serving
from meshkit.xds.ads import AggregatedDiscovery
from meshkit.xds.peer import Peer, SilentObserver
from meshkit.xds.source import ResourceSource
from tests.scenarios import authorizer, datagrams
from tests.scenarios.files import Scenario, Service
from tests.scenarios.makers import Makers
from tests.scenarios.pods import Pod, Request
from tests.support import attacker, hbone_client, hbone_server, telemetry_collector, waypoint_envoy
from tests.support.authority import TestAuthority
from tests.support.kubernetes_objects import Json, hostname_of, pod, service
from tests.support.tokens import TokenIssuer
from tests.support.waiting import TIMEOUT_FACTOR
from tests.unit.meshkit.test_secrets import Secrets
from waypoint.file_secrets import FileSecrets
from waypoint.secrets import OwnSecrets

WAYPOINT: Key = ("default", "waypoint")
GATEWAY: Key = ("default", "gateway")
_PLACE = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
"""Labels of the pod that serves Gateways of Istio's API."""
_MODELS = {item.kind.title: item for item in KINDS}


class Refusals(SilentObserver):
    """What the proxy has refused."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def refused(self, peer: Peer, type_url: str, resources: list[str], reason: str) -> None:
        self.reasons.append(f"{type_url.rpartition('.')[2]} {resources}: {reason}")


@dataclass
class World:
    """What runs for one scenario."""

    scenario: Scenario
    folder: Path
    authority: TestAuthority = field(default_factory=TestAuthority)
    stranger: TestAuthority = field(default_factory=TestAuthority)
    refusals: Refusals = field(default_factory=Refusals)
    seen: list[Request] = field(default_factory=list)
    tunnelled: list[str] = field(default_factory=list)
    """Where tunnels to pods have gone."""
    envoy: waypoint_envoy.Envoy | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    """Of the pod that serves Gateways of Istio's API."""

    def __post_init__(self) -> None:
        self.issuer = TokenIssuer()
        self.forger = TokenIssuer()
        self.makers = Makers(self.authority, self.stranger)
        self.model = ambient.create(MeshContext())
        self.layer7 = layer7.create(self.model)
        self.worlds = worlds.create(self.layer7)
        self.outcomes = Outcomes(self.layer7)
        lists = (*RouteParents(self.layer7).lists, *PolicyAncestors(self.layer7).lists)
        self.reports = gateways.reports(self.layer7)
        self.ingresses = ingresses.reports(self.layer7)
        self.lists = {one.kind.name: one.entries for one in lists}
        self.services: dict[str, tuple[Service, str]] = {}
        """By name and namespace: the service and its virtual address."""
        self.pods: list[Pod] = []
        for name, one in self.scenario.services.items():
            self._add_service(name, one)
        if self.scenario.gateway == "istio":
            self.annotate(self.scenario.annotations)
        if not self.scenario.gateway:
            self.put_waypoint(self.scenario.waypoint_for)
        for name, node in self.scenario.nodes.items():
            labels = {names.REGION_LABEL: node.region, names.ZONE_LABEL: node.zone, names.SUBZONE_LABEL: node.subzone}
            self.put({"kind": "Node", "metadata": {"name": name, "namespace": "", "labels": labels}})
        for space in {"default", *(one.namespace for one in self.scenario.services.values())}:
            self._put_namespace(space, {})
        for space, given in self.scenario.namespaces.items():
            self._put_namespace(space, given)
        self.configure(self.scenario.mesh)
        for item in self.scenario.resources:
            self.put(item)
        self.publish()

    @property
    def view(self) -> Key:
        """What the proxy is."""
        if self.scenario.gateway == "istio":
            return place.of_pod(base.read(core.Pod, _place(self.annotations))).key
        return GATEWAY if self.scenario.gateway else WAYPOINT

    def annotate(self, annotations: dict[str, str]) -> None:
        """Set the annotations of the pod that serves Gateways of Istio's API."""
        self.annotations = annotations
        self.put({"kind": "Pod", **_place(annotations)})

    def configure(self, mesh: Json) -> None:
        """Set the mesh configuration."""
        self.model.inputs.config.set(MESH, config_of(self._filled(mesh)))

    def _filled(self, item: Json) -> Json:
        text = json.dumps(item).replace('"$KEYS"', json.dumps(self.issuer.key_set)).replace("$FILES", str(self.folder))
        for name, authority in (("$CA", self.authority), ("$OTHER_CA", self.stranger)):
            text = text.replace(f'"{name}"', json.dumps(authority.roots.decode()))
        found: Json = json.loads(text)
        return found

    def put(self, item: Json) -> None:
        """Add or replace an object."""
        key = (item["metadata"].get("namespace", "default"), item["metadata"]["name"])
        if item["kind"] == "ConfigMap":
            self.model.inputs.certificates.set(key, certificates_of(self._filled(item)))
            return
        if item["kind"] == "Secret":
            found = secrets_of_gateways.read(self.makers.secret(item["certificate"]))
            self.model.inputs.secrets.set(key, found.at(datetime.now(UTC)))
            return
        is_istio = item.get("apiVersion", "").startswith("networking.istio.io/")
        kind = _MODELS.get(f"{item['kind']}.networking.istio.io" if is_istio else "") or _MODELS[item["kind"]]
        metadata = {"namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z", **item["metadata"]}
        filled = self._filled(item)
        found = base.read(kind.model, {**filled, "metadata": metadata})
        self.model.inputs.of(kind.model).set(found.key, found)

    def put_waypoint(self, handles: str) -> None:
        """Add or replace the waypoint; ``handles`` is its label, if not empty."""
        self.put(_waypoint(handles))

    def remove(self, name: str) -> None:
        """Remove an object, by kind, namespace (if not the default one) and name."""
        kind, *key = name.split("/")
        if kind == "Secret":
            missing = secrets_of_gateways.MISSING.secret
            self.model.inputs.secrets.set((key[0] if len(key) == 2 else "default", key[-1]), missing)
            return
        self.model.inputs.of(_MODELS[kind].model).set((key[0] if len(key) == 2 else "default", key[-1]), None)

    def publish(self) -> None:
        """Compute and give out what has changed."""
        self.model.flush()
        wanted = {key for gateway in self.model.gateways.known for key in gateway.secrets}
        for key in wanted:
            if self.model.inputs.secrets.find(key) is None:
                self.model.inputs.secrets.set(key, secrets_of_gateways.MISSING.secret)
        self.model.flush()
        failures = self.model.graph.take_failures()
        assert not failures, failures
        self.worlds.publish(is_settled=True)

    def lines(self, file: str) -> list[str]:
        """The lines of an access log."""
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []

    def clear_logs(self) -> None:
        """Empty the access logs. Envoy appends to them, so it goes on at the beginning."""
        for path in self.folder.glob("*.log"):
            if path.name != "envoy.log":
                path.write_text("")

    async def finish_logs(self) -> None:
        """Wait until all requests have ended for the proxy, and all that it has logged is in its files."""
        assert self.envoy is not None
        pending = r"/stats?filter=(^http\.inbound.*downstream_rq_active|write_total_buffered)$"
        async with asyncio.timeout(5 * TIMEOUT_FACTOR):
            while not all(line.endswith(": 0") for line in (await self.envoy.get(pending)).splitlines()):
                await asyncio.sleep(0.005)

    async def metrics(self) -> list[str]:
        """The lines of the proxy's page of metrics."""
        assert self.envoy is not None
        return [line for line in (await self.envoy.get("/stats/prometheus")).splitlines() if line[:1] != "#"]

    def message(self, name: str) -> str:
        """All messages of an object's conditions that are false, by kind and name."""
        kind, *path = name.split("/")
        key = (path[0] if len(path) == 2 else "default", path[-1])
        if kind == "Gateway":
            report = self.reports.find(key)
            return "" if report is None else "; ".join(report.problems)
        if kind == "Ingress":
            found = [one for one in self.ingresses if one.key == key]
            return "; ".join(problem for one in found for problem in one.problems) if found else "is not ours"
        if kind in self.lists:
            every = [one for entry in self.lists[kind].find(key) or () for one in entry["conditions"]]
            return "; ".join(one["message"] for one in every if one["status"] == "False")
        outcome = self.outcomes.by_kind[_MODELS[kind].kind].find(key)
        return "; ".join(one.message for one in (outcome.conditions if outcome else ()) if not one.accepted)

    def address(self, to: str, port: int) -> str:
        """Where a service is called."""
        name, _, namespace = to.partition(".")
        found, address = self.services[f"{name}.{namespace or 'default'}"]
        return f"{address}:{port or next(iter(found.ports.values()))}"

    def _add_service(self, name: str, one: Service) -> None:
        number = len(self.services) + 1
        address = f"10.96.0.{number}"
        self.services[f"{name}.{one.namespace}"] = (one, address)
        ports = [
            {
                "name": port,
                "port": value,
                "targetPort": value,
                "protocol": "UDP" if port.startswith("udp") else "TCP",
            }
            for port, value in one.ports.items()
        ]
        self.put(
            {
                "kind": "Service",
                **service(name, one.namespace, clusterIP=address, clusterIPs=[address], ports=ports, **one.spec),
            }
        )
        for version, behaviour in one.pods.items():
            ip = behaviour.address or f"10.0.{number}.{len(self.pods) + 1}"
            more = (f"fd00:10::{number}:{len(self.pods) + 1}",) if behaviour.ipv6 else ()
            self.pods.append(Pod(f"{name}-{version}", name, version, (ip, *more), behaviour))
            labels = {"app": name, "version": version, **behaviour.labels}
            made = pod(
                f"{name}-{version}",
                one.namespace,
                ip=ip,
                labels=labels,
                captured=behaviour.captured or behaviour.tunnel,
                node=behaviour.node,
                host_network=behaviour.host_network,
            )
            made["status"]["podIPs"] += [{"ip": one} for one in more]
            self.put({"kind": "Pod", **made})

    def _put_namespace(self, name: str, given: dict[str, str]) -> None:
        labels = {"istio.io/use-waypoint": WAYPOINT[1], "istio.io/use-waypoint-namespace": WAYPOINT[0]}
        labels = given if self.scenario.gateway else {**labels, **given}
        item = base.read(core.Namespace, {"metadata": {"name": name, "labels": labels}})
        self.model.inputs.namespaces.set(item.key, item)

    async def serve_pods(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the servers of all pods."""
        for one in self.pods:
            found = self.services[f"{one.service}.{self.scenario.services[one.service].namespace}"][0]
            for name, port in found.ports.items():
                if one.behaviour.collects:
                    lines = self.folder / "collected.log"
                    await stack.enter_async_context(telemetry_collector.serving(one.addresses[0], port, lines))
                elif name.startswith("udp"):
                    await stack.enter_async_context(datagrams.serving(one, port))
                elif name.startswith(("tcp", "tls")):
                    await stack.enter_async_context(self._tcp_server(one, port))
                elif name.startswith("grpc"):
                    await stack.enter_async_context(authorizer.serving(one, port, self.seen.append))
                else:
                    await stack.enter_async_context(self._http_server(one, port))
            if one.behaviour.tunnel:
                identity = f"spiffe://cluster.local/ns/{self.scenario.services[one.service].namespace}/sa/default"
                context = hbone_server.tls_context(*self.authority.issue(identity), self.authority.roots)
                await stack.enter_async_context(hbone_server.serving(one.addresses, context, self.tunnelled))

    @contextlib.asynccontextmanager
    async def _http_server(self, one: Pod, port: int) -> AsyncIterator[None]:
        async def answer(request: web.Request) -> web.Response:
            return await self._answer(one, request)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        tls = self._server_tls(one) if one.behaviour.tls else None
        for address in one.addresses:
            await web.TCPSite(runner, address, port, ssl_context=tls).start()
        try:
            yield
        finally:
            await runner.cleanup()

    def write_files(self) -> None:
        """Write the certificates that resources name as ``$FILES/…``, into the proxy's pod."""
        self.makers.write_files(self.folder)

    def _server_tls(self, one: Pod) -> ssl.SSLContext:
        chain, key = self.authority.issue_for_hosts(*one.behaviour.tls)
        file = self.folder / f"{one.name}.pem"
        file.write_bytes(chain + key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        context.set_alpn_protocols(["http/1.1"])
        if one.behaviour.mutual:
            context.load_verify_locations(cadata=self.authority.roots.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _answer(self, one: Pod, request: web.Request) -> web.Response:
        body = (await request.read()).decode(errors="replace")
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Request(one.service, one.version, one.name, request.method, request.raw_path, headers, body)
        self.seen.append(seen)
        does = one.behaviour
        if does.delay_s:
            await asyncio.sleep(does.delay_s)
        status = does.status
        if one.failed < does.fails:
            one.failed += 1
            status = does.failure
        if any(headers.get(name) != value for name, value in does.requires.items()):
            status = 403
        text = does.body or json.dumps({"pod": one.name, "path": seen.path, "headers": headers})
        return web.Response(
            status=status, text=text, headers={"x-pod": one.name, "x-version": one.version, **does.headers}
        )

    @contextlib.asynccontextmanager
    async def _tcp_server(self, one: Pod, port: int) -> AsyncIterator[None]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if one.behaviour.speaks_first:
                writer.write(b"hello ")
            while one.behaviour.repeats and (line := await reader.readline()):
                writer.write(line)
            data = await reader.read(1000)
            if data:  # a proxy connects before it has judged what the client sends
                self.seen.append(Request(one.service, one.version, one.name, "", "", {}, data.decode(errors="replace")))
            writer.write(one.version.encode() + b" " + data)
            writer.close()

        server = await asyncio.start_server(serve, one.addresses, port)
        async with server:
            yield

    @contextlib.asynccontextmanager
    async def tunnel(self, namespace: str, account: str) -> AsyncIterator[hbone_client.Tunnel]:
        """A client's tunnel to the waypoint."""
        identity = f"spiffe://cluster.local/ns/{namespace}/sa/{account}"
        context = attacker.tls_context(*self.authority.issue(identity), self.authority.roots)
        async with hbone_client.connected("127.0.0.1", names.HBONE_PORT, context) as tunnel:
            yield tunnel


def baggage(namespace: str, account: str) -> dict[str, str]:
    """What a client's ztunnel says about it."""
    return {"baggage": f"k8s.namespace.name={namespace},k8s.deployment.name={account},service.name={account}"}


def _place(annotations: dict[str, str]) -> Json:
    """A pod that serves Gateways of Istio's API."""
    made = pod("istio-ingressgateway", "istio-system", account="istio-ingressgateway", labels=_PLACE, ip="")
    made["metadata"]["annotations"] = annotations
    return made


def _waypoint(handles: str) -> Json:
    labels = {names.WAYPOINT_FOR_LABEL: handles} if handles else {}
    return {
        "kind": "Gateway",
        "metadata": {"name": WAYPOINT[1], "namespace": WAYPOINT[0], "labels": labels},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [
                {"name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": {"namespaces": {"from": "All"}}}
            ],
        },
        "status": {"addresses": hostname_of(*reversed(WAYPOINT))},
    }


@contextlib.asynccontextmanager
async def running(scenario: Scenario) -> AsyncIterator[World]:
    """A scenario's world, with a proxy that has its configuration."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="culvert-scenario-")))
        world = World(scenario, folder)
        await world.serve_pods(stack)

        def view(_: Peer) -> ResourceSource:
            place = world.model.inputs.of(core.Node).find(("", next(iter(scenario.nodes))))
            return Nearby(world.worlds.following(lambda: world.view), labels_of(None, place))

        async def anyone(_: object) -> str:
            return "/".join(world.view)

        world.write_files()
        issued, in_files = Secrets(), FileSecrets(folder / "ca.pem")
        own = SpiffeId("cluster.local", world.view[0], world.view[1].partition(":")[0])
        issued.put(str(own), sds.KeyPair(*world.authority.issue(str(own))), "1")
        issued.put(names.ROOT_SECRET_NAME, sds.TrustBundle(world.authority.roots), "1")
        secrets = OwnSecrets(issued, own, in_files)
        following = asyncio.create_task(in_files.follow(poll_s=0.1))
        stack.callback(following.cancel)
        discovery = AggregatedDiscovery(view, anyone, world.refusals)
        await stack.enter_async_context(serving.serve_unix(folder / "xds", [discovery]))
        await stack.enter_async_context(serving.serve_unix(folder / "sds", [sds.SecretDiscovery(secrets)]))
        world.envoy = await stack.enter_async_context(
            waypoint_envoy.running(
                folder, folder / "xds", folder / "sds", gateway=bool(scenario.gateway), resolved=scenario.names
            )
        )
        yield world


def versions(seen: list[Request]) -> Iterator[tuple[str, int]]:
    """How often each version was called."""
    counts: dict[str, int] = defaultdict(int)
    for one in seen:
        counts[one.version] += 1
    yield from counts.items()
