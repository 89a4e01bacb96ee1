"""Values that Istio's kinds share: durations, percentages, string matches, selectors of ports.

Source: istio/api, networking/v1alpha3 (``StringMatch``, ``Percent``, ``PortSelector``); durations are written as in Go
("1h", "1m30s", "250ms").
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from meshapi.resources.base import LenientModel

_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_MAX_S: Final = 315_576_000_000.0
"""Of a protobuf ``Duration``: 10,000 years."""


def _duration(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    text = value if isinstance(value, str) else ""
    negative, rest = text.startswith("-"), text.lstrip("+-")
    parts = _PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError('is not a duration; write as "5s", "250ms" or "1h30m"')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _MAX_S:
        raise ValueError("is too long; write at most 10,000 years")
    return timedelta(seconds=-seconds if negative else seconds)


def _not_negative(value: timedelta) -> timedelta:
    if value < timedelta(0):
        raise ValueError("is negative; write a duration of at least 0s")
    return value


def _positive(value: timedelta) -> timedelta:
    if value < timedelta(milliseconds=1):
        raise ValueError("is shorter than 1ms; write at least 1ms")
    return value


def _text(value: timedelta) -> str:
    return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


_AnyDuration = Annotated[
    timedelta, BeforeValidator(_duration), PlainSerializer(_text), WithJsonSchema({"type": "string"})
]
Duration = Annotated[_AnyDuration, AfterValidator(_not_negative)]
"""At least zero, which often means "off"."""
PositiveDuration = Annotated[_AnyDuration, AfterValidator(_positive)]
"""At least a millisecond."""


def regex(value: str) -> str:
    """Check a regular expression as far as Python can tell: what only RE2 refuses, the proxy refuses."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


def _regex_or_star(value: str) -> str:
    return value if value == "*" else regex(value)


Regex = Annotated[str, AfterValidator(regex)]


class StringMatch(LenientModel):
    """How a text has to be: exactly one of the fields. An empty object matches everything that is present."""

    exact: str | None = Field(default=None, description="The whole text.")
    prefix: str | None = Field(default=None, description="How the text begins.")
    regex: Annotated[str, AfterValidator(_regex_or_star)] | None = Field(
        default=None, description="RE2 expression that matches the whole text; * for any."
    )

    @model_validator(mode="after")
    def _one(self) -> "StringMatch":
        if sum(item is not None for item in (self.exact, self.prefix, self.regex)) > 1:
            raise ValueError("exact, prefix and regex exclude each other; keep one of them")
        return self


class Percent(LenientModel):
    """A share of all requests."""

    value: float = Field(default=0.0, ge=0.0, le=100.0, description="From 0 to 100.")

    @property
    def millionths(self) -> int:
        """The share in millionths, rounded down as Istio does."""
        return int(self.value * 10_000)


def port(value: int) -> int:
    """Check the number of a port."""
    if not 0 < value < 65536:
        raise ValueError("is not a port; write a number from 1 to 65535")
    return value


PortNumber = Annotated[int, AfterValidator(port)]


class PortSelector(LenientModel):
    """Chooses a port of a service by its number."""

    number: PortNumber = Field(description="The port's number.")


class WorkloadSelector(LenientModel):
    """Chooses pods by their labels; no labels choose all."""

    match_labels: dict[str, str] = Field(default_factory=dict, description="Labels that a pod must have, all of them.")


def exactly_one(fields: dict[str, object]) -> None:
    """Check that one of the named fields is given.

    Raises:
        ValueError: none or several are.
    """
    given = [name for name, value in fields.items() if value]
    names = _listed(fields)
    if not given:
        raise ValueError(f"has none of {names}; set one of them")
    if len(given) > 1:
        raise ValueError(f"{_listed(given)} exclude each other; keep one of them")


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
