"""Which filter chain of ``main_internal`` a connection gets: a tree of address, port and what the client speaks.

The tree stands beside the chains. A service or a port that comes or goes changes the tree and adds or removes chains;
all others stay as they are, so Envoy keeps their connections. Where a chain itself says what it is for, each of its
connections is closed when an address is added to it.

Rules, as Istio's (``listener_waypoint.go``): addresses of services first; what is none of them goes to the chains of
workloads, if the waypoint has them.
"""

import ipaddress
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from xds.core.v3 import cidr_pb2, extension_pb2
from xds.type.matcher.v3 import ip_pb2, matcher_pb2, regex_pb2, string_pb2

from controlplane.envoy import names
from controlplane.envoy.filter_chains import Named, Opening
from controlplane.envoy.packing import number, packed

HTTP_WORDS: Final = ("http/1.0", "http/1.1", "h2c")
"""What the inspector reports for HTTP."""
Matcher: Final = matcher_pb2.Matcher
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_OnMatch = matcher_pb2.Matcher.OnMatch
_Predicate = matcher_pb2.Matcher.MatcherList.Predicate


def places(openings: Iterable[Opening]) -> dict[Network, dict[int, Opening]]:
    """Return openings by network and port. Of two that claim the same, the first one gets the traffic."""
    found: dict[Network, dict[int, Opening]] = {}
    for one in openings:
        for address in one.addresses:
            ports = found.setdefault(ipaddress.ip_network(address, strict=False), {})
            ports.setdefault(one.port, one)
    return found


def tree(by_network: Mapping[Network, Mapping[int, Opening]], rest: Opening | None) -> matcher_pb2.Matcher | None:
    """Return the tree; ``None`` where there is nothing to choose.

    Args:
        by_network: what each address and port gets; of networks that contain an address, the smallest one with the
            port counts.
        rest: what every other address and port gets; ``None``: nothing.
    """
    other = None if rest is None else _of_opening(rest)
    if not by_network:
        return None if other is None else _always(other)
    grouped: dict[tuple[tuple[int, int], ...], list[Network]] = {}
    for network, ports in by_network.items():
        grouped.setdefault(tuple((port, id(one)) for port, one in sorted(ports.items())), []).append(network)
    addresses = ip_pb2.IPMatcher()
    for networks in grouped.values():
        ports = by_network[networks[0]]
        chosen = _by_text(network_inputs_pb2.DestinationPortInput(), "port", ports)
        addresses.range_matchers.add(ranges=map(_range, networks), on_match=_OnMatch(matcher=chosen))
    result = Matcher()
    result.matcher_tree.input.CopyFrom(_extension("ip", network_inputs_pb2.DestinationIPInput()))
    result.matcher_tree.custom_match.CopyFrom(_extension("ip", addresses))
    if other is not None:
        result.on_no_match.CopyFrom(other)
    return result


def _by_text(asked: Message, name: str, ports: Mapping[int, Opening]) -> matcher_pb2.Matcher:
    result = Matcher()
    result.matcher_tree.input.CopyFrom(_extension(name, asked))
    for port, one in sorted(ports.items()):
        result.matcher_tree.exact_match_map.map[str(port)].CopyFrom(_of_opening(one))
    return result


def _of_opening(one: Opening) -> matcher_pb2.Matcher.OnMatch:
    if one.http is None:
        return _of_connections(one)
    if one.tcp is None and not one.named:
        return _chain(one.http.name)
    result = Matcher(on_no_match=_of_connections(one))
    result.matcher_tree.input.CopyFrom(_extension("app", network_inputs_pb2.ApplicationProtocolInput()))
    for word in HTTP_WORDS:
        # The input is a list, in which each word stands in quotation marks.
        result.matcher_tree.exact_match_map.map[f"'{word}'"].CopyFrom(_chain(one.http.name))
    return _OnMatch(matcher=result)


def _of_connections(one: Opening) -> matcher_pb2.Matcher.OnMatch:
    """Return what connections get that carry no requests: by client and by the name that it sends in TLS."""
    rest = None if one.tcp is None else _chain(one.tcp.name)
    if rest is not None and not one.named:
        return rest
    result = Matcher(on_no_match=rest)
    for client, found in itertools.groupby(one.named, key=lambda named: named.client):
        for name, chain in _most_specific_first(found):
            asked = [_is_of(client)] if client else []
            asked += [_is_named(name)] if name else []
            result.matcher_list.matchers.add(predicate=_all(asked), on_match=_chain(chain))
    return _OnMatch(matcher=result)


def _most_specific_first(found: Iterable[Named]) -> list[tuple[str, str]]:
    """Return names in TLS with their chains: exact ones, then the longer wildcards; in the end any name (empty)."""
    pairs = [(name, one.chain.name) for one in found for name in one.server_names or ("",)]
    return sorted(pairs, key=lambda pair: (not pair[0], pair[0].startswith("*"), -len(pair[0])))


def _is_of(client: str) -> matcher_pb2.Matcher.MatcherList.Predicate:
    """Return whether a client is of a namespace, by its certificate."""
    asked = network_inputs_pb2.FilterStateInput(key=names.SOURCE_PRINCIPAL_STATE)
    expression = regex_pb2.RegexMatcher(regex=names.principals_of(client))
    expression.google_re2.SetInParent()
    return _single("client", asked, string_pb2.StringMatcher(safe_regex=expression))


def _is_named(name: str) -> matcher_pb2.Matcher.MatcherList.Predicate:
    wildcard = name.removeprefix("*")
    matcher = string_pb2.StringMatcher(suffix=wildcard) if wildcard != name else string_pb2.StringMatcher(exact=name)
    return _single("name", network_inputs_pb2.ServerNameInput(), matcher)


def _single(name: str, asked: Message, matcher: string_pb2.StringMatcher) -> matcher_pb2.Matcher.MatcherList.Predicate:
    result = _Predicate()
    result.single_predicate.input.CopyFrom(_extension(name, asked))
    result.single_predicate.value_match.CopyFrom(matcher)
    return result


def _all(found: Sequence[matcher_pb2.Matcher.MatcherList.Predicate]) -> matcher_pb2.Matcher.MatcherList.Predicate:
    if len(found) == 1:
        return found[0]
    return _Predicate(and_matcher=_Predicate.PredicateList(predicate=found))


def _always(chosen: matcher_pb2.Matcher.OnMatch) -> matcher_pb2.Matcher:
    return chosen.matcher if chosen.HasField("matcher") else Matcher(on_no_match=chosen)


def _chain(name: str) -> matcher_pb2.Matcher.OnMatch:
    return _OnMatch(action=_extension(name, wrappers_pb2.StringValue(value=name)))


def _range(network: Network) -> cidr_pb2.CidrRange:
    return cidr_pb2.CidrRange(address_prefix=str(network.network_address), prefix_len=number(network.prefixlen))


def _extension(name: str, config: Message) -> extension_pb2.TypedExtensionConfig:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))
