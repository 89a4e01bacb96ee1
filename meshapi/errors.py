"""Errors about data that came from outside.

::

    DataError
    ├── InvalidIdentity     not a workload's SPIFFE ID
    └── InvalidResource     a Kubernetes object that cannot be used: names kind, object, field, and the fix
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_HEAD: Final = 150
_TAIL: Final = 150
_SHOWN: Final = 10


def brief(text: str) -> str:
    """Return the text, without its middle where it is long: a value may be as large as an object, a message not."""
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}...{text[-_TAIL:]}"


def listed(items: Sequence[str], most: int = _SHOWN) -> str:
    """Return the first few of any number of things to say, of one object or in one answer."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return "; ".join([*map(brief, items[:most]), *more])


class DataError(ValueError):
    """Invalid input; the message names it and says how to fix it."""


class InvalidIdentity(DataError):
    """A string is not a workload identity (``spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>``)."""


@dataclass(eq=False)
class InvalidResource(DataError):
    """One object was refused.

    Attributes:
        kind: its kind, as ``AuthorizationPolicy``.
        name: ``namespace/name``, or ``name`` for what has no namespace.
        field: path of the field at fault, as ``spec.rules[0].from[0]``; may be empty.
        reason: what is wrong and the fix, without a final full stop.
    """

    kind: str
    name: str
    field: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.kind} {self.name}: "
        return where + (f"{self.field}: {self.reason}" if self.field else self.reason)
