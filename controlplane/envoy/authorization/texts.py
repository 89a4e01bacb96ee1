"""Values of policies as matches: ``*`` alone is any text but the empty one, in front or at the end a wildcard."""

import re
from typing import Final

from envoy.config.core.v3 import address_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2

from controlplane.envoy.packing import number, regex

String: Final = string_pb2.StringMatcher
_ANY: Final = "*"


def match(value: str, *, prefix: str = "", ignores_case: bool = False) -> string_pb2.StringMatcher:
    """Return the match of a value.

    Args:
        value: as a policy has it.
        prefix: what the text has in front of the value.
        ignores_case: whether case does not count.
    """
    if value == _ANY:
        return String(safe_regex=regex(".+"))
    if value.startswith(_ANY):
        return String(suffix=value[1:], ignore_case=ignores_case)
    if value.endswith(_ANY):
        return String(prefix=prefix + value[:-1], ignore_case=ignores_case)
    return String(exact=prefix + value, ignore_case=ignores_case)


def with_wildcards(value: str) -> str:
    """Return an expression for a value in which every ``*`` stands for any text."""
    return ".*".join(re.escape(part) for part in value.split(_ANY))


def address_range(block: str) -> address_pb2.CidrRange:
    """Return an address or CIDR."""
    address, _, length = block.partition("/")
    bits = int(length) if length else (128 if ":" in address else 32)
    return address_pb2.CidrRange(address_prefix=address, prefix_len=number(bits))


def metadata(filter_name: str, path: tuple[str, ...], value: value_pb2.ValueMatcher) -> metadata_pb2.MetadataMatcher:
    """Return the match of a value in a filter's metadata."""
    segments = [metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in path]
    return metadata_pb2.MetadataMatcher(filter=filter_name, path=segments, value=value)


def text_or_list(match_of_text: string_pb2.StringMatcher) -> value_pb2.ValueMatcher:
    """Return the match of a text, or of one text of a list."""
    single = value_pb2.ValueMatcher(string_match=match_of_text)
    of_list = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=single))
    return value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=[single, of_list]))
