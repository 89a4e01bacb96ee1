"""Which endpoints of a service a proxy prefers, by where both are. Pure.

Facts: Istio's ``pilot/pkg/networking/core/loadbalancer/loadbalancer.go`` and
``pilot/pkg/serviceregistry/kube/conversion.go``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.routing.destinations import Policy
from meshapi import names
from meshapi.resources.destination_rule import LocalityLbSetting

LOCALITY_KEYS: Final = (names.REGION_LABEL, names.ZONE_LABEL, names.SUBZONE_LABEL)
_SAME_ZONE: Final = (names.NETWORK_LABEL, *LOCALITY_KEYS[:2])
_DISTRIBUTIONS: Final = {
    "PreferClose": _SAME_ZONE,
    "PreferSameZone": _SAME_ZONE,
    "PreferSameNode": (*_SAME_ZONE, names.HOSTNAME_LABEL),
}
"""What the ``trafficDistribution`` of a service prefers."""
_REGION, _FOREIGN, _EXCLUDED = 0, 3, 4


@dataclass(frozen=True, slots=True)
class Nearness:
    """A preference for near endpoints.

    Attributes:
        keys: labels; the more of the first ones an endpoint shares with the proxy, the sooner it is used.
        failover: region of proxies to the region that takes over from theirs; others come last.
        distribute: locality of proxies, as ``region/zone/*``, to shares of localities of endpoints, in percent.
    """

    keys: tuple[str, ...] = ()
    failover: tuple[tuple[str, str], ...] = ()
    distribute: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of the labels in ``keys``; of ``name=value``, proxies count as having the value."""
        return tuple(key.partition("=")[0] for key in self.keys)

    def distance(self, proxy: Mapping[str, str], endpoint: Sequence[str]) -> int:
        """Return how far an endpoint is, 0 is nearest.

        Args:
            proxy: its labels, those of its place among them.
            endpoint: its values of the ``wanted`` labels.
        """
        shared = 0
        for key, value in zip(self.keys, endpoint, strict=True):
            name, forced, given = key.partition("=")
            if value != (given if forced else proxy.get(name, "")):
                break
            shared += 1
        distance = len(self.keys) - shared
        taking_over = dict(self.failover).get(proxy.get(names.REGION_LABEL, ""))
        is_elsewhere = distance == _FOREIGN and taking_over is not None and endpoint[_REGION] != taking_over
        return _EXCLUDED if is_elsewhere else distance

    def shares(self, place: str) -> Mapping[str, int] | None:
        """Return the shares of localities for a proxy at ``place``; ``None``: all get theirs by weight."""
        return next((dict(to) for pattern, to in self.distribute if matches(pattern, place)), None)


def of(policy: Policy, distribution: str) -> Nearness | None:
    """Return the preference for a cluster; ``None``: endpoints are equally near.

    Args:
        policy: of the DestinationRules. Without outlier detection, nothing tells when to leave the nearest ones.
        distribution: of the service.
    """
    setting = policy.load_balancer.locality_lb_setting if policy.load_balancer is not None else None
    if setting is not None:
        return _of_setting(setting, can_fail=policy.outlier_detection is not None)
    if distribution in _DISTRIBUTIONS:
        return Nearness(_DISTRIBUTIONS[distribution])
    return _of_setting(policy.mesh_locality, can_fail=policy.outlier_detection is not None)


def _of_setting(setting: LocalityLbSetting, *, can_fail: bool) -> Nearness | None:
    if setting.enabled is False:
        return None
    if setting.distribute:
        return Nearness(distribute=tuple((one.from_, tuple(sorted(one.to.items()))) for one in setting.distribute))
    if not can_fail:
        return None
    if setting.failover_priority:
        return Nearness(setting.failover_priority)
    return Nearness(LOCALITY_KEYS, failover=tuple((one.from_, one.to) for one in setting.failover))


def matches(pattern: str, place: str) -> bool:
    """Return whether a locality, as ``region/zone/subzone``, is one that a pattern means: ``*``, ``region/*``."""
    if pattern in {"", "*"}:
        return True
    for wanted, given in zip(pattern.split("/"), [*place.split("/"), "", ""], strict=False):
        if wanted == "*":
            return True
        if wanted != given:
            return False
    return True
