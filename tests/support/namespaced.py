"""A small mesh in network namespaces: pods on a bridge, an engine for each node, real rules, no Kubernetes.

A test reads as a scenario::

    async with namespaced.mesh() as mesh:
        server = await mesh.pod("server", node=1)
        echo = await server.serve_echo(8080)
        client = await mesh.pod("client", node=0)
        reader, writer = await client.connect(server.ip, 8080)
"""

import asyncio
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import rt_type

from meshapi import names
from meshapi.proto import authorization_pb2, engine_pb2, logs_pb2, workload_pb2
from meshengine import Engine, events
from meshkit.linux import links, netns
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture
from tests.support import backends
from tests.support.authority import IssuesCertificates, TestAuthority
from tests.support.waiting import scaled, until

NODES = 2


class Node:
    """One engine, followed."""

    def __init__(
        self, name: str, authority: IssuesCertificates, resolv_conf: Path, settings: Mapping[str, object]
    ) -> None:
        config = engine_pb2.EngineConfig(
            node=name, worker_threads=1, access_log=engine_pb2.JSON, workload_wait_ms=1000, dns_proxy=True,
            dns_log=True, resolv_conf=str(resolv_conf),
        )  # fmt: skip
        config.MergeFrom(engine_pb2.EngineConfig(**settings))
        self.name = name
        self.engine = Engine(config.SerializeToString())
        self.lines: list[str] = []
        self.readers: list[Callable[[bytes], None]] = []
        self.started: list[Callable[[str, str], object]] = []
        self.records: list[logs_pb2.LogRecord] = []
        self.log: list[dict[str, object]] = []
        self.stopped: set[str] = set()
        self.withhold: set[str] = set()
        self.authority = authority
        self._started: dict[str, asyncio.Future[str]] = {}
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._follow())

    async def add(self, pod: "Pod", mode: engine_pb2.WorkloadRef.Mode = engine_pb2.WorkloadRef.CAPTURED) -> None:
        """Serve a pod; returns when its listeners are open."""
        ref = engine_pb2.WorkloadRef(
            uid=pod.uid, name=pod.name, namespace=pod.namespace, service_account=pod.account, mode=mode
        )
        self._started[pod.uid] = asyncio.get_running_loop().create_future()
        with open(netns.path(pod.netns), "rb") as handle:  # noqa: ASYNC230, PTH123
            self.engine.add_workload(ref.SerializeToString(), handle.fileno())
        error = await asyncio.wait_for(self._started[pod.uid], scaled(5))
        assert error == "", error

    async def logged(self, within_s: float = 3, **wanted: object) -> dict[str, object]:
        """Wait for an access-log line with these fields (dots written as ``__``)."""
        expected = {key.replace("__", "."): value for key, value in wanted.items()}

        def found() -> dict[str, object] | None:
            return next((line for line in self.log if expected.items() <= line.items()), None)

        async with asyncio.timeout(scaled(within_s)), self._changed:
            while (line := found()) is None:
                try:
                    await self._changed.wait()
                except asyncio.CancelledError:
                    print(f"{self.name}: no line with {expected} in {self.log}")
                    raise
        return line

    def metric(self, family: str, **labels: str) -> int:
        """Sum of a family's samples that have these labels."""
        families = engine_pb2.MetricFamilies.FromString(self.engine.metrics()).families
        return sum(
            sample.value
            for one in families
            if one.name == family
            for sample in one.samples
            if labels.items() <= dict(zip(one.label_names, sample.label_values, strict=True)).items()
        )

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.engine.close()

    async def _follow(self) -> None:
        async for packed in events.batches(self.engine):
            batch = engine_pb2.EventBatch.FromString(packed)
            lines = batch.access_log.decode().split("\n")[:-1]
            if lines:
                for reader in self.readers:
                    reader(batch.access_log)
            self.lines += lines
            for portion in batch.access_log_records:
                records = logs_pb2.ScopeLogs.FromString(portion.records).log_records
                assert len(records) == portion.count
                self.records += records
            self.log += [json.loads(line) for line in lines if line.startswith("{")]
            for event in batch.events:
                match event.WhichOneof("kind"):
                    case "workload_started":
                        started = event.workload_started
                        for listener in self.started:
                            listener(started.uid, started.error)
                        if (waiting := self._started.get(started.uid)) is not None:
                            waiting.set_result(started.error)
                    case "workload_stopped":
                        self.stopped.add(event.workload_stopped.uid)
                    case "certificate_wanted" if event.certificate_wanted.identity not in self.withhold:
                        identity = event.certificate_wanted.identity
                        chain, key = self.authority.issue(identity)
                        self.engine.set_trust_bundle(self.authority.roots)
                        self.engine.set_certificate(identity, chain, key)
                    case _:
                        pass
            async with self._changed:
                self._changed.notify_all()


@dataclass
class Pod:
    """A network namespace with an address, on a node."""

    mesh: "Mesh"
    name: str
    node: Node
    ip: str
    netns: str
    namespace: str = "shop"
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    captured: bool = False
    plan: PodPlan = field(default_factory=PodPlan)
    labels_policies: list[str] = field(default_factory=list)

    @property
    def account(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        return f"spiffe://cluster.local/ns/{self.namespace}/sa/{self.account}"

    def in_namespace(self, work):
        return netns.run(netns.path(self.netns), work)

    @property
    def workload(self) -> workload_pb2.Workload:
        """The pod as a control plane announces it."""
        return workload_pb2.Workload(
            uid=f"Kubernetes//Pod/{self.namespace}/{self.name}",
            name=self.name,
            namespace=self.namespace,
            addresses=[ip_address(self.ip).packed],
            tunnel_protocol=workload_pb2.HBONE if self.captured else workload_pb2.NONE,
            service_account=self.account,
            node=self.node.name,
            workload_name=self.name,
            canonical_name=self.name,
            canonical_revision="v1",
            workload_type=workload_pb2.POD,
            authorization_policies=self.labels_policies,
        )

    def capture(self, mode: Mode = Mode.CAPTURE) -> None:
        """Put the rules in place, as the node agent does."""
        descriptor = os.open(netns.path(self.netns), os.O_RDONLY)
        try:
            self.mesh.backend.prepare(backends.sandbox(descriptor))
            self.mesh.backend.apply(backends.sandbox(descriptor), replace(self.plan, mode=mode))
        finally:
            os.close(descriptor)

    async def connect(self, ip: str, port: int, within_s: float = 3):
        """Open a connection from inside the pod, as its application would."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        sock = self.in_namespace(lambda: socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        try:
            async with asyncio.timeout(scaled(within_s)):
                await asyncio.get_running_loop().sock_connect(sock, (ip, port))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def request(self, ip: str, port: int, message: bytes = b"hello", within_s: float = 3) -> bytes:
        """Send a message, end the sending side, and return all that comes back."""
        reader, writer = await self.connect(ip, port, within_s)
        try:
            writer.write(message)
            await writer.drain()
            try:
                writer.write_eof()
            except OSError as error:  # ENOTCONN: the reset was faster than we
                raise ConnectionResetError(str(error)) from error
            async with asyncio.timeout(scaled(within_s)):
                return await reader.read(-1)
        finally:
            writer.close()

    async def serve(self, port: int, handler) -> None:
        """Listen inside the pod, as its application would."""

        def listen() -> socket.socket:
            family = socket.AF_INET6 if ":" in self.ip else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("::" if ":" in self.ip else "0.0.0.0", port))
            return sock

        # The backlog must hold a burst of connections: a SYN that overflows it is sent again after 1, 3 and 7 seconds,
        # when the tunnel's connect timeout has expired.
        server = await asyncio.start_server(handler, sock=self.in_namespace(listen), backlog=1024)
        self.mesh.stack.callback(server.close)

    async def serve_peer(self, port: int) -> list[str]:
        """Answer each connection with the client's address, then its bytes; returns the list of clients seen."""
        seen: list[str] = []

        async def handle(reader, writer) -> None:
            peer = writer.get_extra_info("peername")[0]
            seen.append(peer)
            writer.write(f"{peer} ".encode())
            with suppress(ConnectionResetError):  # a tunnel that is closed resets what it carries
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        await self.serve(port, handle)
        return seen


class Mesh:
    """Pods and nodes; what ``apply`` is given goes to every node, as a control plane would send it."""

    def __init__(
        self,
        stack: AsyncExitStack,
        prefix: str,
        subnet: str,
        authority: IssuesCertificates,
        backend: PodCapture,
        settings: Mapping[str, object],
    ) -> None:
        self.stack = stack
        self.backend = backend
        self.authority = authority
        self.prefix = prefix
        self.subnet = subnet
        self.bridge = f"{prefix}b"
        self._resolv_conf = Path(stack.enter_context(TemporaryDirectory())) / "resolv.conf"
        self._settings = settings
        self.nodes = [self._node(f"node-{number}") for number in range(NODES)]
        self.pods: list[Pod] = []

    async def pod(self, name: str, *, node: int = 0, captured: bool = True, namespace: str = "shop") -> Pod:
        """Make a pod and, by default, enrol it: listeners, rules, announcement."""
        number = len(self.pods) + 10
        space = f"{self.prefix}{name}"
        netns.create(space)
        self.stack.callback(netns.delete, space)
        link, inside = f"{self.prefix}{number}", "eth0"
        netns.run(
            self.space, lambda: links.add_veth(link, master=self.bridge, peer=inside, peer_netns=netns.path(space))
        )
        ip = str(ip_interface(self.subnet).ip + number)
        prefix = ip_interface(self.subnet).network.prefixlen
        pod = Pod(self, name, self.nodes[node], ip, space, namespace)

        def configure() -> None:
            links.add_address(inside, ip_interface(f"{ip}/{prefix}"))
            links.set_up(inside)
            links.set_up("lo")

        pod.in_namespace(configure)
        # The kernel makes an IPv6 address its own a moment after it has been added: until then answers to it are lost.
        await until(lambda: pod.in_namespace(lambda: _is_local(ip)))
        self.pods.append(pod)
        if captured:
            await self.enrol(pod)
        self.announce(pod)
        return pod

    async def enrol(self, pod: Pod) -> None:
        await pod.node.add(pod)
        pod.capture()
        pod.captured = True

    def node(self, name: str) -> Node:
        """One more engine; it receives what is announced from now on."""
        node = self._node(name)
        self.nodes.append(node)
        self.stack.push_async_callback(node.close)
        return node

    def _node(self, name: str) -> Node:
        return Node(name, self.authority, self._resolv_conf, self._settings)

    def resolvers(self, *addresses: str) -> None:
        """Set the resolvers that the engines query themselves; call it before the first query."""
        self._resolv_conf.write_text("".join(f"nameserver {address}\n" for address in addresses))

    def announce(self, pod: Pod, **fields: object) -> None:
        """Announce a pod to every node."""
        workload = pod.workload
        workload.MergeFrom(workload_pb2.Workload(**fields))
        self.apply(workload.uid, workload_pb2.Address(workload=workload))

    def withdraw(self, pod: Pod) -> None:
        """Remove a pod from every node."""
        for node in self.nodes:
            node.engine.apply(names.ADDRESS_TYPE, [], [f"Kubernetes//Pod/{pod.namespace}/{pod.name}"])

    def service(self, name: str, vip: str, ports: dict[int, int], namespace: str = "shop", **fields: object) -> None:
        """Announce a service to every node; pods join with ``announce(pod, services=...)``."""
        hostname = f"{name}.{namespace}.svc.cluster.local"
        service = workload_pb2.Service(
            name=name,
            namespace=namespace,
            hostname=hostname,
            addresses=[workload_pb2.NetworkAddress(address=ip_address(vip).packed)],
            ports=[workload_pb2.Port(service_port=port, target_port=target) for port, target in ports.items()],
            **fields,
        )
        self.apply(f"{namespace}/{hostname}", workload_pb2.Address(service=service))

    def apply(self, name: str, message: workload_pb2.Address | authorization_pb2.Authorization) -> None:
        is_address = isinstance(message, workload_pb2.Address)
        type_url = names.ADDRESS_TYPE if is_address else names.AUTHORIZATION_TYPE
        for node in self.nodes:
            node.engine.apply(type_url, [(name, message.SerializeToString())], [])

    def deny(self, name: str, namespace: str = "shop", scope=authorization_pb2.NAMESPACE, **match: object) -> None:
        """A DENY policy with one match."""
        self.policy(name, authorization_pb2.DENY, namespace, scope, **match)

    def policy(
        self, name: str, action, namespace: str = "shop", scope=authorization_pb2.NAMESPACE, **match: object
    ) -> None:
        rules = [authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[authorization_pb2.Match(**match)])])]
        message = authorization_pb2.Authorization(
            name=name, namespace=namespace, scope=scope, action=action, rules=rules if match else []
        )
        self.apply(f"{namespace}/{name}", message)

    def withdraw_policy(self, name: str, namespace: str = "shop") -> None:
        for node in self.nodes:
            node.engine.apply(names.AUTHORIZATION_TYPE, [], [f"{namespace}/{name}"])

    @property
    def space(self) -> Path:
        """Namespace of the bridge."""
        return netns.path(f"{self.prefix}net")

    async def start(self) -> None:
        netns.create(f"{self.prefix}net")
        self.stack.callback(netns.delete, f"{self.prefix}net")
        netns.run(self.space, lambda: links.add_bridge(self.bridge))
        for node in self.nodes:
            self.stack.push_async_callback(node.close)


def _is_local(ip: str) -> bool:
    with IPRoute() as netlink:
        return any(route["type"] == rt_type["local"] for route in netlink.route("get", dst=ip))


def route_everything() -> None:
    """Route service addresses, which no host has, to eth0; the capture rules redirect them."""
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        for family in (2, 10):
            netlink.route("add", family=family, dst="default", oif=index)


@asynccontextmanager
async def mesh(
    subnet: str = "10.77.0.0/24",
    authority: IssuesCertificates | None = None,
    backend: PodCapture | None = None,
    settings: Mapping[str, object] = MappingProxyType({}),
) -> AsyncIterator[Mesh]:
    """A mesh of its own, removed at the end. ``settings``: fields of ``EngineConfig`` that differ from its usual."""
    async with AsyncExitStack() as stack:
        prefix = f"cv{uuid.uuid4().hex[:5]}"
        made = Mesh(stack, prefix, subnet, authority or TestAuthority(), backend or NftablesCapture(), settings)
        await made.start()
        yield made
