"""What the repair of rules leaves behind. What it repairs is tested in real namespaces."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

from nodeagent.capture.host_probes import ProbeExemption
from nodeagent.capture.repair import Repairs
from nodeagent.enrolment.captured import Enrolled
from nodeagent.enrolment.locks import PodLocks


async def test_a_subscription_that_is_being_opened_at_the_end_is_closed() -> None:
    opening, opened, closed = threading.Event(), threading.Event(), []

    def watch(_: Path) -> object:
        opening.set()
        assert opened.wait(5)
        return SimpleNamespace(close=lambda: closed.append("closed"))

    probes = SimpleNamespace(watch=watch)
    exemption = ProbeExemption(probes, Path("/proc/1/ns/net"), frozenset)  # type: ignore[arg-type]
    repairs = Repairs(SimpleNamespace(), Enrolled(), exemption, PodLocks().of)  # type: ignore[arg-type]
    task = asyncio.create_task(repairs.run())
    assert await asyncio.to_thread(opening.wait, 5)
    task.cancel()
    await asyncio.sleep(0)
    opened.set()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert closed == ["closed"]
