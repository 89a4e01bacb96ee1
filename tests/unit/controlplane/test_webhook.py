"""The validating webhook: what it refuses, how it is served, and how the API server comes to trust it."""

import asyncio
import base64
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane.webhook.review import BadReview, review
from meshapi import names
from meshkit import admin
from meshkit.tls import server_context
from meshkit.xds.serving import ServingCertificate
from tests.support.authority import TestAuthority
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.ports import free_port
from tests.support.running_control_plane import Running, serving
from tests.support.waiting import until

NAME, PLURAL = "istio-validator-istio-system", "validatingwebhookconfigurations"
GOOD = {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}
BAD = {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}], "timeout": "soon"}]}


def request(spec: Any, *, before: Any = None, kind: str = "VirtualService", **metadata: Any) -> bytes:
    group = "networking.istio.io"
    item = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": "x", "namespace": "shop", **metadata}}
    asked = {
        "uid": "u-1",
        "kind": {"group": group, "version": "v1", "kind": kind},
        "resource": {"group": group, "version": "v1", "resource": "virtualservices"},
        "operation": "CREATE" if before is None else "UPDATE",
        "object": {**item, "spec": spec},
        "oldObject": None if before is None else {**item, "spec": before},
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}).encode()


def test_an_object_that_can_be_used_is_let_through() -> None:
    answer = review(request(GOOD)).answer()
    assert answer == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "u-1", "allowed": True},
    }


def test_one_that_cannot_is_refused_with_its_name_the_field_and_the_fix() -> None:
    response = review(request(BAD)).answer()["response"]
    assert not response["allowed"]
    assert response["status"]["code"] == 422
    message = response["status"]["message"]
    assert "VirtualService shop/x" in message
    assert "spec.http[0].timeout" in message
    assert "soon" in message


def test_a_field_that_is_not_known_is_a_warning() -> None:
    response = review(request({**GOOD, "hostnames": ["x"]})).answer()["response"]
    assert response["allowed"]
    assert response["warnings"] == ["spec.hostnames is not known and ignored"]


def test_what_of_an_envoy_filter_cannot_be_applied_is_a_warning() -> None:
    patch = {"operation": "MERGE", "value": {"connectTimeouts": "5s"}}
    spec = {"configPatches": [{"applyTo": "CLUSTER", "patch": patch}]}
    response = review(request(spec, kind="EnvoyFilter")).answer()["response"]
    assert response["allowed"]
    [warning] = response["warnings"]
    assert warning.startswith("spec.configPatches[0].patch.value: ")
    assert "has no field connectTimeouts; write connectTimeout" in warning


@pytest.mark.parametrize(
    "asked",
    [
        request(BAD, before=BAD, labels={"team": "a"}),
        request(BAD, before=GOOD, deletionTimestamp="2026-01-01T00:00:00Z"),
        request(BAD, kind="EnvoyFilter"),
    ],
    ids=["its spec stays", "it is being deleted", "its kind is not read"],
)
def test_it_does_not_stand_in_the_way_of(asked: bytes) -> None:
    assert not review(asked).fault


def test_a_change_from_bad_to_worse_is_refused() -> None:
    assert review(request({**BAD, "hosts": []}, before=BAD)).fault


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"request": 1}', b'{"request": {"uid": "u", "kind": []}}'])
def test_what_is_no_request_says_so(body: bytes) -> None:
    with pytest.raises(BadReview, match="AdmissionReview"):
        review(body)


async def test_a_certificate_that_is_renewed_is_presented_at_the_next_handshake() -> None:
    authorities = [TestAuthority(), TestAuthority()]
    pairs = [ServingCertificate(*one.issue_for_hosts("istiod.istio-system.svc")) for one in authorities]
    current = [pairs[0]]
    port = free_port()
    context = server_context(lambda: current[0])

    async def page(authority: TestAuthority) -> str:
        trust = ssl.create_default_context(cadata=authority.roots.decode())
        url = f"https://127.0.0.1:{port}/x"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, ssl=trust, server_hostname="istiod.istio-system.svc") as answer,
        ):
            return await answer.text()

    async with admin.serve([("127.0.0.1", port)], {"GET /x": admin.text_page("served")}, tls=context):
        assert await page(authorities[0]) == "served"
        current[0] = pairs[1]
        assert await page(authorities[1]) == "served"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await page(authorities[0])


def configuration(service: str = "istiod") -> dict[str, Any]:
    called = {"service": {"name": service, "namespace": "istio-system", "path": "/validate"}}
    webhook = {"name": "validation.istio.io", "clientConfig": called, "failurePolicy": "Ignore", "sideEffects": "None"}
    return {"metadata": {"name": NAME}, "webhooks": [webhook]}


async def test_the_leader_adds_its_roots_and_the_webhook_fails_closed_then_and_after_an_upgrade(
    running: Running,
) -> None:
    def webhook() -> Any:
        held = running.api.get(PLURAL, NAME)
        assert held is not None
        return held["webhooks"][0]

    for _ in range(2):  # an upgrade of the chart replaces it
        running.api.put(PLURAL, configuration())
        await until(lambda: webhook()["failurePolicy"] == "Fail")
        assert base64.b64decode(webhook()["clientConfig"]["caBundle"]) == running.root_file.read_bytes()
        assert webhook()["clientConfig"]["service"]["path"] == "/validate"
    trust = ssl.create_default_context(cafile=str(running.root_file))
    url = f"https://{running.settings.webhook_address}/validate"

    async def post(session: aiohttp.ClientSession, body: bytes) -> tuple[int, bytes]:
        async with session.post(url, data=body, ssl=trust, server_hostname="istiod.istio-system.svc") as answer:
            return answer.status, await answer.read()

    async with aiohttp.ClientSession() as session:
        for spec, allowed in ((GOOD, True), (BAD, False)):
            _, body = await post(session, request(spec))
            assert json.loads(body)["response"]["allowed"] is allowed
        assert (await post(session, b"?"))[0] == 400
    count = running.plane.metrics.registry.get_sample_value
    labels = {"group": "networking.istio.io", "version": "v1", "resource": "virtualservices"}
    assert count("galley_validation_passed", labels) == 1
    assert count("galley_validation_failed", {**labels, "reason": "invalid_resource"}) == 1


async def test_a_configuration_that_leads_elsewhere_is_left_alone(running: Running) -> None:
    elsewhere = configuration("another")
    running.api.put(PLURAL, elsewhere)
    await asyncio.sleep(0.3)
    held = running.api.get(PLURAL, NAME)
    assert held is not None
    assert held["webhooks"] == elsewhere["webhooks"]


def holder(api: FakeKubernetes) -> str:
    lease = api.get("leases", names.CONTROL_PLANE_LEASE, "istio-system")
    return str(lease["spec"]["holderIdentity"]) if lease is not None else ""


async def test_a_control_plane_that_ends_answers_until_others_have_stopped_asking_it(tmp_path: Path) -> None:
    async with FakeKubernetes() as api:
        api.put("namespaces", {"metadata": {"name": "shop"}, "status": {"phase": "Active"}})
        async with serving(api, tmp_path, drain_s=5.0) as running:  # a busy machine takes more than one
            url = f"https://{running.settings.webhook_address}/validate"
            trust = ssl.create_default_context(cafile=str(running.root_file))
            await until(lambda: holder(api))
            running.stop.set()
            await until(lambda: not holder(api))  # what is left of it no longer writes
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, data=request(GOOD), ssl=trust, server_hostname="istiod.istio-system.svc") as answer,
            ):
                assert answer.status == 200
