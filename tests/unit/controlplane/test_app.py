"""The whole control plane in one process: real gRPC over TLS, the Kubernetes API imitated on HTTP only."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.ca import authority
from meshapi import names
from meshapi.proto import authorization_pb2, workload_pb2
from meshapi.resources import security
from meshkit.xds import client
from meshkit.xds.credentials import token_metadata
from tests.support.certificates import Issuer
from tests.support.kubernetes_objects import peer, pod, policy
from tests.support.running_control_plane import Recorder, Running, make_csr
from tests.support.waiting import until

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


def _rejects(running: Running) -> float | None:
    return running.plane.metrics.registry.get_sample_value("pilot_total_xds_rejects", {"type": "wds"})


async def test_refusal_is_counted_and_shown_and_not_sent_again_until_it_changes(running: Running) -> None:
    seen = Recorder()
    seen.refuse[WEB] = "addresses[0]: 3 bytes"
    async with running.subscriber(seen):
        await until(lambda: any(type_url == names.ADDRESS_TYPE for type_url, *_ in seen.updates))

        async def refused() -> dict[str, object]:
            pages = json.loads(await running.page("/debug/syncz"))
            return dict(pages[0]["types"][names.ADDRESS_TYPE])

        await until(lambda: _rejects(running) == 1)
        state = await refused()
        assert state["rejects"] == 1
        assert "3 bytes" in str(state["error"])
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


async def test_server_of_another_authority_is_refused_and_the_reason_is_logged(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    other, _ = authority.self_signed(trust_domain="other", now=datetime.now(UTC), life=timedelta(days=1))
    file = running.folder / "other.pem"
    file.write_bytes(other)
    seen = Recorder()
    stranger = client.DeltaClient(
        connect=client.tls_channel(f"127.0.0.1:{running.plane.port}", file, "istiod.istio-system.svc"),
        metadata=lambda: token_metadata(running.token_file, "Kubernetes"),
        node=client.NodeInfo("ztunnel~x"),
        subscriptions={names.ADDRESS_TYPE: client.EVERYTHING},
        receiver=seen,
    )
    task = asyncio.create_task(stranger.run())
    logged = ""
    try:
        async with asyncio.timeout(5):
            while "CERTIFICATE_VERIFY_FAILED" not in logged:
                logged += "".join(capsys.readouterr())
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not seen.updates


async def test_an_on_demand_client_gets_what_it_subscribes_to(running: Running) -> None:
    async with running.connect()() as channel:
        call = channel.stream_stream(
            client.Service.AGGREGATED.value,
            request_serializer=client.Request.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )(metadata=token_metadata(running.token_file, "Kubernetes"))
        url = names.ADDRESS_TYPE
        await call.write(client.Request(type_url=url, resource_names_subscribe=["*"], resource_names_unsubscribe=["*"]))
        assert not (await call.read()).resources
        await call.write(client.Request(type_url=url, resource_names_subscribe=["/10.96.0.10", "/192.0.2.1"]))
        answer = await call.read()
        assert sorted(item.name for item in answer.resources) == [WEB, "shop/web.shop.svc.cluster.local"]
        assert answer.removed_resources == ["/192.0.2.1"]
        assert {alias for item in answer.resources for alias in item.aliases} == {"/10.0.0.1", "/10.96.0.10"}
        await call.done_writing()


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
    request = asyncio.create_task(
        running.certificate("ztunnel-token", impersonate="spiffe://cluster.local/ns/shop/sa/late")
    )
    await asyncio.sleep(0.05)
    running.api.put("pods", pod("late", account="late", ip="", phase="Pending"))
    assert len(await request) == 2


async def test_a_requested_lifetime_over_the_maximum_is_reduced_to_it(running: Running) -> None:
    chain = await running.certificate("web-token", life_s=2**62)
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert 89 < (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days <= 90


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
    await until(lambda: running.plane.model.inputs.of(security.AuthorizationPolicy).find(("shop", "p")))
    bad = {"from": [{"source": {"ipBlocks": ["10.0.0.0/8", "ten"]}}]}
    running.api.put("authorizationpolicies", policy("p", action="DENY", rules=[bad]))
    running.api.put(
        "authorizationpolicies", policy("q", rules=[{"from": [{"source": {"principals": ["*"], "pricipals": ["*"]}}]}])
    )
    await until(lambda: running.plane.model.inputs.of(security.AuthorizationPolicy).find(("shop", "q")))
    held = running.plane.model.inputs.of(security.AuthorizationPolicy).find(("shop", "p"))
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


def _put_mesh_config(running: Running, text: str) -> None:
    item = {"metadata": {"name": "istio", "uid": "u-1"}, "data": {"mesh": text}}
    running.api.put("configmaps", item, "istio-system")


async def test_a_bad_value_of_the_mesh_config_leaves_the_others_in_force(running: Running) -> None:
    _put_mesh_config(running, "trustDomain: example.org\nrootNamespace: one\n")
    await until(lambda: running.plane.model.mesh.root_namespace == "one")
    _put_mesh_config(running, "trustDomain: '!'\nrootNamespace: two\n")
    await until(lambda: running.plane.model.mesh.root_namespace == "two")
    assert running.plane.model.mesh.trust_domain == "example.org"
    rejected = running.plane.metrics.registry.get_sample_value
    assert rejected("pilot_total_rejected_configs", {"type": "ConfigMap"}) == 1


async def test_fields_without_effect_are_logged_and_reported_in_one_event(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    def events() -> list[dict[str, str]]:
        return list(running.api.objects.get("events", {}).values())  # type: ignore[arg-type]

    _put_mesh_config(running, "dnsRefreshRate: 5s\n")
    await until(lambda: len(events()) == 1)
    _put_mesh_config(running, "dnsRefreshRate: 5s\ntrustDomian: y\n")
    await until(lambda: len(events()) == 2)
    notes = sorted(event["note"] for event in events())
    assert notes[0].startswith("data.mesh.dnsRefreshRate: has no effect: ")
    assert notes[1].endswith("did you mean trustDomain?")
    assert all(event["regarding"]["uid"] == "u-1" and event["type"] == "Warning" for event in events())  # type: ignore[index]
    assert "".join(capsys.readouterr()).count("data.mesh.dnsRefreshRate") == 1
    _put_mesh_config(running, "")
    await until(lambda: running.plane._registry.report.messages == ())
    _put_mesh_config(running, "dnsRefreshRate: 5s\n")
    await until(lambda: any("series" in event for event in events()))
    assert len(events()) == 2


async def test_additional_roots_reach_the_bundle_and_the_chains_of_certificates(running: Running) -> None:
    extra = Issuer.root().pem.decode()

    def roots() -> str:
        held = running.api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "shop") or {}
        return str(held["data"][names.ROOT_CERT_KEY])

    own = roots()
    entry = {"pem": extra}
    _put_mesh_config(running, json.dumps({"caCertificates": [entry, entry, {"pem": own}]}))
    await until(lambda: roots() == own + extra)
    chain = await running.certificate("web-token")
    assert chain[-1] == own + extra
    _put_mesh_config(running, json.dumps({"caCertificates": [{"pem": "bad"}]}))
    await until(lambda: running.plane._registry.report.messages)
    assert roots() == own + extra
    _put_mesh_config(running, json.dumps({"caCertificates": [{"pem": extra, "trustDomains": ["other"]}]}))
    await until(lambda: roots() == own)


async def test_a_namespace_that_is_not_discovered_gets_no_roots_and_its_policies_no_status(running: Running) -> None:
    def status(name: str) -> dict[str, object]:
        return dict((running.api.get("authorizationpolicies", name, "dev") or {}).get("status") or {})

    _put_mesh_config(running, "discoverySelectors: [{matchLabels: {mesh: 'on'}}]\n")
    await until(lambda: WEB not in running.plane.model.all(names.ADDRESS_TYPE))
    running.api.put("authorizationpolicies", policy("p", "dev"))
    running.api.put("namespaces", {"metadata": {"name": "dev"}})
    running.api.put("namespaces", {"metadata": {"name": "seen", "labels": {"mesh": "on"}}})
    await until(lambda: running.api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "seen"))
    assert running.api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "dev") is None
    assert not status("p").get("conditions")
    running.api.put("namespaces", {"metadata": {"name": "dev", "labels": {"mesh": "on"}}})
    await until(lambda: running.api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "dev"))
    await until(lambda: status("p").get("conditions"))
    json.loads(await running.page("/debug/model"))


async def test_debug_model_shows_resources(running: Running) -> None:
    document = json.loads(await running.page("/debug/model"))
    assert WEB in document["addresses"]


async def test_a_policy_is_withdrawn_after_the_workloads_that_named_it(running: Running) -> None:
    """Otherwise they would refuse every client for a moment: a workload with an unknown policy denies all traffic."""
    seen = Recorder()
    running.api.put("peerauthentications", peer("strict", mode="STRICT"))
    async with running.subscriber(seen) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
        await until(lambda: "istio-system/istio_converted_static_strict" in seen.held)
        before = len(seen.updates)
        running.api.remove("peerauthentications", "strict", "shop")
        await until(lambda: "istio-system/istio_converted_static_strict" not in seen.held)
        pushed = [(type_url, bool(upserts), bool(removes)) for type_url, upserts, removes, _ in seen.updates[before:]]
        assert pushed == [(names.ADDRESS_TYPE, True, False), (names.AUTHORIZATION_TYPE, False, True)]


async def test_an_unreadable_policy_without_a_last_good_form_is_reported_as_denying_all(running: Running) -> None:
    def condition(name: str) -> dict[str, str]:
        item = running.api.get("authorizationpolicies", name, "shop") or {}
        found = (item.get("status") or {}).get("conditions") or [{}]
        return dict(found[0])

    bad = [{"to": [{"operation": {"ports": ["http"]}}]}]
    running.api.put("authorizationpolicies", policy("bad", rules=bad))
    await until(lambda: condition("bad"))
    assert (condition("bad")["status"], condition("bad")["reason"]) == ("False", "Invalid")
    assert "spec.rules[0].to[0].operation.ports[0]" in condition("bad")["message"]
    assert "deny all traffic" in condition("bad")["message"]
    held = running.api.get("authorizationpolicies", "bad", "shop") or {}
    fixed = {**held, "metadata": {**held["metadata"], "generation": 2}, "spec": {}}
    running.api.put("authorizationpolicies", fixed)
    await until(lambda: condition("bad")["reason"] == "Accepted")


METRICS = """
pilot_xds pilot_xds_pushes pilot_xds_push_time pilot_proxy_convergence_time pilot_proxy_queue_time pilot_xds_send_time
pilot_pushcontext_init_seconds pilot_debounce_time pilot_xds_config_size_bytes pilot_push_triggers pilot_services
pilot_inbound_updates pilot_total_xds_rejects pilot_total_xds_internal_errors pilot_total_rejected_configs
citadel_server_csr_count citadel_server_success_cert_issuance_count citadel_server_authentication_failure_count
citadel_server_csr_parsing_err_count citadel_server_csr_sign_err_count citadel_server_root_cert_expiry_timestamp
citadel_server_root_cert_expiry_seconds citadel_server_cert_chain_expiry_timestamp
citadel_server_cert_chain_expiry_seconds istio_build pilot_info istiod_uptime_seconds culvert_leader
process_resident_memory_bytes process_cpu_seconds
"""


async def test_metrics_have_the_names_that_dashboards_query(running: Running) -> None:
    seen = Recorder()
    async with running.subscriber(seen) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
        running.api.put("pods", pod("new", ip="10.0.0.77"))
        await until(lambda: "Kubernetes//Pod/shop/new" in seen.held)
    families = {family.name: family for family in running.plane.metrics.registry.collect()}
    assert [name for name in METRICS.split() if name not in families] == []
    counted = ("pilot_proxy_convergence_time", "pilot_proxy_queue_time", "pilot_xds_send_time", "pilot_debounce_time")
    for name in counted:
        assert running.plane.metrics.registry.get_sample_value(f"{name}_count"), name
