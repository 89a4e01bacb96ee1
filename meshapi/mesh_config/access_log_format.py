"""The format of access log lines: Envoy's command operators, checked here, evaluated by the engine.

Source: Envoy, "Access logging", command operators: ``%NAME%``, ``%NAME(argument)%`` and
``%NAME(argument):LENGTH%``; two percent signs are one. The engine has the same grammar
(``telemetry/log_format.rs``), which refuses what is not of this form; only here names are compared with those that
Envoy knows.
"""

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from meshapi import cel

_OPERATOR: Final = re.compile(r"%(?:%|(?P<name>[A-Z][A-Z0-9_]*)(?P<argument>\([^)]*\))?(?::(?P<length>\d+))?%)")
_ENVOY_OPERATOR: Final = re.compile(
    r"%(?:%|(?P<name>[A-Z][A-Z0-9_]*)(?P<argument>\(.*?\))?(?::(?P<length>\d+))?%)", re.DOTALL
)
"""Of Envoy itself: an argument ends where the operator can, so that it may be an expression with parentheses."""

LAYER_4: Final = frozenset({
    "START_TIME", "DURATION", "BYTES_RECEIVED", "BYTES_SENT", "RESPONSE_FLAGS", "CONNECTION_TERMINATION_DETAILS",
    "UPSTREAM_TRANSPORT_FAILURE_REASON", "UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "UPSTREAM_REMOTE_PORT", "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_REMOTE_PORT", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_REMOTE_PORT", "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_PORT", "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_LOCAL_URI_SAN", "UPSTREAM_PEER_URI_SAN", "UPSTREAM_LOCAL_URI_SAN",
})  # fmt: skip
"""Operators that a layer 4 proxy knows the value of."""

OTHERS: Final = frozenset({
    "ACCESS_LOG_TYPE", "BYTES_RETRANSMITTED", "CEL", "COALESCE", "COMMON_DURATION", "CONNECTION_ID", "CUSTOM_FLAGS",
    "DOWNSTREAM_CX_RTT", "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_LOCAL_PORT", "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED", "DOWNSTREAM_HEADER_BYTES_SENT", "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_LOCAL_CLOSE_REASON", "DOWNSTREAM_LOCAL_DNS_SAN", "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN", "DOWNSTREAM_LOCAL_OTHERNAME_SAN", "DOWNSTREAM_LOCAL_SUBJECT", "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END", "DOWNSTREAM_PEER_CERT_V_START", "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", "DOWNSTREAM_PEER_CHAIN_SERIALS", "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN", "DOWNSTREAM_PEER_FINGERPRINT_1", "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN", "DOWNSTREAM_PEER_ISSUER", "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER_SERIAL", "DOWNSTREAM_PEER_OTHERNAME_SAN", "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT", "DOWNSTREAM_TLS_CIPHER", "DOWNSTREAM_TLS_GROUP", "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION", "DOWNSTREAM_TRANSPORT_FAILURE_REASON", "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT", "DYNAMIC_METADATA", "EMIT_TIME", "ENVIRONMENT", "FILTER_CHAIN_NAME", "FILTER_STATE",
    "GRPC_STATUS", "GRPC_STATUS_NUMBER", "HOSTNAME", "LISTENER_NAME", "LOCAL_REPLY_BODY", "METADATA", "PATH",
    "PROTOCOL", "QUERY_PARAM", "QUERY_PARAMS", "REQ", "REQUESTED_SERVER_NAME", "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES", "REQUEST_TX_DURATION", "REQ_WITHOUT_QUERY", "RESP", "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS", "RESPONSE_DURATION", "RESPONSE_FLAGS_LONG", "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES", "RESPONSE_TX_DURATION", "ROUNDTRIP_DURATION", "ROUTE_NAME", "ROUTE_RESOLUTION_COUNT",
    "ROUTE_RESOLUTION_TIME_US", "SPAN_ID", "STREAM_ID", "TLS_JA3_FINGERPRINT", "TLS_JA4_FINGERPRINT", "TRACE_ID",
    "TRAILER", "UNIQUE_ID", "UPSTREAM_CLUSTER", "UPSTREAM_CLUSTER_RAW", "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED", "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_DETECTED_CLOSE_TYPE", "UPSTREAM_FILTER_STATE", "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT", "UPSTREAM_HOSTS_ATTEMPTED", "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME", "UPSTREAM_HOST_NAMES_ATTEMPTED", "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT", "UPSTREAM_LOCAL_ADDRESS", "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_CLOSE_REASON", "UPSTREAM_LOCAL_DNS_SAN", "UPSTREAM_LOCAL_IP_SAN", "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_METADATA", "UPSTREAM_PEER_CERT", "UPSTREAM_PEER_CERT_V_END", "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_DNS_SAN", "UPSTREAM_PEER_IP_SAN", "UPSTREAM_PEER_ISSUER", "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PROTOCOL", "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_SERVER_NAME", "UPSTREAM_TLS_CIPHER", "UPSTREAM_TLS_GROUP", "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION", "UPSTREAM_WIRE_BYTES_RECEIVED", "UPSTREAM_WIRE_BYTES_SENT", "VIRTUAL_CLUSTER_NAME",
})  # fmt: skip
"""Other operators of Envoy's (1.40); in lines of layer 4 they print ``-``, as Envoy does where a value is not known."""
_WITH_ARGUMENT: Final = frozenset({
    "CEL", "COALESCE", "COMMON_DURATION", "DYNAMIC_METADATA", "ENVIRONMENT", "FILTER_STATE", "METADATA", "QUERY_PARAM",
    "REQ", "RESP", "TRAILER", "UPSTREAM_FILTER_STATE", "UPSTREAM_METADATA",
})  # fmt: skip
"""Operators that mean nothing without an argument: Envoy refuses them."""
_EXPRESSION: Final = "CEL"

_TIME: Final = re.compile(r"%(?:[YmdHMSsFTzZ%]|[1-9]?f)")
_WITH_TIME: Final = "START_TIME"


def check_text(text: str) -> None:
    """Check one line's format.

    Raises:
        ValueError: an operator is not of the form that Envoy defines, or Envoy does not know it.
    """
    for _ in operators(text):
        pass


def check_json(text: str) -> None:
    """Check the format of JSON lines: an object whose strings hold operators.

    Raises:
        ValueError: see ``check_text``; also where the text is not a JSON object.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"is not JSON ({error}), which accessLogEncoding JSON needs; write an object of strings with operators"
        ) from None
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object; write an object of strings with operators")
    _check_value(document)


def check_envoy(value: Any) -> None:
    """Check a format that Envoy alone evaluates: a text, or an object or a list with texts in it.

    Raises:
        ValueError: see ``check_text``.
    """
    _check_value(value, _ENVOY_OPERATOR)


def envoy_operators(text: str) -> Iterator[str]:
    """Return the names of the operators of a format that Envoy alone evaluates. Raises as ``check_envoy``."""
    return operators(text, _ENVOY_OPERATOR)


def _check_value(value: Any, operator: re.Pattern[str] = _OPERATOR) -> None:
    if isinstance(value, str):
        for _ in operators(value, operator):
            pass
    elif isinstance(value, dict):
        for one in value.values():
            _check_value(one, operator)
    elif isinstance(value, list):
        for one in value:
            _check_value(one, operator)


def operators(text: str, operator: re.Pattern[str] = _OPERATOR) -> Iterator[str]:
    """Return the names of a format's operators.

    Args:
        text: the format.
        operator: the form of an operator.

    Raises:
        ValueError: see ``check_text``.
    """
    at = text.find("%")
    while at >= 0:
        found = operator.match(text, at)
        if found is None:
            end = text.find("%", at + 1)
            shown = text[at : end + 1] if end > 0 else text[at:]
            raise ValueError(f"{shown[:80]!r} is not an operator; write %NAME%, %NAME(argument)% or %% for a percent")
        name = found.group("name")
        if name:
            _check_operator(name, (found.group("argument") or "")[1:-1])
            yield name
        at = text.find("%", found.end())


def _check_operator(name: str, argument: str) -> None:
    if name not in LAYER_4 | OTHERS:
        near = difflib.get_close_matches(name, sorted(LAYER_4 | OTHERS), n=1)
        hint = f"; did you mean %{near[0]}%?" if near else "; see Envoy's list of access log operators"
        raise ValueError(f"%{name}% is not an operator that Envoy knows{hint}")
    if name in _WITH_ARGUMENT and not argument:
        raise ValueError(f"%{name}% needs an argument; write %{name}(...)%")
    if name == _EXPRESSION:
        _check_expression(argument)
    if name == _WITH_TIME:
        rest = _TIME.sub("", argument)
        if "%" in rest:
            raise ValueError(f"%START_TIME({argument})% has a time that cannot be written; use %Y %m %d %H %M %S %f %s")


def _check_expression(argument: str) -> None:
    try:
        cel.check(argument, cel.PLAIN_FUNCTIONS)
    except ValueError as error:
        raise ValueError(f"%CEL({argument})% {error}") from None
