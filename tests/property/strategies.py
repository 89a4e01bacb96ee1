"""Generated policies and connections, from few values so that they match often."""

import ipaddress

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from meshapi.identity import SpiffeId
from meshapi.proto import authorization_pb2 as pb
from tests.support.authorization_model import Connection

TRUST_DOMAINS = ["cluster.local", "td", "t.d"]
NAMESPACES = ["shop", "shop-2", "hop", "istio-system"]
ACCOUNTS = ["web", "web-2", "w.b", "wxb"]
PORTS = [1, 80, 8080, 65535]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "127.0.0.1", "fd00::1", "fd00::2", "::ffff:10.0.0.1", "::", "0.0.0.0"]

identities = st.builds(
    SpiffeId,
    trust_domain=st.sampled_from(TRUST_DOMAINS),
    namespace=st.sampled_from(NAMESPACES),
    service_account=st.sampled_from(ACCOUNTS),
)
addresses = st.sampled_from(ADDRESSES).map(ipaddress.ip_address)
connections = st.builds(
    Connection,
    peer=st.none() | identities,
    source=addresses,
    destination=addresses,
    port=st.sampled_from(PORTS),
)


def some(values: SearchStrategy, most: int = 2) -> SearchStrategy:
    """A list that is empty half of the time."""
    return st.just([]) | st.lists(values, min_size=1, max_size=most)


@st.composite
def texts(draw: st.DrawFn, whole: SearchStrategy[str]) -> pb.StringMatch:
    """Exact, prefix, suffix, any; seldom an empty match, which is refused."""
    text = draw(whole)
    cut = draw(st.integers(0, len(text)))
    match draw(st.sampled_from(["exact", "prefix", "suffix", "presence"] * 8 + ["nothing"])):
        case "exact":
            return pb.StringMatch(exact=text)
        case "prefix":
            return pb.StringMatch(prefix=text[:cut])
        case "suffix":
            return pb.StringMatch(suffix=text[cut:])
        case "presence":
            return pb.StringMatch(presence={})
    return pb.StringMatch()


@st.composite
def ranges(draw: st.DrawFn) -> pb.Address:
    packed = draw(addresses).packed
    lengths = [0, 8, 24, 31, 32, 33, 95, 96, 97, 104, 120, 127, 128, 129]
    most = len(packed) * 8 + 1  # one more than the address has is refused
    return pb.Address(address=packed, length=draw(st.sampled_from([bits for bits in lengths if bits <= most])))


principals = texts(identities.map(lambda identity: identity.principal))
namespaces = texts(st.sampled_from(NAMESPACES))
accounts = st.builds(
    pb.ServiceAccountMatch, namespace=st.sampled_from(NAMESPACES), serviceAccount=st.sampled_from(ACCOUNTS)
)
ports = st.sampled_from([*PORTS, *PORTS, *PORTS, 65536])


@st.composite
def matches(draw: st.DrawFn) -> pb.Match:
    """A match with at most a few fields: with all of them, hardly any connection would match."""
    values = {
        "namespaces": namespaces, "principals": principals, "service_accounts": accounts,
        "source_ips": ranges(), "destination_ips": ranges(), "destination_ports": ports,
    }  # fmt: skip
    names = [*values, *(f"not_{name}" for name in values)]
    chosen = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    return pb.Match(
        **{name: draw(st.lists(values[name.removeprefix("not_")], min_size=1, max_size=2)) for name in chosen}
    )


clauses = st.builds(pb.Clause, matches=st.lists(matches(), max_size=2))
rules = st.builds(pb.Rule, clauses=st.lists(clauses, max_size=2))
policies = st.builds(
    pb.Authorization,
    name=st.sampled_from(["a", "b", "c", "d"]),
    namespace=st.sampled_from(NAMESPACES[:2]),
    scope=st.sampled_from([pb.GLOBAL, pb.NAMESPACE, pb.WORKLOAD_SELECTOR]),
    action=st.sampled_from([pb.ALLOW, pb.DENY]),
    rules=st.lists(rules, max_size=2),
    dry_run=st.sampled_from([False, False, True]),
)
