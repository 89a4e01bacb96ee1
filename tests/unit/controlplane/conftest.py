"""The control plane over TLS, with the Kubernetes API imitated on HTTP only."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from meshapi import names
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.kubernetes_objects import pod, service
from tests.support.running_control_plane import Running, serving


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
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
            "admin-token": token_user("istio-system", "default"),
            "web-token": token_user("shop", "default", "web", "uid-web"),
        }
        async with serving(api, tmp_path) as made:
            yield made
