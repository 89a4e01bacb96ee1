"""Reports bad values and fields without an effect of the mesh configuration, each once."""

from collections.abc import Callable

from controlplane.metrics import Metrics
from meshapi.mesh_config.reading import Reading
from meshkit.log import logger

_log = logger("controlplane.inputs")
_KIND = "ConfigMap"

Listener = Callable[[str], None]


class MeshReport:
    """Logs each message when it appears, and keeps those that hold now.

    Attributes:
        messages: those that hold now; each names field, effect and fix.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.messages: tuple[str, ...] = ()
        self._metrics = metrics
        self._listeners: list[Listener] = []

    def on_message(self, listener: Listener) -> None:
        """Call ``listener`` with each message when it appears."""
        self._listeners.append(listener)

    def read(self, reading: Reading | None) -> None:
        """Report on a configuration that was read; ``None``: there is no config map any more."""
        messages = dict.fromkeys(reading.messages) if reading is not None else {}
        new = [message for message in messages if message not in self.messages]
        self.messages = tuple(messages)
        if reading is not None and reading.faults and new:
            self._metrics.rejected_configs.labels(_KIND).inc()
        for message in new:
            _log.warning(
                "mesh configuration needs attention", kind=_KIND, name=reading and reading.name, reason=message
            )
            for listener in self._listeners:
                listener(message)
