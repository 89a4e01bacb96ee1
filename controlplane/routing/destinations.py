"""DestinationRules for a host: which ones count, and what they say for a port and a subset. Pure.

Facts: Istio's ``pilot/pkg/model/destination_rule.go`` and ``pilot/pkg/networking/util/util.go``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from controlplane.routing.backend_tls import BackendTls
from controlplane.routing.backend_traffic import TrafficReading
from controlplane.routing.ir import Session
from meshapi.resources.destination_rule import (
    ClientTLSSettings,
    ConnectionPool,
    DestinationRule,
    LoadBalancer,
    LocalityLbSetting,
    OutlierDetection,
    PortTrafficPolicy,
    ProxyProtocol,
    RetryBudget,
    SimpleLB,
    Subset,
    TLSMode,
    TrafficPolicy,
    TunnelSettings,
)
from meshkit.kube import Key

_BY_LOCALITY: Final = LocalityLbSetting()


@dataclass(frozen=True, slots=True)
class Policy:
    """How the endpoints of a cluster are chosen and called; what is ``None`` is left to the defaults."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None
    backend_tls: BackendTls | None = None
    """Of a BackendTLSPolicy; it goes before ``tls``."""
    session: Session | None = None
    mesh_locality: LocalityLbSetting = _BY_LOCALITY
    """Preference for near endpoints where the load balancer says nothing of it."""


_NOTHING: Final = TrafficPolicy()


@dataclass(frozen=True, slots=True)
class Rules:
    """What all DestinationRules that count for a host say together.

    Attributes:
        traffic_policy: of the oldest rule that has one.
        subsets: of all of them by name; of several with one name, the oldest rule's.
        sources: keys of the rules.
        mesh_locality: what the mesh configuration says of near endpoints.
        backend_tls: what BackendTLSPolicies demand, by number of the port.
        traffic: what XBackendTrafficPolicies say, by number of the port.
    """

    traffic_policy: TrafficPolicy = _NOTHING
    subsets: tuple[Subset, ...] = ()
    sources: tuple[Key, ...] = ()
    mesh_locality: LocalityLbSetting = _BY_LOCALITY
    backend_tls: tuple[tuple[int, BackendTls], ...] = ()
    traffic: tuple[tuple[int, TrafficReading], ...] = ()

    def subset(self, name: str) -> Subset | None:
        """Return a subset by its name."""
        return next((subset for subset in self.subsets if subset.name == name), None)

    @property
    def credentials(self) -> frozenset[str]:
        """Names of Secrets for TLS, in the namespace of the calling proxy."""
        policies = [
            self.traffic_policy,
            *(one.traffic_policy for one in self.subsets if one.traffic_policy is not None),
        ]
        return frozenset(tls.credential_name for one in policies for _, tls in _credentials("", one))

    def policy(self, port: int, subset: str = "") -> Policy:
        """Return what counts for a port, and a subset if one is named."""
        found = _at_port(self.traffic_policy, port)
        chosen = self.subset(subset) if subset else None
        if chosen is not None and chosen.traffic_policy is not None:
            found = _laid_over(found, chosen.traffic_policy, port)
        demanded = next((tls for number, tls in self.backend_tls if number == port), None)
        traffic = next((one for number, one in self.traffic if number == port), None)
        if traffic is not None:
            found = replace(found, session=traffic.session, retry_budget=traffic.retries or found.retry_budget)
        return replace(found, mesh_locality=self.mesh_locality, backend_tls=demanded)


def merged(rules: Iterable[DestinationRule]) -> Rules:
    """Return what the rules of one namespace for one host say together; the oldest ones first.

    A rule with a ``workloadSelector`` is for the clients that it selects, which a waypoint's are not.
    """
    ordered = [
        rule for rule in sorted(rules, key=lambda rule: rule.metadata.age) if rule.spec.workload_selector is None
    ]
    subsets: dict[str, Subset] = {}
    for rule in ordered:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((rule.spec.traffic_policy for rule in ordered if rule.spec.traffic_policy is not None), _NOTHING)
    return Rules(policy, tuple(subsets.values()), tuple(rule.key for rule in ordered))


def credentials(rule: DestinationRule) -> Iterator[tuple[str, ClientTLSSettings]]:
    """Yield the settings of TLS with a Secret, with the paths of their fields."""
    for path, policy in _policies(rule):
        yield from _credentials(path, policy)


def _policies(rule: DestinationRule) -> Iterator[tuple[str, TrafficPolicy]]:
    of_subsets = [
        (f"spec.subsets[{index}].trafficPolicy", one.traffic_policy) for index, one in enumerate(rule.spec.subsets)
    ]
    for path, policy in [("spec.trafficPolicy", rule.spec.traffic_policy), *of_subsets]:
        if policy is not None:
            yield path, policy


def _credentials(path: str, policy: TrafficPolicy) -> Iterator[tuple[str, ClientTLSSettings]]:
    for at, tls in (
        (path, policy.tls),
        *((f"{path}.portLevelSettings[{index}]", one.tls) for index, one in enumerate(policy.port_level_settings)),
    ):
        if tls is not None and tls.credential_name and tls.mode in {TLSMode.SIMPLE, TLSMode.MUTUAL}:
            yield f"{at}.tls.credentialName", tls


def problems(rule: DestinationRule) -> tuple[str, ...]:
    """Return what a rule says that no waypoint does, with the fields' paths."""
    spec = rule.spec
    found = []
    if spec.workload_selector is not None:
        found.append("spec.workloadSelector selects clients by their labels, which a waypoint does not know: no effect")
    for path, policy in _policies(rule):
        found += _problems(path, policy)
    return tuple(found)


def _problems(path: str, policy: TrafficPolicy) -> Iterator[str]:
    if policy.tunnel is not None:
        yield f"{path}.tunnel is for egress without a waypoint: connections go to the endpoints themselves"
    if policy.proxy_protocol is not None:
        yield f"{path}.proxyProtocol is not spoken by waypoints"
    yield from _port_problems(path, policy)
    for index, one in enumerate(policy.port_level_settings):
        yield from _port_problems(f"{path}.portLevelSettings[{index}]", one)


def _port_problems(path: str, policy: TrafficPolicy | PortTrafficPolicy) -> Iterator[str]:
    balancer = policy.load_balancer
    if balancer is not None and balancer.simple is SimpleLB.PASSTHROUGH:
        yield f"{path}.loadBalancer.simple: PASSTHROUGH would call the service's own address; LEAST_REQUEST is used"
    setting = balancer.locality_lb_setting if balancer is not None else None
    fails_over = setting is not None and setting.enabled is not False and not setting.distribute
    if fails_over and policy.outlier_detection is None:
        yield f"{path}.loadBalancer.localityLbSetting needs outlierDetection, which tells when endpoints fail"


def _at_port(policy: TrafficPolicy, port: int) -> Policy:
    """An entry for the port replaces everything: what it leaves out is the default, not the level above."""
    for one in policy.port_level_settings:
        if one.port.number == port:
            return Policy(one.load_balancer, one.connection_pool, one.outlier_detection, one.tls)
    return Policy(
        policy.load_balancer,
        policy.connection_pool,
        policy.outlier_detection,
        policy.tls,
        policy.tunnel,
        policy.proxy_protocol,
        policy.retry_budget,
    )


def _laid_over(base: Policy, subset: TrafficPolicy, port: int) -> Policy:
    """A group that the subset has replaces the host's; an entry of the subset for the port replaces the first four."""
    tunnel = subset.tunnel or base.tunnel
    proxy_protocol = subset.proxy_protocol or base.proxy_protocol
    budget = subset.retry_budget or base.retry_budget
    if any(one.port.number == port for one in subset.port_level_settings):
        at = _at_port(subset, port)
        return Policy(
            at.load_balancer, at.connection_pool, at.outlier_detection, at.tls, tunnel, proxy_protocol, budget
        )
    return Policy(
        subset.load_balancer or base.load_balancer,
        subset.connection_pool or base.connection_pool,
        subset.outlier_detection or base.outlier_detection,
        subset.tls or base.tls,
        tunnel,
        proxy_protocol,
        budget,
    )
