"""Checks expressions in the Common Expression Language, so that the proxy need not refuse a whole listener for one.

Syntax: google/cel-spec, "Language Definition". Which functions there are is the proxy's: Envoy, "Attributes", and the
standard definitions without macros that loop (``all``, ``exists``, ``exists_one``, ``map``, ``filter``), which Envoy
turns off.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

PLAIN_FUNCTIONS: Final = frozenset({
    "has", "size", "contains", "startsWith", "endsWith", "matches", "type", "dyn",
    "int", "uint", "double", "bool", "bytes", "duration", "timestamp",
    "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes",
    "getSeconds", "getMilliseconds", "extract", "capture", "captureN",
})  # fmt: skip
"""Functions that every expression may call."""
TEXT_FUNCTIONS: Final = frozenset({
    "string", "lowerAscii", "upperAscii", "split", "join", "replace", "indexOf", "lastIndexOf", "substring", "charAt",
    "trim", "reverse", "format", "quote",
})  # fmt: skip
"""Functions about texts, which the proxy has to be told to allow."""

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<text>[rRbB]{0,2}(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''
        |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?[uU]?)
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_BINARY: Final = frozenset({"&&", "||", "==", "!=", "<=", ">=", "<", ">", "in", "+", "-", "*", "/", "%"})
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
_MAX_DEPTH: Final = 32
_END: Final = "the end"


class Token(NamedTuple):
    """A word of an expression.

    Attributes:
        kind: ``text``, ``number``, ``name``, ``sign`` or ``end``.
        text: as written.
        at: where it begins.
    """

    kind: str
    text: str
    at: int


def check(expression: str, functions: frozenset[str]) -> None:
    """Check an expression: its syntax, and that it calls known functions only.

    Args:
        expression: the text.
        functions: names of the functions and methods that it may call.

    Raises:
        ValueError: what is wrong, and where.
    """
    _Parser(list(_tokens(expression)), functions).whole()


def without_outer_string(expression: str) -> str:
    """Return what an expression converts with an outermost ``string(…)``; an expression without one as it is.

    Raises:
        ValueError: it is no expression.
    """
    tokens = list(_tokens(expression))
    if [token.text for token in tokens[:2]] != ["string", "("] or tokens[-2].text != ")":
        return expression
    depth = 0
    for token in tokens[1:-2]:
        depth += (token.text in _CLOSING) - (token.text in _CLOSING.values()) if token.kind == "sign" else 0
        if not depth:
            return expression
    return expression[tokens[1].at + 1 : tokens[-2].at].strip()


def joined(expression: str) -> list[str]:
    """Return the parts of an expression that joins texts with ``+``; one part for any other expression.

    Which types its parts have is not known before: one of them has to be a text, or the result of ``string(…)``.

    Raises:
        ValueError: it has a character that no expression has.
    """
    cuts, depth = [0], 0
    for token in _tokens(expression):
        if token.kind == "sign":
            depth += (token.text in _CLOSING) - (token.text in _CLOSING.values())
        if depth == 0 and token.text == "+" and token.kind == "sign":
            cuts.append(token.at)
        elif depth == 0 and (token.text in _BINARY or token.text == "?") and token.kind != "text":
            return [expression]
    ends = [*cuts[1:], len(expression)]
    parts = [expression[start:end].lstrip("+").strip() for start, end in zip(cuts, ends, strict=True)]
    return parts if any(map(_is_text, parts)) else [expression]


def text_of(expression: str) -> str | None:
    """Return what a plain text in quotes says; ``None`` for other expressions, and for texts with escapes."""
    tokens = list(_tokens(expression))
    found = tokens[0].text
    is_plain = len(tokens) == 2 and tokens[0].kind == "text" and found[0] in "\"'" and "\\" not in found
    return found[1:-1] if is_plain and found[:3] not in {'"""', "'''"} else None


def _is_text(part: str) -> bool:
    tokens = list(_tokens(part))
    return (len(tokens) == 2 and tokens[0].kind == "text") or without_outer_string(part) != part


def without_percent(expression: str) -> str:
    """Return an expression that can stand in a command operator of Envoy, which ends at ``)%``.

    Raises:
        ValueError: a text in it has that.
    """
    cuts = []
    for token in _tokens(expression):
        if token.kind == "text" and ")%" in token.text:
            raise ValueError("has a text with )% in it, which ends the expression for the proxy; write it otherwise")
        if token.text == "%":
            cuts.append(token.at)
    parts = [expression[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    return " ".join(parts)


def _tokens(expression: str) -> Iterator[Token]:
    at = 0
    while at < len(expression):
        found = _TOKEN.match(expression, at)
        if found is None:
            raise ValueError(f"has {expression[at]!r} at character {at + 1}, which no expression has; correct it")
        kind = found.lastgroup or ""
        if kind != "space":
            yield Token(kind, found.group(), at)
        at = found.end()
    yield Token("end", "", at)


class _Parser:
    """Reads an expression from left to right. Binding strength does not matter: every order has the same syntax."""

    def __init__(self, tokens: list[Token], functions: frozenset[str]) -> None:
        self._tokens = tokens
        self._functions = functions
        self._next = 0
        self._depth = 0

    def whole(self) -> None:
        if self._tokens[0].kind == "end":
            raise ValueError("is empty; write an expression")
        self._expression()
        if self._token.kind != "end":
            raise self._unexpected("an operator")

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _expression(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"is nested more than {_MAX_DEPTH} deep; write it shorter")
        self._unary()
        while self._token.kind in {"sign", "name"} and self._token.text in _BINARY:
            self._next += 1
            self._unary()
        if self._takes("?"):
            self._expression()
            self._expect(":")
            self._expression()
        self._depth -= 1

    def _unary(self) -> None:
        while self._token.kind == "sign" and self._token.text in {"!", "-"}:
            self._next += 1
        self._primary()
        while self._token.kind == "sign" and self._token.text in {".", "["}:
            if self._takes("["):
                self._expression()
                self._expect("]")
            else:
                self._next += 1
                self._name()

    def _primary(self) -> None:
        token = self._token
        if token.kind in {"text", "number"}:
            self._next += 1
        elif token.kind == "name":
            self._name()
        elif self._takes("("):
            self._expression()
            self._expect(")")
        elif self._takes("["):
            self._list("]")
        elif self._takes("{"):
            self._map()
        else:
            raise self._unexpected("a value")

    def _name(self) -> None:
        """A name, with arguments if it is a function's."""
        token = self._token
        if token.kind != "name" or token.text == "in":
            raise self._unexpected("a name")
        self._next += 1
        if self._takes("("):
            if token.text not in self._functions:
                raise ValueError(f"calls {token.text}(), which the proxy does not have here; use another function")
            self._list(")")

    def _list(self, end: str) -> None:
        while not self._takes(end):
            self._expression()
            if not self._takes(","):
                self._expect(end)
                return

    def _map(self) -> None:
        while not self._takes("}"):
            self._expression()
            self._expect(":")
            self._expression()
            if not self._takes(","):
                self._expect("}")
                return

    def _takes(self, sign: str) -> bool:
        is_there = self._token.kind == "sign" and self._token.text == sign
        self._next += is_there
        return is_there

    def _expect(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._unexpected(sign)

    def _unexpected(self, wanted: str) -> ValueError:
        token = self._token
        found = repr(token.text) if token.kind != "end" else _END
        return ValueError(f"has {found} at character {token.at + 1} where {wanted} should be; correct the expression")
