"""Which services of other namespaces a route may lead to."""

import pytest

from controlplane.inputs.mesh import MeshContext
from controlplane.routing import connection_routes, gateway_routes, services
from controlplane.routing.route_references import References
from meshapi.resources import base
from meshapi.resources.core import Service
from meshapi.resources.gateway_routes import HTTPRoute, TCPRoute
from tests.support import kubernetes_objects as objects

SECRET = {"name": "secret", "namespace": "shop"}


def resolved(*parents: dict[str, str]) -> str:
    """Return the reason of ``ResolvedRefs`` of a route with these parents that leads to ``shop/secret``."""
    route = base.read(
        HTTPRoute,
        {
            "metadata": {"name": "r", "namespace": "web"},
            "spec": {"parentRefs": list(parents), "rules": [{"backendRefs": [{**SECRET, "port": 80}]}]},
        },
    )
    held = objects.service("secret", namespace="shop", ports=[{"name": "http", "port": 80}])
    service = services.of_kubernetes(base.read(Service, held), MeshContext())
    references = References(service=lambda *_: service, host=lambda _: None, is_granted=lambda *_: False)
    return gateway_routes.translate("HTTPRoute", route, references).resolved.reason


def test_the_only_parent_needs_no_grant() -> None:
    assert resolved({"group": "", "kind": "Service", **SECRET}) == "ResolvedRefs"


@pytest.mark.parametrize(
    "parents",
    [
        pytest.param((), id="no-parents"),
        pytest.param(({"group": "gateway.networking.k8s.io", "kind": "Gateway", **SECRET},), id="gateway-of-same-name"),
        pytest.param(({"group": "networking.istio.io", "kind": "ServiceEntry", **SECRET},), id="entry-of-same-name"),
        pytest.param(
            (
                {"group": "", "kind": "Service", **SECRET},
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", **SECRET},
            ),
            id="service-and-gateway",
        ),
    ],
)
def test_no_other_parent_replaces_a_grant(parents: tuple[dict[str, str], ...]) -> None:
    assert resolved(*parents) == "RefNotPermitted"


def test_a_tcp_route_says_that_further_rules_have_no_effect() -> None:
    parents = [{"group": "", "kind": "Service", "name": "db"}]
    rules = [{"backendRefs": [{"name": "db", "port": 80}]}] * 2
    read = base.read(
        TCPRoute, {"metadata": {"name": "r", "namespace": "shop"}, "spec": {"parentRefs": parents, "rules": rules}}
    )
    held = objects.service("db", ports=[{"name": "tcp", "port": 80}])
    service = services.of_kubernetes(base.read(Service, held), MeshContext())
    references = References(service=lambda *_: service, host=lambda _: None, is_granted=lambda *_: False)
    [found] = connection_routes.translate("TCPRoute", read, references).attachments
    assert (found.accepted.is_true, found.accepted.message) == (
        True,
        "only spec.rules[0] has an effect; merge the rules",
    )
