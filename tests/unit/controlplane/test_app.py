"""The whole control plane in one process: real gRPC over TLS, the Kubernetes API imitated on HTTP only."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from controlplane.app import ControlPlane
from controlplane.settings import Settings
from meshapi import names
from meshapi.proto import authorization_pb2, ca_pb2, ca_pb2_grpc, workload_pb2
from meshkit import kube
from meshkit.xds import client
from meshkit.xds.credentials import token_metadata
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.kubernetes_objects import peer, pod, policy, service
from tests.support.waiting import until


class Recorder:
    """A receiver that keeps what it gets and refuses the names it is told to."""

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
    def __init__(self, api: FakeKubernetes, plane: ControlPlane, folder: Path, admin: str) -> None:
        self.api = api
        self.plane = plane
        self.folder = folder
        self.admin = admin
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
        task = asyncio.create_task(subscriber.run())
        try:
            yield subscriber
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

    async def page(self, path: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.admin}{path}") as response:
            return await response.text()


def make_csr(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://evil/ns/a/sa/b")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(alternative, critical=True)
    return csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest_asyncio.fixture
async def running(tmp_path: Path, unused_tcp_port_factory: object) -> AsyncIterator[Running]:
    port = unused_tcp_port_factory  # type: ignore[assignment]
    admin = f"127.0.0.1:{port()}"  # type: ignore[operator]
    settings = Settings(
        xds_address="127.0.0.1:0",
        metrics_address=f"127.0.0.1:{port()}",  # type: ignore[operator]
        health_address=f"127.0.0.1:{port()}",  # type: ignore[operator]
        admin_address=admin,
    )
    async with FakeKubernetes() as api:
        api.put("namespaces", {"metadata": {"name": "istio-system"}, "status": {"phase": "Active"}})
        api.put("namespaces", {"metadata": {"name": "shop"}, "status": {"phase": "Active"}})
        api.put("nodes", {"metadata": {"name": "node-1", "labels": {names.REGION_LABEL: "r1"}}})
        api.put("pods", pod("web", labels={"app": "web"}, captured=True))
        api.put("pods", pod("far", ip="10.0.1.1", node="node-2", account="far"))
        api.put("pods", pod("ztunnel-1", "istio-system", ip="10.0.0.9", account="ztunnel", uid="zt-uid"))
        api.put("services", service("web", ports=[{"port": 80, "targetPort": 8080, "name": "http"}]))
        api.tokens = {
            "ztunnel-token": token_user("istio-system", "ztunnel", "ztunnel-1", "zt-uid"),
            "unbound-token": token_user("istio-system", "ztunnel"),
            "web-token": token_user("shop", "default", "web", "uid-web"),
        }
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
            yield Running(api, plane, tmp_path, admin)
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


WEB = "Kubernetes//Pod/shop/web"


async def test_proxy_gets_everything_then_single_changes_at_once(running: Running) -> None:
    seen = Recorder()
    async with running.subscriber(seen) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
        assert seen.workload(WEB).tunnel_protocol == workload_pb2.HBONE
        assert seen.workload(WEB).locality.region == "r1"
        assert "shop/web.shop.svc.cluster.local" in seen.held

        loop = asyncio.get_running_loop()
        delays = []
        for turn in range(5):
            await asyncio.sleep(0.03)
            before, count = loop.time(), len(seen.updates)
            running.api.put("pods", pod("new", ip=f"10.0.0.{turn + 2}"))
            await until(lambda count=count: len(seen.updates) > count)  # type: ignore[misc]
            delays.append(seen.updates[-1][3] - before)
        assert seen.updates[-1][1] == ["Kubernetes//Pod/shop/new"]
        print("event to proxy, ms:", [round(delay * 1000, 1) for delay in delays])
        assert min(delays) < 0.05, delays

        running.api.remove("pods", "new", "shop")
        await until(lambda: "Kubernetes//Pod/shop/new" not in seen.held)


async def test_policies_arrive_before_the_workloads_that_name_them(running: Running) -> None:
    seen = Recorder()
    async with running.subscriber(seen) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
        running.api.put("peerauthentications", peer("strict", mode="STRICT"))
        running.api.put("authorizationpolicies", policy("p", selector={"matchLabels": {"app": "web"}}))
        await until(lambda: len(seen.workload(WEB).authorization_policies) == 2)
        assert list(seen.workload(WEB).authorization_policies) == [
            "shop/p",
            "istio-system/istio_converted_static_strict",
        ]
        assert seen.policy("shop/p").scope == authorization_pb2.WORKLOAD_SELECTOR
        order = [type_url for type_url, upserts, _, _ in seen.updates if upserts]
        assert order.index(names.AUTHORIZATION_TYPE) < len(order) - 1
        assert order[-1] == names.ADDRESS_TYPE


async def test_refusal_is_counted_and_shown_and_not_sent_again_until_it_changes(running: Running) -> None:
    seen = Recorder()
    seen.refuse[WEB] = "addresses[0]: 3 bytes"
    async with running.subscriber(seen):
        await until(lambda: any(type_url == names.ADDRESS_TYPE for type_url, *_ in seen.updates))

        async def refused() -> dict[str, object]:
            pages = json.loads(await running.page("/debug/syncz"))
            return dict(pages[0]["types"][names.ADDRESS_TYPE])

        async with asyncio.timeout(5):
            while (state := await refused())["rejects"] != 1:
                await asyncio.sleep(0.01)
        assert "3 bytes" in str(state["error"])
        rejects = running.plane.metrics.registry.get_sample_value("pilot_total_xds_rejects_total", {"type": "WDS"})
        assert rejects == 1
        seen.refuse.clear()
        running.api.put("pods", pod("web", labels={"app": "web"}, captured=True, ready=False))
        await until(lambda: WEB in seen.held)


async def test_reconnect_sends_only_what_has_changed(running: Running) -> None:
    seen = Recorder()
    async with running.subscriber(seen) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
    held = {type_url: {} for type_url in (names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE)}  # type: ignore[var-annotated]
    held[names.ADDRESS_TYPE] = {name: version for name, (version, _) in seen.held.items()}
    running.api.remove("pods", "far", "shop")
    running.api.put("pods", pod("fresh", ip="10.0.0.77"))
    await until(lambda: running.plane.model.pods.find(("shop", "fresh")))
    again = Recorder()
    second = client.DeltaClient(
        connect=running.connect(),
        metadata=lambda: token_metadata(running.token_file, "Kubernetes"),
        node=client.NodeInfo("ztunnel~x"),
        subscriptions={names.ADDRESS_TYPE: client.EVERYTHING},
        receiver=again,
    )
    second.hold(names.ADDRESS_TYPE, held[names.ADDRESS_TYPE])
    task = asyncio.create_task(second.run())
    try:
        await asyncio.wait_for(second.wait_received(), 5)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    _, upserts, removes, _ = again.updates[0]
    assert upserts == ["Kubernetes//Pod/shop/fresh"]
    assert removes == ["Kubernetes//Pod/shop/far"]


@pytest.mark.parametrize("token", ["", "made-up"])
async def test_stream_without_a_good_token_is_refused(running: Running, token: str) -> None:
    async with running.connect()() as channel:
        call = channel.stream_stream(client.Service.AGGREGATED.value)(
            metadata=(("authorization", f"Bearer {token}"),) if token else ()
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "token" not in (caught.value.details() or "")


async def test_node_account_gets_certificates_of_its_own_node_only(running: Running) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = await running.certificate(
        "ztunnel-token", impersonate="spiffe://cluster.local/ns/shop/sa/default", csr=make_csr(key)
    )
    leaf, root = x509.load_pem_x509_certificate(chain[0].encode()), x509.load_pem_x509_certificate(chain[-1].encode())
    leaf.verify_directly_issued_by(root)
    assert leaf.public_key() == key.public_key()
    alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert alternative.critical
    assert alternative.value.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://cluster.local/ns/shop/sa/default"
    ]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert 24 * 3600 <= life.total_seconds() <= 24 * 3600 + 300

    for token, identity in [
        ("ztunnel-token", "spiffe://cluster.local/ns/shop/sa/far"),  # its only pod runs on another node
        ("ztunnel-token", "spiffe://elsewhere/ns/shop/sa/default"),
        ("unbound-token", "spiffe://cluster.local/ns/shop/sa/default"),
        ("web-token", "spiffe://cluster.local/ns/istio-system/sa/ztunnel"),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.certificate(token, impersonate=identity)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, (token, identity)


async def test_certificate_of_a_pod_that_is_just_being_scheduled_is_waited_for(running: Running) -> None:
    asking = asyncio.create_task(
        running.certificate("ztunnel-token", impersonate="spiffe://cluster.local/ns/shop/sa/late")
    )
    await asyncio.sleep(0.05)
    running.api.put("pods", pod("late", account="late", ip="", phase="Pending"))
    assert len(await asking) == 2


async def test_workload_gets_its_own_identity_and_weak_requests_are_named(running: Running) -> None:
    chain = await running.certificate("web-token", life_s=600)
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "spiffe://cluster.local/ns/shop/sa/default" in str(uris)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.certificate("web-token", csr="rubbish")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_roots_are_put_back_and_reach_new_namespaces(running: Running) -> None:
    running.api.remove("configmaps", names.ROOT_CERT_CONFIGMAP, "shop")
    running.api.put("namespaces", {"metadata": {"name": "later"}, "status": {"phase": "Active"}})
    for namespace in ("shop", "later"):
        await until(lambda n=namespace: running.api.get("configmaps", names.ROOT_CERT_CONFIGMAP, n))  # type: ignore[misc]


async def test_bad_policy_keeps_the_last_good_one_and_says_which_field(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}
    running.api.put("authorizationpolicies", policy("p", action="DENY", rules=[rule]))
    await until(lambda: running.plane.model.policies.find(("shop", "p")))
    bad = {"from": [{"source": {"ipBlocks": ["10.0.0.0/8", "ten"]}}]}
    running.api.put("authorizationpolicies", policy("p", action="DENY", rules=[bad]))
    running.api.put("authorizationpolicies", policy("q", rules=[{"from": [{"source": {"pricipals": ["*"]}}]}]))
    await until(lambda: running.plane.model.policies.find(("shop", "q")))
    held = running.plane.model.policies.find(("shop", "p"))
    assert held is not None
    assert held.spec.rules[0].from_[0].source.ip_blocks == ("10.0.0.0/8",)
    logged = "".join(capsys.readouterr())
    assert "spec.rules[0].from[0].source.ipBlocks[1]" in logged
    assert "spec.rules[0].from[0].source.pricipals" in logged


async def test_mesh_config_changes_the_trust_domain_and_bad_yaml_does_not(running: Running) -> None:
    put = running.api.put
    put("configmaps", {"metadata": {"name": "istio"}, "data": {"mesh": "trustDomain: example.org\n"}}, "istio-system")
    await until(lambda: running.plane.model.mesh.trust_domain == "example.org")
    put("configmaps", {"metadata": {"name": "istio"}, "data": {"mesh": "trustDomain: [\n"}}, "istio-system")
    chain = await running.certificate("web-token")
    assert running.plane.model.mesh.trust_domain == "example.org"
    assert "spiffe://example.org/ns/shop/sa/default" in str(
        x509.load_pem_x509_certificate(chain[0].encode()).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    )


async def test_debug_model_shows_resources(running: Running) -> None:
    document = json.loads(await running.page("/debug/model"))
    assert WEB in document["addresses"]
