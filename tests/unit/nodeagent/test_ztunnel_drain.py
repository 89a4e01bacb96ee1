"""Which pods are released from the ztunnel DaemonSet, and that a failed write is retried."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from meshkit.kube import errors, kinds
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.ztunnel_drain import DrainingZtunnels
from tests.support.waiting import until

POD = PodInfo(
    uid="u", namespace="istio-system", name="ztunnel-a", service_account="ztunnel", labels={"app": "ztunnel"},
    annotations={}, addresses=("10.0.0.1",), host_network=False, terminal=False, terminating=True,
)  # fmt: skip


class Api:
    """Records patches; the first ``failures`` of them fail."""

    def __init__(self, *failures: errors.KubeError) -> None:
        self.patched: list[tuple[str, str, Mapping[str, Any]]] = []
        self._failures = list(failures)

    async def patch(self, kind: kinds.Kind, name: str, body: Any, namespace: str, **options: Any) -> None:
        assert (kind, options["subresource"]) == (kinds.POD, "status"), "no other right is needed"
        if self._failures:
            raise self._failures.pop(0)
        self.patched.append((namespace, name, body["metadata"]["labels"]))


async def released(api: Api, *pods: PodInfo) -> DrainingZtunnels:
    drains = DrainingZtunnels(api, {pod.uid: pod for pod in pods}, "istio-system")  # type: ignore[arg-type]
    task = asyncio.create_task(drains.run())
    for pod in pods:
        drains.notice(pod.uid)
    try:
        await until(lambda: len(api.patched) > 0, within_s=5)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return drains


async def test_a_terminating_ztunnel_is_released() -> None:
    api = Api()
    assert (await released(api, POD)).released == 1
    assert api.patched == [("istio-system", "ztunnel-a", {"app": "ztunnel-draining"})]


@pytest.mark.parametrize(
    "other",
    [
        replace(POD, terminating=False),
        replace(POD, namespace="shop"),
        replace(POD, service_account="web"),
        replace(POD, labels={"app": "ztunnel-draining"}),
        replace(POD, labels={}),
    ],
    ids=["running", "another namespace", "another service account", "released already", "no label"],
)
async def test_no_other_pod_is_relabelled(other: PodInfo) -> None:
    api = Api()
    await released(api, replace(other, uid="other", name="other"), POD)
    assert [name for _, name, _ in api.patched] == ["ztunnel-a"]


async def test_a_failed_write_is_retried() -> None:
    api = Api(errors.KubeError("the API server is away"))
    assert (await released(api, POD)).released == 1
    assert len(api.patched) == 1


async def test_a_pod_that_has_ended_meanwhile_does_not_hold_up_the_next() -> None:
    api = Api(errors.NotFound(404, "NotFound", 'pods "gone" not found', "PATCH /api/v1/namespaces/a/pods/gone"))
    await released(api, replace(POD, uid="gone", name="gone"), POD)
    assert [name for _, name, _ in api.patched] == ["ztunnel-a"]
