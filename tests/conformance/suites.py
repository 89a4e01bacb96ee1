"""What is run of the suite: profiles, features, images, and what has to be in the lab before."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from meshapi import names
from meshlab import addons, images, lab, product, programs
from meshlab.images import Archive, Image
from meshlab.lab import MakeImage
from meshlab.programs import Say
from meshlab.progress import Progress
from tests.support.lab import Lab
from tests.support.mesh import Mesh

HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Suite:
    """A part of the suite with a report of its own."""

    name: str
    profiles: tuple[str, ...]
    features: tuple[str, ...]
    options: tuple[str, ...]
    install: tuple[str, ...]
    """Options of the installation."""
    images: Callable[[], list[MakeImage]]
    prepare: Callable[[Lab], None]


def _wanted(folders: tuple[str, ...], name: str) -> list[str]:
    """The images that manifests of the suite ask for, by the last part of their names."""
    sources = programs.gateway_conformance_sources()
    texts = (file.read_text() for folder in folders for file in (sources / folder).rglob("*.yaml"))
    return sorted({found for text in texts for found in re.findall(r"image: (\S+)", text) if f"/{name}:" in found})


def _mesh_echo(say: Say) -> Archive:
    """The application of the mesh tests."""
    (name,) = _wanted(("mesh",), "echo-advanced")
    return images.build(Image(name, HERE / "Dockerfile", HERE, base=product.runtime(say)), say)


def _basic_echo(name: str, say: Say) -> Archive:
    """The application of the gateways' tests, the suite's own program."""
    return images.build(Image(name, HERE / "Dockerfile.echo-basic", programs.gateway_echo(say)), say)


def _coredns(name: str, say: Say) -> Archive:
    """The backend of the tests of UDP, which is there for all of them."""
    dockerfile = Path(images.__file__).parent.parent / "deploy" / "images" / "coredns" / "Dockerfile"
    return images.build(Image(name, dockerfile, programs.coredns(say)), say)


def _gateway_images() -> list[MakeImage]:
    folders = ("base", "tests")
    return [
        *(partial(_basic_echo, name) for name in _wanted(folders, "echo-basic")),
        *(partial(_coredns, name) for name in _wanted(folders, "coredns")),
    ]


def _prepare_mesh(cluster: Lab) -> None:
    """Make the suite's namespaces, enrolled and with a waypoint each."""
    mesh = Mesh(cluster)
    for name in ("gateway-conformance-mesh", "gateway-conformance-mesh-consumer"):
        mesh.namespace(name, enrolled=True)
        mesh.waypoint(name)


def _prepare_gateways(cluster: Lab) -> None:
    """Have Services of type LoadBalancer get addresses that this computer reaches."""
    lab.add(cluster.name, "metallb", addons.named("metallb"), progress=Progress())


_IN_MESH: Final = {names.DATAPLANE_MODE_LABEL: names.DATAPLANE_MODE_AMBIENT, names.USE_WAYPOINT_LABEL: "waypoint"}
MESH: Final = Suite(
    "mesh",
    ("MESH-HTTP", "MESH-GRPC"),
    (
        "Mesh",
        "MeshClusterIPMatching",
        "MeshConsumerRoute",
        "MeshHTTPRouteBackendRequestHeaderModification",
        "MeshHTTPRouteNamedRouteRule",
        "MeshHTTPRouteQueryParamMatching",
        "MeshHTTPRouteRedirectPath",
        "MeshHTTPRouteRedirectPort",
        "MeshHTTPRouteRewritePath",
        "MeshHTTPRouteSchemeRedirect",
        # What their tests need besides.
        "HTTPRoute",
        "HTTPRoute303RedirectStatusCode",
        "HTTPRoute307RedirectStatusCode",
        "HTTPRoute308RedirectStatusCode",
        "HTTPRouteParentRefPort",
        "HTTPRouteResponseHeaderModification",
        "GRPCRoute",
    ),
    (f"--namespace-labels={','.join(f'{key}={value}' for key, value in _IN_MESH.items())}",),
    (),
    lambda: [_mesh_echo],
    _prepare_mesh,
)
GATEWAY: Final = Suite(
    "gateway",
    ("GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS", "GATEWAY-TCP", "GATEWAY-UDP"),
    (
        "Gateway",
        "GatewayAddressEmpty",
        "GatewayFrontendClientCertificateValidation",
        "GatewayFrontendClientCertificateValidationInsecureFallback",
        "GatewayHTTPListenerIsolation",
        "GatewayHTTPSListenerDetectMisdirectedRequests",
        "GatewayInfrastructure",
        "GatewayPort8080",
        "GatewayBackendClientCertificate",
        "ListenerSet",
        "ReferenceGrant",
        "BackendTLSPolicy",
        "BackendTLSPolicySANValidation",
        "HTTPRoute",
        "HTTPRoute303RedirectStatusCode",
        "HTTPRoute307RedirectStatusCode",
        "HTTPRoute308RedirectStatusCode",
        "HTTPRouteBackendProtocolH2C",
        "HTTPRouteBackendProtocolWebSocket",
        "HTTPRouteBackendRequestHeaderModification",
        "HTTPRouteBackendTimeout",
        "HTTPRouteCORS",
        "HTTPRouteDestinationPortMatching",
        "HTTPRouteHostRewrite",
        "HTTPRouteMethodMatching",
        "HTTPRouteNamedRouteRule",
        "HTTPRouteParentRefPort",
        "HTTPRoutePathRedirect",
        "HTTPRoutePathRewrite",
        "HTTPRoutePortRedirect",
        "HTTPRouteQueryParamMatching",
        "HTTPRouteRequestMirror",
        "HTTPRouteRequestMultipleMirrors",
        "HTTPRouteRequestPercentageMirror",
        "HTTPRouteRequestTimeout",
        "HTTPRouteResponseHeaderModification",
        "HTTPRouteRetry",
        "HTTPRouteRetryBackendTimeout",
        "HTTPRouteRetryConnectionError",
        "HTTPRouteSchemeRedirect",
        "GRPCRoute",
        "GRPCRouteNamedRouteRule",
        "TLSRoute",
        "TLSRouteModeMixed",
        "TLSRouteModeTerminate",
        "TCPRoute",
        "UDPRoute",
    ),
    (f"--gateway-class={names.GATEWAY_CLASS}",),
    ("--set", "gatewayAPI.channel=experimental"),  # fields such as retry, which features are about
    _gateway_images,
    _prepare_gateways,
)
SUITES: Final = {one.name: one for one in (MESH, GATEWAY)}
