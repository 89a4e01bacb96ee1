"""Conditions as Kubernetes writes them, and when each last changed. Pure. Source: Kubernetes, ``metav1.Condition``."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from meshkit.kube.client import Json

_TIME: Final = "lastTransitionTime"


def stamp(moment: datetime) -> str:
    """Return a time in UTC as the API server writes it, RFC 3339 in whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, is_true: bool, reason: str, message: str, generation: int) -> Json:
    """Return a condition without its time."""
    return {
        "type": kind,
        "status": "True" if is_true else "False",
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }


def timed(wanted: Iterable[Json], held: Iterable[Mapping[str, object]], now: str) -> list[Json]:
    """Return conditions with their times: one whose status stays what it is keeps its time.

    Args:
        wanted: the conditions.
        held: those that the object has.
        now: the present time, as ``stamp`` returns it.
    """
    since = {(one.get("type"), one.get("status")): one.get(_TIME) for one in held}
    return [{**one, _TIME: since.get((one["type"], one["status"])) or now} for one in wanted]


def without_times(conditions: Iterable[Json]) -> dict[str, Json]:
    """Return conditions by type, without their times, to be compared."""
    return {one["type"]: {name: value for name, value in one.items() if name != _TIME} for one in conditions}
