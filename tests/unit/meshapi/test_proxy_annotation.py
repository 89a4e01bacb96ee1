"""The annotation ``proxy.istio.io/config`` of gateways' pods."""

import pytest

from meshapi.mesh_config import proxy_annotation
from meshapi.mesh_config.model import ForwardClientCertDetails, GatewayTopology, ProxyProtocol


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("{}", None),
        ("gatewayTopology: {}", GatewayTopology()),
        ("gatewayTopology: {numTrustedProxies: 2}", GatewayTopology(num_trusted_proxies=2)),
        ("gateway_topology: {num_trusted_proxies: 2}", GatewayTopology(num_trusted_proxies=2)),
        ("gatewayTopology: {proxyProtocol: {}}", GatewayTopology(proxy_protocol=ProxyProtocol())),
        (
            '{"gatewayTopology": {"forwardClientCertDetails": 3}, "holdApplicationUntilProxyStarts": true}',
            GatewayTopology(forward_client_cert_details=ForwardClientCertDetails.APPEND_FORWARD),
        ),
    ],
)
def test_what_an_annotation_says(text: str, expected: GatewayTopology | None) -> None:
    assert proxy_annotation.read(text) == proxy_annotation.PodConfig(expected)


@pytest.mark.parametrize(
    ("text", "field", "part"),
    [
        ("gatewayTopology: [", "", "is not YAML"),
        ("- a", "", "is not a mapping; write fields such as gatewayTopology"),
        (
            "gatewayTopology: {numTrustedProxies: many}",
            "gatewayTopology.numTrustedProxies",
            "mesh configuration's counts",
        ),
        ("gatewayTopology: 2", "gatewayTopology", "valid dictionary"),
        ("gatewayTopolgy: {}", "gatewayTopolgy", "did you mean gatewayTopology?"),
        ("gatewayTopology: {proxyProtokol: {}}", "gatewayTopology.proxyProtokol", "did you mean proxyProtocol?"),
        ("concurrency: 2", "concurrency", "has no effect"),
        ("tracing: {sampling: 1}", "tracing", "has no effect: set it in defaultConfig"),
    ],
)
def test_what_cannot_be_read_or_has_no_effect_is_said(text: str, field: str, part: str) -> None:
    [problem] = proxy_annotation.read(text).problems
    assert problem.startswith("annotation proxy.istio.io/config of the gateway's pods")
    assert field in problem and part in problem and not problem.endswith(".")


def test_a_bad_topology_leaves_the_mesh_configurations_in_force() -> None:
    assert proxy_annotation.read("gatewayTopology: {proxyProtocol: 1}").topology is None
