"""The control plane over TLS, with the Kubernetes API imitated on HTTP only."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from controlplane.app import ControlPlane
from controlplane.settings import Settings
from meshapi import names
from meshkit import kube
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.kubernetes_objects import pod, service
from tests.support.running_control_plane import Running
from tests.support.waiting import until


@pytest_asyncio.fixture
async def running(tmp_path: Path, unused_tcp_port_factory: object) -> AsyncIterator[Running]:
    port = unused_tcp_port_factory  # type: ignore[assignment]
    settings = Settings(
        xds_address="127.0.0.1:0",
        metrics_address=f"127.0.0.1:{port()}",  # type: ignore[operator]
        health_address=f"127.0.0.1:{port()}",  # type: ignore[operator]
        admin_address=f"127.0.0.1:{port()}",  # type: ignore[operator]
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
            yield Running(api, plane, tmp_path, settings)
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)
            lease = api.get("leases", names.CONTROL_PLANE_LEASE, "istio-system")
            assert lease is None or lease["spec"]["holderIdentity"] == "", "a clean exit gives the lease back"
