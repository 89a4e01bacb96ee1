"""TLS mode AUTO_PASSTHROUGH: which services clients may name, and how."""

import pytest

from controlplane.envoy import names
from controlplane.gateways.listener import EdgeListener, Spoken
from controlplane.routing import sealed
from controlplane.routing.connection_routes import REFUSAL
from controlplane.routing.destinations import Rules
from controlplane.routing.ir import Target
from controlplane.routing.services import Discovery, Port, Service
from meshapi.resources.destination_rule import Subset

LISTENER = EdgeListener("Gateway", ("shop", "edge"), "servers[0]", 15443, Spoken.AUTO_PASSTHROUGH, hostname="*.local")


def service(host: str = "web.shop.svc.cluster.local", **more: object) -> Service:
    ports = (Port(80), Port(9443))
    return Service("Service", ("shop", "web"), host, ports=ports, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "is_admitted"),
    [
        (service(), True),
        (service("web.example"), False),
        (service(is_external=True), False),
        (service(is_private=True), False),
        (service(discovery=Discovery.DNS), True),
        (service(discovery=Discovery.CALLED), False),
        (service(discovery=Discovery.NAMED), False),
    ],
)
def test_services_that_may_be_named(one: Service, is_admitted: bool) -> None:
    assert list(sealed.admitted(LISTENER, [one], "istio-system")) == [one] * is_admitted


def test_each_port_has_a_name_and_each_of_its_subsets() -> None:
    rules = Rules(subsets=(Subset(name="V1", labels={}),))
    found = sealed.connections(LISTENER, [service()], lambda _: rules, names.sealed)
    host = "web.shop.svc.cluster.local"
    assert found.pop("*.local") is REFUSAL
    assert {name: rule.shares[0].target for name, rule in found.items()} == {
        f"outbound_.{port}_.{subset.lower()}_.{host}": Target(host, port, subset, is_sealed=True)
        for port in (80, 9443)
        for subset in ("", "V1")
    }


@pytest.mark.parametrize("subset", ["", "v1"])
def test_patches_know_what_a_cluster_is_of(subset: str) -> None:
    name = names.sealed("web.shop.svc.cluster.local", 9443, subset)
    assert names.is_outbound(name)
    assert (names.port_of(name), names.subset_of(name), names.host_of(name)) == (
        9443,
        subset,
        "web.shop.svc.cluster.local",
    )
