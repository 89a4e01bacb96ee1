"""When the model is recomputed: at once after a single change, in batches under load, never for long at a time.

An event that finds the queue empty is computed in the same iteration of the event loop. What one event enqueues in bulk
is computed in slices, and between two slices everything else runs: streams, certificates, other events.

After a slice comes a pause of half the processor time that it has cost, the streams' share included: until they all
have encoded and written the changes. So a storm of events leaves a third of the time to others, and a thousand
streams get fewer, larger responses. Processor time, because a busy machine makes nothing dearer, only slower.
"""

import asyncio
import time
from typing import Final

from controlplane.ambient.derivations import Policy
from controlplane.ambient.model import Model
from controlplane.inputs.config_warnings import ConfigWarnings
from controlplane.metrics import Metrics
from controlplane.xds.snapshot import Snapshot
from controlplane.xds.worlds import Worlds
from meshapi.errors import listed
from meshkit.kube import Key
from meshkit.log import logger
from meshkit.tasks import happens

_log = logger("controlplane.xds")
_MIN_PAUSE_S: Final = 0.005
_MAX_PAUSE_S: Final = 0.5
_SLICE: Final = 200
"""Objects that are computed at a time: some 0.1 ms each, so 20 ms."""
_TURNS: Final = 4
"""Iterations of the event loop in which streams write a change: they wake, encode, write."""


class Publisher:
    """Carries changes from the model to the snapshots, and so to the streams.

    Args:
        model: the model.
        snapshot: what layer 4 proxies see.
        worlds: what each layer 7 proxy sees.
        metrics: the control plane's.
        warnings: what is wrong with objects.
    """

    def __init__(
        self, model: Model, snapshot: Snapshot, worlds: Worlds, metrics: Metrics, warnings: ConfigWarnings
    ) -> None:
        self._model = model
        self._snapshot = snapshot
        self._worlds = worlds
        self._metrics = metrics
        self._warnings = warnings
        self.opened = asyncio.Event()
        """Set when everything that was known at the start has been computed."""
        self._scheduled: asyncio.Handle | None = None
        self._not_before = 0.0
        self._touched_at: float | None = None
        self._changed = asyncio.Event()
        model.policies.add_handler(self._warn)

    async def open(self) -> None:
        """Publish all that is known and begin to follow changes. Before, changes only collect in the model.

        In slices too: with a hundred thousand pods it takes longer than a leader may be silent.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not self._model.is_settled:
            self._publish(_SLICE)
            await asyncio.sleep(0)
        self.opened.set()
        self._metrics.first_computation.observe(loop.time() - started)

    def touch(self, trigger: str = "") -> None:
        """Note that the model has changed, and by what."""
        self._changed.set()
        if not self.opened.is_set():
            return
        self._metrics.triggers.labels(trigger or "other").inc()
        if self._touched_at is None:
            self._touched_at = asyncio.get_running_loop().time()
        self._schedule()

    async def wait_changed(self, timeout_s: float) -> bool:
        """Wait until anything changes; return whether something did in time."""
        self._changed.clear()
        return await happens(self._changed, timeout_s)

    def _slice(self) -> None:
        loop = asyncio.get_running_loop()
        if self._touched_at is not None:
            self._metrics.debounce_time.observe(loop.time() - self._touched_at)
            self._touched_at = None
        used_s = time.process_time()
        try:
            self._publish(_SLICE)
        except Exception:  # an unforeseen error must not end all pushing
            self._metrics.internal_errors.inc()
            _log.exception("publishing failed")
        # Not idle yet: events meanwhile are computed by the slice after the streams have written.
        self._scheduled = loop.call_soon(self._settle, used_s, _TURNS)

    def _settle(self, used_s: float, turns: int) -> None:
        """Let the streams write, then count what the slice has cost and see whether there is more to do."""
        loop = asyncio.get_running_loop()
        if turns:
            self._scheduled = loop.call_soon(self._settle, used_s, turns - 1)
            return
        cost_s = time.process_time() - used_s
        self._not_before = loop.time() + min(_MAX_PAUSE_S, max(_MIN_PAUSE_S, cost_s / 2))
        self._scheduled = None
        if self._model.is_settled:
            self._touched_at = None  # what was touched has changed nothing
        else:
            self._schedule()

    def _schedule(self) -> None:
        if self._scheduled is None:
            loop = asyncio.get_running_loop()
            self._scheduled = loop.call_at(max(self._not_before, loop.time()), self._slice)

    def _publish(self, limit: int) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._snapshot.apply(self._model.flush(limit))
        self._worlds.publish(is_settled=self._model.is_settled)
        for collection, key, error in self._model.graph.take_failures():
            self._metrics.internal_errors.inc()
            _log.error("computing resources failed", collection=collection, name=_name(key), exc_info=error)
        self._metrics.push_time.labels("ALL").observe(loop.time() - started)
        self._metrics.services.set(len(self._model.services))

    def _warn(self, key: Key, _: Policy | None, new: Policy | None) -> None:
        if new is not None and new.problems:
            self._warnings.warn("AuthorizationPolicy", "/".join(key), listed(new.problems))


def _name(key: object) -> str:
    return "/".join(filter(None, key)) if isinstance(key, tuple) else str(key)
