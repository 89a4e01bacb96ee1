"""Messages inside of messages, and values that need more than one line in protobuf."""

from datetime import timedelta

from envoy.config.core.v3 import (
    address_pb2,
    base_pb2,
    config_source_pb2,
    extension_pb2,
    substitution_format_string_pb2,
)
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from google.protobuf.message import Message

from controlplane.routing.ir import Comparison, TextMatch


def packed(message: Message) -> any_pb2.Any:
    """Return a message as an ``Any``, with the same bytes each time."""
    result = any_pb2.Any()
    result.Pack(message, deterministic=True)
    return result


def extension(name: str, message: Message) -> extension_pb2.TypedExtensionConfig:
    """Return an extension with its configuration."""
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(message))


def http_filter(name: str, config: Message) -> http_connection_manager_pb2.HttpFilter:
    """Return an HTTP filter with its configuration."""
    return http_connection_manager_pb2.HttpFilter(name=name, typed_config=packed(config))


def filter_state(
    value: value_pb2.FilterStateValue, text: str, *, omits_empty: bool = False
) -> value_pb2.FilterStateValue:
    """Return a piece of filter state that is given a text with command operators.

    Args:
        value: its key and properties; is changed.
        text: the text.
        omits_empty: whether an operator without a value is nothing, instead of ``-``.
    """
    source = base_pb2.DataSource(inline_string=text)
    form = substitution_format_string_pb2.SubstitutionFormatString(
        text_format_source=source, omit_empty_values=omits_empty
    )
    value.format_string.CopyFrom(form)
    return value


def overwritten(name: str, value: str) -> base_pb2.HeaderValueOption:
    """Return a header that is set, whatever it was."""
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def duration(value: timedelta) -> duration_pb2.Duration:
    """Return a duration."""
    result = duration_pb2.Duration()
    result.FromTimedelta(value)
    return result


def number(value: int) -> wrappers_pb2.UInt32Value:
    """Return a number that may be absent."""
    return wrappers_pb2.UInt32Value(value=value)


def flag(value: bool) -> wrappers_pb2.BoolValue:
    """Return a flag that may be absent."""
    return wrappers_pb2.BoolValue(value=value)


def millionths(value: int) -> percent_pb2.FractionalPercent:
    """Return a share."""
    return percent_pb2.FractionalPercent(numerator=value, denominator=percent_pb2.FractionalPercent.MILLION)


def regex(pattern: str) -> regex_pb2.RegexMatcher:
    """Return an RE2 expression that has to match the whole text."""
    return regex_pb2.RegexMatcher(regex=pattern)


def text(match: TextMatch) -> string_pb2.StringMatcher:
    """Return a match of a text."""
    case = match.ignores_case
    if match.comparison is Comparison.EXACT:
        return string_pb2.StringMatcher(exact=match.value, ignore_case=case)
    if match.comparison is Comparison.PREFIX:
        return string_pb2.StringMatcher(prefix=match.value, ignore_case=case)
    if match.comparison is Comparison.REGEX:
        return string_pb2.StringMatcher(safe_regex=regex(match.value))
    return string_pb2.StringMatcher(safe_regex=regex(".*"))


def ads() -> config_source_pb2.ConfigSource:
    """Return the one stream over which everything comes."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )


def socket_address(host: str, port: int) -> address_pb2.Address:
    """Return the address of a socket."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def internal_address(listener: str, endpoint: str = "") -> address_pb2.Address:
    """Return the address of an internal listener; ``endpoint`` tells the endpoints behind it apart."""
    inner = address_pb2.EnvoyInternalAddress(server_listener_name=listener, endpoint_id=endpoint)
    return address_pb2.Address(envoy_internal_address=inner)
