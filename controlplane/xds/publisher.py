"""When the model is recomputed: at once after a single change, in batches under load.

An event that finds things quiet is computed in the same turn of the event loop. After a computation, the next one
waits until a pause has passed that grows with the cost of the last: a storm of events costs at most half the time.
"""

import asyncio

from controlplane.metrics import Metrics
from controlplane.model.model import Model
from controlplane.registry.notices import Notices
from controlplane.xds.snapshot import Snapshot
from meshkit.log import logger

_log = logger("controlplane.xds")
_MIN_PAUSE_S = 0.005
_MAX_PAUSE_S = 0.5


class Publisher:
    """Carries changes from the model to the snapshot, and so to the streams."""

    def __init__(self, model: Model, snapshot: Snapshot, metrics: Metrics, notices: Notices) -> None:
        self._model = model
        self._snapshot = snapshot
        self._metrics = metrics
        self._notices = notices
        self._is_open = False
        self._scheduled: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._changed = asyncio.Event()

    def open(self) -> None:
        """Publish what is known and begin to follow changes. Before, changes only collect in the model."""
        self._is_open = True
        self._flush()

    def touch(self) -> None:
        """Note that the model has changed."""
        self._changed.set()
        if not self._is_open or self._scheduled is not None:
            return
        loop = asyncio.get_running_loop()
        self._scheduled = loop.call_at(max(self._not_before, loop.time()), self._flush)

    async def wait_changed(self, timeout_s: float) -> bool:
        """Wait until anything changes; return whether something did in time."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _flush(self) -> None:
        self._scheduled = None
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            changes = self._model.flush()
            self._snapshot.apply(changes)
        except Exception:  # one object that nobody foresaw must not end all pushing
            self._metrics.internal_errors.inc()
            _log.exception("computing resources failed")
            return
        took_s = loop.time() - started
        self._not_before = loop.time() + min(_MAX_PAUSE_S, max(_MIN_PAUSE_S, took_s))
        self._metrics.push_time.labels("ALL").observe(took_s)
        self._metrics.services.set(len(self._model.services))
        for name, problems in self._model.problems.items():
            self._notices.say("AuthorizationPolicy", name, "; ".join(problems))
