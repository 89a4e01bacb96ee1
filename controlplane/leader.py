"""Which of several control planes writes: a Lease of ``coordination.k8s.io``, by the rules of client-go's elections.

Every replica serves discovery and signs certificates; only the leader writes to Kubernetes. Rules:

1.  Clocks of machines are never compared. A replica counts the time of a lease from the moment at which it saw the
    lease change, by its own monotonic clock.
2.  A lease that has not changed for its duration is free. The candidate that takes it writes with the
``resourceVersion`` that it
    has read, so of two that try at the same moment one gets a conflict and waits.
3.  A leader that could not renew for ``renew_s`` stops its work; that is before others may begin (``duration_s``).
4.  A clean exit gives the lease back, and the next one leads after at most one ``retry_s``.

The duties are a coroutine that runs while this replica leads and is cancelled when it does not: it must read what it
depends on when it starts, and write so that an outdated writer does no harm (resource versions, applied fields).
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from meshkit.kube import Client, Conflict, Json, KubeError, NotFound, kinds
from meshkit.log import logger

_log = logger("controlplane.leader")
_JITTER: Final = 1.2
"""client-go's JitterFactor: candidates wait up to this many ``retry_s`` longer, so that they do not collide."""
_RELEASED_S: Final = 1
"""Duration of a lease that has been given back; zero is not valid."""
_RELEASE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast a leader is substituted; client-go's defaults, in seconds.

    Attributes:
        duration_s: a lease that has not been renewed for so long is free.
        renew_s: a leader that could not renew for so long stops.
        retry_s: between two attempts.
    """

    duration_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0


class Election:
    """One candidate. Run ``run`` as a task; cancelled, it ends the duties and gives the lease back.

    Args:
        client: an open client.
        namespace: where the lease is.
        name: of the lease.
        identity: of this replica; unique, also among the lives of one pod.
        on_change: called with whether this replica leads.
        timing: how fast a leader is substituted.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        on_change: Callable[[bool], None] = lambda _: None,
        timing: Timing = Timing(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._on_change = on_change
        self._timing = timing
        self._clock = clock
        self._seen: Json | None = None
        self._seen_at = 0.0
        self._holder = ""
        self.leads = False

    @property
    def holder(self) -> str:
        """Identity of the leader as known here; empty without one."""
        return self._holder

    async def run(self, duties: Callable[[], Awaitable[None]]) -> NoReturn:
        """Lead whenever it may be, until cancelled.

        Raises:
            ExceptionGroup: what the duties raised; they are not meant to end.
        """
        while True:
            await self._acquire()
            self._set(leads=True)
            try:
                await self._lead(duties)
            finally:
                self._set(leads=False)

    async def _acquire(self) -> None:
        while True:
            if await self._try():
                return
            await asyncio.sleep(self._timing.retry_s * (1 + _JITTER * random.random()))  # noqa: S311

    async def _lead(self, duties: Callable[[], Awaitable[None]]) -> None:
        work = asyncio.ensure_future(duties())
        renewal = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                raise AssertionError("duties do not end by themselves")
        finally:
            for task in (work, renewal):
                task.cancel()
            await asyncio.gather(work, renewal, return_exceptions=True)
            # Not wait_for: before Python 3.12 it forgets a cancellation that comes as its work ends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                    await self._release()

    async def _renew(self) -> None:
        """Return when the lease is lost."""
        renewed = self._clock()
        while True:
            await asyncio.sleep(self._timing.retry_s)
            left_s = renewed + self._timing.renew_s - self._clock()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    held = await self._try()
            except TimeoutError:
                held = False
            if held:
                renewed = self._clock()
            elif self._holder != self._identity or self._clock() >= renewed + self._timing.renew_s:
                return

    async def _try(self) -> bool:
        """Take or renew the lease; return whether it is ours. A failure is an ordinary no."""
        try:
            return await self._take_or_renew()
        except Conflict:
            return False  # another candidate has written meanwhile
        except KubeError as error:
            _log.warning("lease not written, will retry", lease=self._name, reason=str(error))
            return False

    async def _take_or_renew(self) -> bool:
        now = _timestamp()
        try:
            lease = await self._client.get(kinds.LEASE, self._name, self._namespace)
        except NotFound:
            spec = self._spec(acquired=now, renewed=now, transitions=0)
            body: Json = {"metadata": {"name": self._name}, "spec": spec}
            self._note(await self._client.create(kinds.LEASE, body, self._namespace))
            return True
        self._note(lease)
        spec = lease.get("spec") or {}
        is_ours = self._holder == self._identity
        if self._holder and not is_ours and self._clock() < self._seen_at + self._timing.duration_s:
            return False
        acquired = spec.get("acquireTime", now) if is_ours else now
        transitions = int(spec.get("leaseTransitions") or 0) + (0 if is_ours else 1)
        lease["spec"] = {**spec, **self._spec(acquired=acquired, renewed=now, transitions=transitions)}
        self._note(await self._client.replace(kinds.LEASE, lease, self._namespace))
        return True

    async def _release(self) -> None:
        """Give the lease back if it is still ours."""
        try:
            lease = await self._client.get(kinds.LEASE, self._name, self._namespace)
            if (lease.get("spec") or {}).get("holderIdentity") != self._identity:
                return
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": _RELEASED_S, "renewTime": _timestamp()}
            self._note(await self._client.replace(kinds.LEASE, lease, self._namespace))
        except KubeError as error:
            _log.warning("lease not given back, it runs out by itself", lease=self._name, reason=str(error))

    def _note(self, lease: Json) -> None:
        """Remember when the lease was last seen to change, and whose it is."""
        spec = lease.get("spec") or {}
        if spec != self._seen:
            self._seen, self._seen_at = dict(spec), self._clock()
        self._holder = str(spec.get("holderIdentity") or "")

    def _spec(self, *, acquired: str, renewed: str, transitions: int) -> Json:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration_s)),
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": transitions,
        }

    def _set(self, *, leads: bool) -> None:
        self.leads = leads
        _log.info("leading" if leads else "not leading any more", lease=self._name, identity=self._identity)
        self._on_change(leads)


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
