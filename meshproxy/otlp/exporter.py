"""Sends log records to a collector without ever blocking the proxy.

Records come in portions, serialized; nothing here is done once a record. What waits is bounded: beyond, the oldest
portions are dropped and counted. One request is under way at a time. One that the collector may take later is sent
again, after a growing pause; so a record arrives once as long as the collector answers, and at least once where it
took a request and its answer was lost.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

import grpc

from meshkit.log import logger
from meshkit.tasks import Backoff
from meshproxy.otlp.messages import METHOD, Envelope, Failure, Response

_log = logger("otlp")

_REQUEST_BYTES = 1024 * 1024
"""What is not waited beyond. With one more portion of the engine's it stays below the 4 MiB that servers take."""
_RESERVATIONS = "PARTIAL_SUCCESS"
_LONGEST_PAUSE_S = 300.0
_LAST_PAUSE_S = 0.2
"""Between attempts at the end, when time is short."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Some records: elements of ``ScopeLogs.log_records``, serialized one after the other."""

    records: bytes
    count: int


class Reason(StrEnum):
    """Why records were dropped."""

    QUEUE_FULL = "queue_full"
    REFUSED = "refused"
    """The collector refused a request for good."""
    REJECTED = "rejected"
    """The collector took a request without these records."""
    HOST_BUSY = "host_busy"
    """They did not get out of the engine in time."""
    SHUTDOWN = "shutdown"


@dataclass(slots=True)
class Counts:
    """Records since the start."""

    exported: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)


class Exporter:
    """Construct, then ``run`` as a task; for one loop only.

    Args:
        connect: opens a channel; raises ``OSError`` where its files cannot be read.
        envelope: makes requests.
        metadata: sent with each.
        compression: of each.
        timeout_s: timeout of one request.
        delay_s: how long records wait for others.
        max_records: that wait.
        backoff: waits between attempts.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], grpc.aio.Channel],
        envelope: Envelope,
        metadata: tuple[tuple[str, str], ...] = (),
        compression: grpc.Compression = grpc.Compression.NoCompression,
        timeout_s: float = 10.0,
        delay_s: float = 1.0,
        max_records: int = 20_000,
        backoff: Backoff | None = None,
    ) -> None:
        self.counts = Counts()
        self._connect = connect
        self._envelope = envelope
        self._metadata = metadata
        self._compression = compression
        self._timeout_s = timeout_s
        self._delay_s = delay_s
        self._max_records = max_records
        self._backoff = backoff or Backoff(first_s=0.5, cap_s=30.0)
        self._channel: grpc.aio.Channel | None = None
        self._waiting: deque[Portion] = deque()
        self._count = self._bytes = 0  # of what waits
        self._in_flight = 0
        self._ending = False
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._trouble = ""

    @property
    def waiting(self) -> int:
        """Number of records that are neither delivered nor dropped."""
        return self._count + self._in_flight

    def offer(self, portions: Iterable[Portion]) -> None:
        """Take portions in; never blocks."""
        for portion in portions:
            self._waiting.append(portion)
            self._weigh(portion, 1)
        self._drop_oldest()
        self._changed.set()

    async def run(self) -> None:
        """Export until ``finish`` is called and nothing is left."""
        try:
            while await self._gather():
                await self._export(self._take())
        finally:
            await self._disconnect()
            self._ended.set()

    async def finish(self, within_s: float) -> None:
        """Send what waits, for at most ``within_s`` seconds; what is left then is counted as dropped."""
        self._ending = True
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        if lost := self.waiting:
            self.counts.dropped[Reason.SHUTDOWN] += lost
            _log.warning("collector has not taken the end of the access log", records=lost)

    async def _gather(self) -> bool:
        """Wait until a request is worth it; false where none will be."""
        await self._until(lambda: bool(self._waiting) or self._ending)
        await self._until(lambda: self._bytes >= _REQUEST_BYTES or self._ending, self._delay_s)
        return bool(self._waiting)

    def _take(self) -> list[Portion]:
        taken, size = [], 0
        while self._waiting and size < _REQUEST_BYTES:
            taken.append(self._pop())
            size += len(taken[-1].records)
        return taken

    def _pop(self) -> Portion:
        portion = self._waiting.popleft()
        self._weigh(portion, -1)
        return portion

    def _weigh(self, portion: Portion, sign: int) -> None:
        self._count += sign * portion.count
        self._bytes += sign * len(portion.records)

    async def _export(self, portions: list[Portion]) -> None:
        self._in_flight = count = sum(portion.count for portion in portions)
        failure = await self._send(self._envelope.request(portion.records for portion in portions), count)
        self._in_flight = 0
        if failure is None:
            self._backoff.reset()
            return
        self._note(failure.code, failure.detail)
        if not failure.again:
            self.counts.dropped[Reason.REFUSED] += count
            return
        for portion in reversed(portions):
            self._waiting.appendleft(portion)
            self._weigh(portion, 1)
        self._drop_oldest()
        await self._pause(failure.after_s)

    async def _send(self, request: bytes, count: int) -> Failure | None:
        try:
            if self._channel is None:
                self._channel = self._connect()
            export = self._channel.unary_unary(METHOD, response_deserializer=Response.FromString)
            response = await export(
                request, timeout=self._timeout_s, metadata=self._metadata, compression=self._compression
            )
        except grpc.aio.AioRpcError as error:
            # The library pauses longer between attempts to connect; and the name may mean another address now.
            await self._disconnect()
            return Failure.of(error)
        except OSError as error:
            return Failure("FILE", str(error), again=True)
        except Exception as error:
            # Telemetry must not end the tunnel. The text stays unsaid, since it may hold a header's value.
            return Failure(type(error).__name__, "the request could not be made", again=False)
        if response is None:  # what the library gives for bytes that are no message
            return Failure("ANSWER", "the collector has sent what is no answer", again=False)
        partial = response.partial_success
        rejected = min(count, max(0, partial.rejected_log_records))
        self.counts.exported += count - rejected
        self.counts.dropped[Reason.REJECTED] += rejected
        self._note(_RESERVATIONS if rejected or partial.error_message else "", partial.error_message)
        return None

    async def _pause(self, wanted_s: float) -> None:
        delay_s = min(max(self._backoff.next(), wanted_s), _LONGEST_PAUSE_S)
        if self._ending:
            await asyncio.sleep(min(delay_s, _LAST_PAUSE_S))
        else:
            await self._until(lambda: self._ending, delay_s)

    async def _until(self, condition: Callable[[], bool], within_s: float | None = None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    def _drop_oldest(self) -> None:
        """Keep the bound; the newest portion stays, however many it holds (the engine bounds its bytes)."""
        while self._count > self._max_records and len(self._waiting) > 1:
            self.counts.dropped[Reason.QUEUE_FULL] += self._pop().count

    async def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _note(self, trouble: str, detail: str) -> None:
        """Log that the collector's answer is another one than before."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble == _RESERVATIONS:
            _log.warning("collector has taken the access log with reservations", reason=detail)
        elif trouble:
            _log.warning("collector does not take the access log", code=trouble, reason=detail)
        else:
            _log.info("collector takes the access log again", dropped=self.counts.dropped.total())
