"""Warnings about users' objects, each logged once, and again when it changes."""

from controlplane.metrics import Metrics
from meshkit.log import logger

_log = logger("controlplane.inputs")


class ConfigWarnings:
    """De-duplicates warnings by object."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._logged: dict[tuple[str, str], str] = {}

    def warn(self, kind: str, name: str, message: str) -> None:
        """Log a warning about an object, unless it was the last one logged for it."""
        if self._logged.get((kind, name)) != message:
            self._logged[kind, name] = message
            _log.warning("object needs attention", kind=kind, name=name, reason=message)

    def reject(self, kind: str, name: str, message: str) -> None:
        """Log that an object is invalid and its last good form stays in force."""
        self._reject(kind, name, f"{message}; the last good form stays in force")

    def substitute(self, kind: str, name: str, message: str) -> None:
        """Log that a policy is invalid, has no last good form, and has a fail-closed substitute."""
        self._reject(kind, name, f"{message}; until it is fixed, the selected workloads deny all traffic")

    def _reject(self, kind: str, name: str, message: str) -> None:
        if self._logged.get((kind, name)) != message:
            self._metrics.rejected_configs.labels(kind).inc()
        self.warn(kind, name, message)

    def clear(self, kind: str, name: str) -> None:
        """Clear the warning of an object that is gone or valid again."""
        self._logged.pop((kind, name), None)
