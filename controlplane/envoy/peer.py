"""What a client's tunnel says about the client (W3C Baggage), taken apart once per tunnelled connection.

The parts are kept in filter state, which goes along to the internal listener: telemetry reads them for each request. A
peer says of itself what it likes; nothing but telemetry believes it. Facts: ``baggage`` of Istio's ztunnel.
"""

from collections.abc import Iterator
from typing import Final

from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.header_to_metadata.v3 import header_to_metadata_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.type.matcher.v3 import regex_pb2

from controlplane.envoy import names
from controlplane.envoy.packing import filter_state, packed, regex

Rules: Final = header_to_metadata_pb2.Config
Filter: Final = http_connection_manager_pb2.HttpFilter
_State: Final = value_pb2.FilterStateValue
UNKNOWN: Final = "unknown"
_HEADER: Final = "baggage"
_NAMESPACE: Final = "culvert.source"
PARTS: Final = {
    "cluster": r"k8s\.cluster\.name",
    "namespace": r"k8s\.namespace\.name",
    "workload": r"k8s\.(?:deployment|cronjob|pod|job)\.name",
    "service": r"service\.name",
    "revision": r"service\.version",
}
"""Part to the expression of its key."""


def state(part: str) -> str:
    """Return the key of the filter state that has a part."""
    return f"{_NAMESPACE}.{part}"


def filters() -> Iterator[http_connection_manager_pb2.HttpFilter]:
    """Yield the filters for tunnels: the header is taken apart, and what is to go along is put into filter state."""
    rules = Rules()
    for part, key in PARTS.items():
        _add_rules(rules, part, key)
    yield Filter(name="envoy.filters.http.header_to_metadata", typed_config=packed(rules))
    values = [
        # Workloads' chains write it again, for the next internal listener.
        _value(names.LOCAL_ADDRESS_STATE, "%REQ(:AUTHORITY)%", read_only=False),
        _value(names.REMOTE_ADDRESS_STATE, "%DOWNSTREAM_REMOTE_ADDRESS%"),
        _value(names.SOURCE_PRINCIPAL_STATE, "%DOWNSTREAM_PEER_URI_SAN%", factory=names.STRING_STATE),
        *(
            _value(state(part), f"%DYNAMIC_METADATA({_NAMESPACE}:{part})%", factory=names.STRING_STATE)
            for part in PARTS
        ),
    ]
    yield Filter(name="connect_authority", typed_config=packed(set_filter_state_pb2.Config(on_request_headers=values)))


def identity() -> http_connection_manager_pb2.HttpFilter:
    """Return the filter that notes who a client of the mesh is, by the certificate that it has shown."""
    value = _value(names.SOURCE_PRINCIPAL_STATE, "%DOWNSTREAM_PEER_URI_SAN%", factory=names.STRING_STATE)
    return Filter(name="peer_identity", typed_config=packed(set_filter_state_pb2.Config(on_request_headers=[value])))


def _add_rules(rules: header_to_metadata_pb2.Config, part: str, key: str) -> None:
    """A part is unknown, unless the header has it: the second rule sets nothing where its expression finds nothing."""
    fallback = rules.request_rules.add(header=_HEADER)
    for case in (fallback.on_header_present, fallback.on_header_missing):
        case.metadata_namespace, case.key, case.value = _NAMESPACE, part, UNKNOWN
    found = rules.request_rules.add(header=_HEADER).on_header_present
    found.metadata_namespace, found.key = _NAMESPACE, part
    pattern = rf"^(?:.*,)?\s*{key}=([^,;]+)(?:[,;].*)?$|^.*$"
    rewrite = regex_pb2.RegexMatchAndSubstitute(pattern=regex(pattern), substitution=r"\1")
    found.regex_value_rewrite.CopyFrom(rewrite)


def _value(key: str, text: str, *, factory: str = "", read_only: bool = True) -> value_pb2.FilterStateValue:
    """Return a piece of filter state that goes along to the internal listener, and not farther."""
    result = _State(
        object_key=key, factory_key=factory, shared_with_upstream=_State.ONCE, read_only=read_only, skip_if_empty=True
    )
    return filter_state(result, text, omits_empty=True)
