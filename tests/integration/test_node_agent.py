"""The node agent as a whole, between a fake Kubernetes, a real tunnel and real namespaces: a pod from start to end."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshapi import names
from meshkit import kube
from nodeagent import app
from nodeagent.app import NodeAgent
from nodeagent.capture.choice import Wanted, choose
from nodeagent.discovery import namespaces
from nodeagent.settings import NodeAgentSettings
from tests.integration.test_zds import Tunnel
from tests.support import kubernetes_objects as objects
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.ports import free_port
from tests.support.waiting import scaled, until
from tests.support.wired import Wired, shell

pytestmark = pytest.mark.root

WEB, DB = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


class Agent:
    """One node agent in this process, for the pod in the first of two namespaces; the second is the host's."""

    def __init__(self, folder: Path, pods: Wired, kubernetes: FakeKubernetes) -> None:
        self.pods = pods
        self.kubernetes = kubernetes
        self.port = free_port()
        self.sockets = {name: folder / f"{name}.sock" for name in ("zds", "sds", "cni")}
        self._settings = NodeAgentSettings.model_validate(
            {"node_name": "node-1", "metrics_port": self.port, "health_port": free_port(), "host_netns": pods.second,
             "ca_address": "127.0.0.1:1", "ca_root": folder / "no-root.pem", "token_path": folder / "no-token",
             "crl_path": folder / "no-crl.pem"}
            | {f"{name}_socket": path for name, path in self.sockets.items()}
        )  # fmt: skip
        self._choice = choose(Wanted.NFTABLES, folder / "lock")
        self.stop = asyncio.Event()
        self.agent: NodeAgent | None = None

    async def run(self) -> None:
        async with kube.Client(kube.config.explicit(self.kubernetes.url)) as client:
            self.agent = NodeAgent(self._settings, client, self._choice)
            await self.agent.run(self.stop)

    def waits_for(self, *parts: str) -> bool:
        return self.agent is not None and self.agent.pending() == list(parts)

    async def page(self, path: str) -> str:
        async with aiohttp.ClientSession() as web, web.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return await answer.text()

    async def pod(self, name: str) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as web,
            web.get(f"http://127.0.0.1:{self.port}/debug/pods") as answer,
        ):
            return next(one for one in await answer.json() if one["name"] == name)

    async def reaches(self, name: str, state: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        async with asyncio.timeout(scaled(20)):
            while found.get("state") != state:
                found = await self.pod(name)
                await asyncio.sleep(0.02)
        return found

    async def request_capture(self) -> tuple[int, str]:
        """What the CNI plugin does."""
        request = {"Netns": str(self.pods.first), "PodName": "web", "PodNamespace": "shop", "PodUID": WEB,
                   "IPs": [{"Address": "10.78.0.1/24"}]}  # fmt: skip
        connector = aiohttp.UnixConnector(str(self.sockets["cni"]))
        async with (
            aiohttp.ClientSession(connector=connector) as web,
            web.post("http://agent/cmdadd", json=request) as answer,
        ):
            return answer.status, await answer.text()

    def has_rules(self) -> bool:
        return "table inet culvert" in shell(self.pods.first, "nft list tables")


@pytest.fixture
async def agent(tmp_path: Path, pods: Wired, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    # Process 1 has the host's mount namespace in a container only; here it is this process's own.
    monkeypatch.setattr(namespaces, "open_path", lambda path: os.open(path, os.O_RDONLY))
    async with FakeKubernetes() as kubernetes:
        kubernetes.put("namespaces", {"metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}})
        kubernetes.put("pods", objects.pod("web", uid=WEB, ip="") | {"status": {}})
        kubernetes.put("pods", objects.pod("db", uid=DB, host_network=True))
        kubernetes.put("daemonsets", {"metadata": {"name": names.NODE_AGENT_DAEMON_SET}}, names.DEFAULT_NAMESPACE)
        made = Agent(tmp_path, pods, kubernetes)
        task = asyncio.create_task(made.run())
        await until(lambda: task.done() or (made.waits_for("ztunnel") and made.sockets["cni"].exists()), within_s=20)
        yield made
        made.stop.set()
        async with asyncio.timeout(scaled(20)):
            await task


@contextlib.asynccontextmanager
async def tunnel(agent: Agent) -> AsyncIterator[Tunnel]:
    made = Tunnel(agent.sockets["zds"])
    try:
        await until(agent.waits_for, within_s=20)
        yield made
    finally:
        await made.close()


async def test_a_pod_is_captured_at_the_request_of_the_cni_plugin_and_stays_so_when_the_agent_ends(
    agent: Agent,
) -> None:
    assert (await agent.pod("web"))["state"] == "new"
    assert await agent.request_capture() == (503, "no ztunnel is connected\n")
    found = await agent.pod("web")
    assert (found["state"], found["reason"]) == ("waiting", "no ztunnel is connected")
    async with tunnel(agent):
        host_network = await agent.reaches("db", "not-enrolled")
        assert (host_network["backend"], host_network["reason"]) == (None, "the pod is on the host's network")
        assert await agent.request_capture() == (200, "captured\n")
        assert agent.has_rules()
        found = await agent.reaches("web", "announced")
        assert (found["backend"], found["reason"]) == ("nftables", "")
        item = agent.kubernetes.get("pods", "web", "shop")
        assert item is not None
        assert item["metadata"]["annotations"] == {names.REDIRECTION_ANNOTATION: names.REDIRECTION_ENABLED}
        metrics = await agent.page("/metrics")
        assert "culvert_captured_pods 1.0" in metrics
        assert 'culvert_guard_drops_total{reason="unmarked"} 0.0' in metrics
        assert 'istio_cni_plugin_requests_total{status="ok"} 1.0' in metrics
        assert 'istio_build{component="cni",tag="' in metrics
        agent.stop.set()
        await until(lambda: not agent.sockets["cni"].exists(), within_s=20)
        assert agent.has_rules()


async def test_a_label_that_is_removed_drains_the_pod(agent: Agent) -> None:
    async with tunnel(agent):
        assert (await agent.request_capture())[0] == 200
        await agent.reaches("web", "announced")
        agent.kubernetes.put("namespaces", {"metadata": {"name": "shop", "labels": {}}})
        found = await agent.reaches("web", "draining")
        assert found["reason"] == "neither the pod nor its namespace has the label"
        item = agent.kubernetes.get("pods", "web", "shop")
        assert item is not None
        assert item["metadata"].get("annotations", {}) == {}
        assert agent.has_rules(), "open connections need them"


async def test_an_agent_whose_daemonset_is_deleted_removes_its_rules(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_UNENROL_TIMEOUT_S", 1.0)
    async with tunnel(agent):
        assert (await agent.request_capture())[0] == 200
        await agent.reaches("web", "announced")
        assert "culvert" in shell(agent.pods.second, "nft list tables"), "probes are exempt on the host"
        agent.kubernetes.remove("daemonsets", names.NODE_AGENT_DAEMON_SET, names.DEFAULT_NAMESPACE)
        agent.stop.set()
        await until(lambda: not agent.sockets["cni"].exists(), within_s=20)
        assert not agent.has_rules()
        assert "culvert" not in shell(agent.pods.second, "nft list tables")
