"""What the engine reports to its process: access log, certificates that it wants, workloads, a failure for good."""

import sys
from collections.abc import Callable

from meshapi.proto import engine_pb2
from meshengine import Engine, events
from meshkit.process import Fatal
from meshproxy.otlp.exporter import Exporter, Portion, Reason

Handle = Callable[[engine_pb2.Event], None]
"""Takes one event; called on the loop, so it does not block."""


class EngineFatal(Fatal):
    """A thread of the engine has failed; only a new process can help."""


class EngineEvents:
    """Follows an engine's events; writes the access log to standard output and offers it to an exporter and to readers.

    Args:
        engine: whose events.
        handle: takes those that are not about the access log.
        exporter: gets its records.
        lines: gets its lines; called on the loop, so it does not block.
    """

    def __init__(
        self,
        engine: Engine,
        handle: Handle,
        exporter: Exporter | None = None,
        lines: Callable[[bytes], None] | None = None,
    ) -> None:
        self._lines = lines
        self._engine = engine
        self._handle = handle
        self._exporter = exporter

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            EngineFatal: see there.
        """
        async for packed in events.batches(self._engine):
            batch = engine_pb2.EventBatch.FromString(packed)
            self._write(batch)
            for event in batch.events:
                if event.WhichOneof("kind") == "fatal":
                    raise EngineFatal(event.fatal.reason)
                self._handle(event)

    def flush(self) -> None:
        """Write the part of the access log that waits in the engine; other events are dropped."""
        self._write(engine_pb2.EventBatch.FromString(self._engine.drain_events()))

    def _write(self, batch: engine_pb2.EventBatch) -> None:
        if batch.access_log:
            sys.stdout.buffer.write(batch.access_log)
            sys.stdout.buffer.flush()
            if self._lines is not None:
                self._lines(batch.access_log)
        if self._exporter and batch.access_log_records:
            self._exporter.offer(Portion(one.records, one.count) for one in batch.access_log_records)
            self._exporter.counts.dropped[Reason.HOST_BUSY] = batch.access_log_records_dropped
