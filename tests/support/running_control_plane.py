"""A control plane in this process, and a proxy that records what it receives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from controlplane.app import ControlPlane
from controlplane.settings import Settings
from meshapi import names
from meshapi.proto import authorization_pb2, ca_pb2, ca_pb2_grpc, workload_pb2
from meshkit import kube
from meshkit.xds import client
from meshkit.xds.credentials import token_metadata
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.ports import free_port
from tests.support.waiting import until

_SHUTDOWN_S: Final = 30.0
"""A hanging shutdown is found; one that first finishes what a hostile object costs, on a busy machine, is none."""


class Recorder:
    """A receiver that keeps the resources it gets and rejects the names in ``refuse``."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, bytes]] = {}
        self.updates: list[tuple[str, list[str], list[str], float]] = []
        self.refuse: dict[str, str] = {}

    async def on_update(
        self, type_url: str, upserts: list[tuple[str, str, bytes]], removes: list[str]
    ) -> Sequence[client.Rejection]:
        at = asyncio.get_running_loop().time()
        self.updates.append((type_url, [name for name, _, _ in upserts], removes, at))
        self.held.update({name: (version, body) for name, version, body in upserts if name not in self.refuse})
        for name in removes:
            self.held.pop(name, None)
        return [client.Rejection(name, self.refuse[name]) for name, _, _ in upserts if name in self.refuse]

    def workload(self, name: str) -> workload_pb2.Workload:
        return workload_pb2.Address.FromString(self.held[name][1]).workload

    def policy(self, name: str) -> authorization_pb2.Authorization:
        return authorization_pb2.Authorization.FromString(self.held[name][1])


class Running:
    def __init__(
        self, api: FakeKubernetes, plane: ControlPlane, folder: Path, settings: Settings, stop: asyncio.Event
    ) -> None:
        self.api = api
        self.settings = settings
        self.plane = plane
        self.stop = stop
        self.folder = folder
        self.admin = settings.admin_address
        self.token_file = folder / "token"
        self.token_file.write_text("ztunnel-token\n")

    @property
    def root_file(self) -> Path:
        held = self.api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "shop")
        assert held is not None
        file = self.folder / "root-cert.pem"
        file.write_text(held["data"][names.ROOT_CERT_KEY])
        return file

    def connect(self) -> client.Connect:
        return client.tls_channel(f"127.0.0.1:{self.plane.port}", self.root_file, "istiod.istio-system.svc")

    @contextlib.asynccontextmanager
    async def subscriber(self, recorder: Recorder) -> AsyncIterator[client.DeltaClient]:
        subscriber = client.DeltaClient(
            connect=self.connect(),
            metadata=lambda: token_metadata(self.token_file, "Kubernetes"),
            node=client.NodeInfo("ztunnel~10.0.0.9~ztunnel-1.istio-system~x", {"NODE_NAME": "node-1"}),
            subscriptions={names.ADDRESS_TYPE: client.EVERYTHING, names.AUTHORIZATION_TYPE: client.EVERYTHING},
            receiver=recorder,
        )
        async with self.following(subscriber):
            yield subscriber

    @contextlib.asynccontextmanager
    async def following(self, subscriber: client.DeltaClient) -> AsyncIterator[None]:
        task = asyncio.create_task(subscriber.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def certificate(self, token: str, *, impersonate: str = "", csr: str = "", life_s: int = 0) -> list[str]:
        request = ca_pb2.IstioCertificateRequest(csr=csr or make_csr(), validity_duration=life_s)
        if impersonate:
            request.metadata.update({"ImpersonatedIdentity": impersonate})
        async with self.connect()() as channel:
            stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)  # type: ignore[no-untyped-call]
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            answer = await stub.CreateCertificate(request, metadata=metadata, timeout=5)
        return list(answer.cert_chain)

    async def request(self, token: str, type_url: str, *resources: str) -> discovery_pb2.DiscoveryResponse:
        """Send a debug request over discovery, as ``istioctl`` does.

        gRPC's client loses the status of a call that is refused while it writes (``SendMessageOperation``): once more.
        """
        for _ in range(10):
            try:
                return await self._request(token, type_url, *resources)
            except grpc.aio.AioRpcError as error:
                if "SendMessageOperation" not in (error.debug_error_string() or ""):
                    raise
        raise AssertionError("ten calls in a row were refused while they were written")

    async def _request(self, token: str, type_url: str, *resources: str) -> discovery_pb2.DiscoveryResponse:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        async with self.connect()() as channel:
            requests = iter([discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=resources)])
            stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
            call = stub.StreamAggregatedResources(requests, metadata=metadata)
            answer: discovery_pb2.DiscoveryResponse = await asyncio.wait_for(call.read(), 5)
            call.cancel()
        return answer

    async def page(self, path: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.admin}{path}") as response:
            return await response.text()


@contextlib.asynccontextmanager
async def serving(api: FakeKubernetes, folder: Path, *, drain_s: float = 0.0) -> AsyncIterator[Running]:
    """Run a control plane on the API ``api``, which has the namespace ``shop``; files go into ``folder``."""
    settings = Settings(
        xds_address="127.0.0.1:0",
        metrics_address=f"127.0.0.1:{free_port()}",
        webhook_address=f"127.0.0.1:{free_port()}",
        minimum_drain_s=drain_s,
        health_address=f"127.0.0.1:{free_port()}",
        admin_address=f"127.0.0.1:{free_port()}",
    )
    plane = ControlPlane(settings, kube.explicit(api.url))
    stop = asyncio.Event()
    task = asyncio.create_task(plane.run(stop))
    try:
        async with asyncio.timeout(10):
            ready = asyncio.create_task(plane.ready.wait())
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        await until(lambda: api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "shop"))
        yield Running(api, plane, folder, settings, stop)
    finally:
        stop.set()
        await asyncio.wait_for(task, _SHUTDOWN_S)
        lease = api.get("leases", names.CONTROL_PLANE_LEASE, "istio-system")
        assert lease is None or lease["spec"]["holderIdentity"] == "", "a clean exit gives the lease back"


def make_csr(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://evil/ns/a/sa/b")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(alternative, critical=True)
    return csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
