"""Reading JSON that strangers have a hand in: it can be read however deep it is, and what is too deep is left out.

A custom resource that keeps unknown fields may hold some ten thousand levels (the API server takes them). Readers of
JSON are recursive and give up or die at fewer, and one object that cannot be read would keep all others of its list or
watch from being read (class "control-plane DoS by config"). Nothing that means anything is deeper than a few dozen.
"""

import re
from typing import Any, Final

from pydantic_core import from_json

DEEPEST: Final = 100
"""Levels that are kept; the reader itself refuses 200."""

_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)


def decode(body: bytes) -> Any:
    """Return the value of a JSON text; values that are nested deeper than ``DEEPEST`` read as ``null``.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return from_json(body)
    except ValueError as error:
        if "recursion limit" not in str(error):
            raise
    return from_json(_pruned(body))


def _pruned(body: bytes) -> bytes:
    parts: list[bytes] = []
    depth, kept = 0, 0
    for token in _TOKEN.finditer(body):
        mark = token[0]
        if mark in b"{[":
            depth += 1
            if depth == DEEPEST + 1:
                parts += (body[kept : token.start()], b"null")
        elif mark in b"}]":
            if depth == DEEPEST + 1:
                kept = token.end()
            depth -= 1
    return b"".join((*parts, body[kept:]))
