"""Warnings about users' objects: each is said once, and again only after it has changed."""

from controlplane.metrics import Metrics
from meshkit.log import logger

_log = logger("controlplane.registry")


class Notices:
    """Remembers what was said about which object."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._said: dict[tuple[str, str], str] = {}

    def say(self, kind: str, name: str, message: str) -> None:
        """Warn about an object, unless these were the last words about it."""
        if self._said.get((kind, name)) != message:
            self._said[kind, name] = message
            _log.warning("object needs attention", kind=kind, name=name, reason=message)

    def refuse(self, kind: str, name: str, message: str) -> None:
        """Warn about an object that cannot be used; its last good form stays."""
        self._refuse(kind, name, f"{message}; the last good form stays in effect")

    def replace(self, kind: str, name: str, message: str) -> None:
        """Warn about a policy that cannot be used and has no last good form."""
        self._refuse(kind, name, f"{message}; until that is mended, the workloads that it is for let nobody in by it")

    def _refuse(self, kind: str, name: str, message: str) -> None:
        if self._said.get((kind, name)) != message:
            self._metrics.rejected_configs.labels(kind).inc()
        self.say(kind, name, message)

    def forget(self, kind: str, name: str) -> None:
        """Forget an object that is gone or good again."""
        self._said.pop((kind, name), None)
