"""Endpoints as one proxy prefers them: what is computed once for all proxies of a waypoint, arranged for one place.

A cluster's endpoints carry the preference, and what it compares, as metadata that Envoy does not read. ``arranged``
turns that into priorities or weights for the place of one proxy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from controlplane.envoy.packing import number
from controlplane.routing.localities import LOCALITY_KEYS, Nearness, matches
from controlplane.routing.services import Endpoint
from meshapi import names

METADATA: Final = "culvert.nearness"
MARKER: Final = METADATA.encode()
_RULE, _VALUES = "rule", "values"
Assignment = endpoint_pb2.ClusterLoadAssignment
Group = endpoint_components_pb2.LocalityLbEndpoints


def note(assignment: endpoint_pb2.ClusterLoadAssignment, nearness: Nearness) -> None:
    """Add a preference to a cluster's endpoints; ``note_endpoint`` has added what it compares."""
    for group in assignment.endpoints[:1]:
        group.metadata.filter_metadata[METADATA].update({_RULE: json.dumps(asdict(nearness))})


def note_endpoint(to: endpoint_components_pb2.LbEndpoint, endpoint: Endpoint, nearness: Nearness) -> None:
    """Add to an endpoint its values of the labels that a preference compares."""
    if nearness.keys:
        to.metadata.filter_metadata[METADATA].update({_VALUES: json.dumps(_values(endpoint, nearness))})


def _values(endpoint: Endpoint, nearness: Nearness) -> list[str]:
    place = endpoint.locality
    of_place = dict(zip(LOCALITY_KEYS, (place.region, place.zone, place.subzone), strict=True))
    labels = {**dict(endpoint.labels), **of_place, names.HOSTNAME_LABEL: endpoint.node}
    return [labels.get(name, "") for name in nearness.wanted]


def arranged(assignment: endpoint_pb2.ClusterLoadAssignment, proxy: Mapping[str, str]) -> None:
    """Arrange a cluster's endpoints for one proxy, in place.

    Args:
        assignment: with a preference, or without one: then it stays as it is.
        proxy: its labels, those of its place among them.
    """
    rule = next((_taken(group, _RULE) for group in assignment.endpoints), None)
    if rule is None:
        return
    found = json.loads(rule)
    distribute = tuple((place, tuple(map(tuple, to))) for place, to in found["distribute"])
    nearness = Nearness(tuple(found["keys"]), tuple(map(tuple, found["failover"])), distribute)
    if nearness.distribute:
        _distribute(assignment, nearness.shares("/".join(proxy.get(key, "") for key in LOCALITY_KEYS)))
    else:
        _prioritize(assignment, nearness, proxy)


def _taken(holder: Any, field: str) -> str | None:
    """Remove a note and return it."""
    metadata = holder.metadata.filter_metadata
    if METADATA not in metadata:
        return None
    text = str(metadata[METADATA][field])
    del metadata[METADATA]
    return text


def _prioritize(assignment: endpoint_pb2.ClusterLoadAssignment, nearness: Nearness, proxy: Mapping[str, str]) -> None:
    """Give each endpoint a priority: its distance, without gaps."""
    groups: dict[tuple[int, int], list[endpoint_components_pb2.LbEndpoint]] = {}
    for index, group in enumerate(assignment.endpoints):
        for endpoint in group.lb_endpoints:
            values: Sequence[str] = json.loads(_taken(endpoint, _VALUES) or "[]")
            groups.setdefault((nearness.distance(proxy, values), index), []).append(endpoint)
    priorities = {distance: order for order, distance in enumerate(sorted({distance for distance, _ in groups}))}
    made = []
    for (distance, index), endpoints in sorted(groups.items()):
        group = Group(
            locality=assignment.endpoints[index].locality, lb_endpoints=endpoints, priority=priorities[distance]
        )
        group.load_balancing_weight.CopyFrom(number(sum(one.load_balancing_weight.value for one in endpoints)))
        made.append(group)
    del assignment.endpoints[:]
    assignment.endpoints.extend(made)


def _distribute(assignment: endpoint_pb2.ClusterLoadAssignment, shares: Mapping[str, int] | None) -> None:
    """Give each locality its share; those without one get nothing. A locality that several patterns mean has the first.

    The share of a pattern is divided among its localities by their weights.
    """
    if shares is None:
        return
    # The most specific pattern first: a/b/c is also meant by a/*.
    patterns = sorted(shares, key=lambda one: (one.count("*"), -len(one), one))
    members: dict[str, list[endpoint_components_pb2.LocalityLbEndpoints]] = {}
    for group in assignment.endpoints:
        place = "/".join((group.locality.region, group.locality.zone, group.locality.sub_zone))
        chosen = next((pattern for pattern in patterns if matches(pattern, place)), None)
        if chosen is not None:
            members.setdefault(chosen, []).append(group)
    made = []
    for pattern, groups in members.items():
        total = sum(group.load_balancing_weight.value for group in groups)
        for group in groups:
            weight = -(-group.load_balancing_weight.value * shares[pattern] * _FINE // total)
            group.load_balancing_weight.CopyFrom(number(weight))
            if weight:
                made.append(Group.FromString(group.SerializeToString()))
    del assignment.endpoints[:]
    assignment.endpoints.extend(made)


_FINE: Final = 1000
"""Weights are whole numbers; shares are given as thousandths of percent, so that rounding does not matter."""
