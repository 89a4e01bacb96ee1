"""Structured logs: a constant message plus fields, on standard error.

The text form is the ecosystem's (time, level, scope, message, ``key=value`` pairs, tab separated); ``json`` gives one
object a line. Secrets are never passed as fields; the formatter cannot know them.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any, cast

# structlog takes rich in for a console of developers that no process here has: 4 MB in each of them, on every node.
_HAD_RICH = "rich" in sys.modules
if not _HAD_RICH:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if not _HAD_RICH:
    del sys.modules["rich"]


class Format(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class Level(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


Logger = structlog.typing.FilteringBoundLogger


def logger(scope: str) -> Logger:
    """Return the logger of a scope, as ``nodeagent.capture``; usable before ``configure`` is called."""
    return cast("Logger", structlog.get_logger(scope=scope))


def configure(*, level: Level = Level.INFO, log_format: Format = Format.TEXT) -> None:
    """Set level and form for the whole process. May be called again to change the level at run time."""
    threshold = logging.getLevelNamesMapping()[level.value.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _text if log_format is Format.TEXT else _json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # Looked up at each line: who replaces standard error later (as a test does) means these lines too.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=sys.stderr,
        level=max(threshold, logging.WARNING),
        format="%(asctime)s\t%(levelname)s\t%(name)s\t%(message)s",
        force=True,
    )


def _level(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The ecosystem writes ``warn``; the library's method is called ``warning``."""
    event["level"] = "warn" if event["level"] == "warning" else event["level"]
    return event


def _text(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    head = [event.pop("time"), event.pop("level"), event.pop("scope", "default"), str(event.pop("event"))]
    trace = event.pop("exception", None)
    pairs = " ".join(f"{key}={_value(value)}" for key, value in event.items())
    line = "\t".join([*head, pairs] if pairs else head)
    return f"{line}\n{trace}" if trace else line


def _json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    head = {
        "level": event.pop("level"),
        "time": event.pop("time"),
        "scope": event.pop("scope", "default"),
        "message": event.pop("event"),
    }
    return json.dumps({**head, **event}, default=str)


def _value(value: object) -> str:
    """Quote whatever could break the line or look like another field."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False)
