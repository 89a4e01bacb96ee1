"""Istio's own ztunnel in the place of ours: under our control plane, node agent and rules, and against our engine.

There is no package of it. ``CULVERT_ISTIO_ZTUNNEL`` is the path of a binary built beforehand; see CONTRIBUTING.md.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from meshapi import names
from meshapi.proto import zds_pb2
from meshkit.linux import netns
from nodeagent.zds.server import Served, ZdsServer
from tests.support import namespaced
from tests.support.authority import ProductAuthority
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.kubernetes_objects import peer, pod, policy
from tests.support.running_control_plane import Running, serving
from tests.support.waiting import until

BINARY = os.environ.get("CULVERT_ISTIO_ZTUNNEL", "")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not BINARY, reason="CULVERT_ISTIO_ZTUNNEL names no binary of Istio's ztunnel"),
]

PORT = 8080
LARGE = bytes(range(256)) * 20_000
READY = "http://127.0.0.1:15021/healthz/ready"
TYPES = (names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE)


@dataclass
class Scene:
    """Two pods that Istio's ztunnel serves, two that our engine serves on another node, one outside of the mesh."""

    plane: Running
    theirs: namespaced.Pod
    their_client: namespaced.Pod
    ours: namespaced.Pod
    our_client: namespaced.Pod
    outsider: namespaced.Pod


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeKubernetes())
        for name in ("istio-system", "shop"):
            api.put("namespaces", {"metadata": {"name": name}, "status": {"phase": "Active"}})
        api.put("nodes", {"metadata": {"name": "node-0"}})
        api.put("pods", pod("ztunnel", "istio-system", ip="10.9.0.1", node="node-0", account="ztunnel", uid="zt"))
        api.tokens = {"ztunnel-token": token_user("istio-system", "ztunnel", "ztunnel", "zt")}
        plane = await stack.enter_async_context(serving(api, tmp_path))
        secret = api.get("secrets", names.CA_SECRET, "istio-system")
        assert secret is not None
        root = (base64.b64decode(secret["data"][key]) for key in ("ca-cert.pem", "ca-key.pem"))
        mesh = await stack.enter_async_context(namespaced.mesh(authority=ProductAuthority((next(root), next(root)))))
        theirs = await mesh.pod("theirs", captured=False)
        their_client = await mesh.pod("their-client", captured=False)
        outsider = await mesh.pod("outsider", captured=False)
        ours, our_client = await mesh.pod("ours", node=1), await mesh.pod("our-client", node=1)
        for one in (theirs, their_client):
            one.captured = True
            mesh.announce(one)
        for one in (theirs, their_client, ours, our_client):
            given = {"ip": one.ip, "node": one.node.name, "account": one.account, "uid": one.uid}
            api.put("pods", pod(one.name, "shop", captured=True, **given))
        await theirs.serve_peer(PORT)
        await ours.serve_peer(PORT)
        await ztunnel(stack, tmp_path, plane, [theirs, their_client])
        for one in (theirs, their_client):
            one.capture()
        yield Scene(plane, theirs, their_client, ours, our_client, outsider)


async def ztunnel(stack: AsyncExitStack, folder: Path, plane: Running, pods: list[namespaced.Pod]) -> None:
    """Start Istio's ztunnel for ``pods``; ready when this returns."""
    served = {}
    for one in pods:
        descriptor = os.open(netns.path(one.netns), os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        info = zds_pb2.WorkloadInfo(name=one.name, namespace=one.namespace, service_account=one.account)
        served[one.uid] = Served(info, descriptor)
    zds = folder / "zds.sock"
    announcing = asyncio.create_task(ZdsServer(zds, served).run())
    stack.callback(announcing.cancel)
    await until(zds.exists)
    address, root = f"https://127.0.0.1:{plane.plane.port}", str(plane.root_file)
    environment = {
        "XDS_ADDRESS": address, "XDS_ROOT_CA": root, "ALT_XDS_HOSTNAME": "istiod.istio-system.svc",
        "CA_ADDRESS": address, "CA_ROOT_CA": root, "ALT_CA_HOSTNAME": "istiod.istio-system.svc",
        "AUTH_TOKEN": plane.token_file.read_text().strip(), "INPOD_UDS": str(zds), "CLUSTER_ID": "Kubernetes",
        "NODE_NAME": "node-0", "POD_NAME": "ztunnel", "POD_NAMESPACE": "istio-system", "INSTANCE_IP": "10.9.0.1",
    }  # fmt: skip
    with (folder / "ztunnel.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            BINARY, env=os.environ | environment, cwd=folder, stdout=log, stderr=log
        )

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    stack.push_async_callback(end)
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while not await _answers(session):
            assert process.returncode is None, (folder / "ztunnel.log").read_text()
            await asyncio.sleep(0.05)


async def _answers(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get(READY) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def synced(scene: Scene) -> None:
    """Wait until ztunnel has acknowledged everything, with nothing refused."""

    async def looks() -> bool:
        page = f"http://{scene.plane.admin}/debug/syncz"
        async with aiohttp.ClientSession() as session, session.get(page) as response:
            (proxy,) = await response.json()
        assert all(proxy["types"][kind]["rejects"] == 0 for kind in TYPES)
        return all(proxy["types"][kind]["synced"] for kind in TYPES)

    async with asyncio.timeout(5):
        while not await looks():
            await asyncio.sleep(0.05)


async def test_both_directions_keep_identities_and_the_clients_addresses(scene: Scene) -> None:
    directions = [
        (scene.our_client, scene.theirs),
        (scene.their_client, scene.ours),
        (scene.their_client, scene.theirs),
    ]
    for client, server in directions:
        assert await client.request(server.ip, PORT, LARGE, within_s=10) == f"{client.ip} ".encode() + LARGE
    log = scene.ours.node
    line = await log.logged(direction="outbound", src__identity=scene.our_client.identity, dst__workload="theirs")
    assert line["dst.identity"] == scene.theirs.identity
    await log.logged(direction="inbound", src__identity=scene.their_client.identity, src__workload="their-client")


async def test_istios_ztunnel_enforces_policies_of_our_control_plane(scene: Scene) -> None:
    api = scene.plane.api
    api.put("peerauthentications", peer("default", mode="STRICT"))
    await until(lambda: "istio_converted_static_strict" in (scene.plane.folder / "ztunnel.log").read_text())
    await synced(scene)
    with pytest.raises(OSError):
        await scene.outsider.request(scene.theirs.ip, PORT)
    assert await scene.our_client.request(scene.theirs.ip, PORT) == f"{scene.our_client.ip} hello".encode()

    principals = [scene.our_client.identity.removeprefix("spiffe://")]
    rules = [{"from": [{"source": {"principals": principals}}]}]
    api.put("authorizationpolicies", policy("not-them", action="DENY", rules=rules))
    await until(lambda: "not-them" in (scene.plane.folder / "ztunnel.log").read_text())
    await synced(scene)
    with pytest.raises(OSError):
        await scene.our_client.request(scene.theirs.ip, PORT)
    assert await scene.their_client.request(scene.theirs.ip, PORT) == f"{scene.their_client.ip} hello".encode()
