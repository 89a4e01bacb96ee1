"""The retrying work queue: every key is reconciled in the end."""

import asyncio

from controlplane.workqueue import WorkQueue
from meshkit.kube import Conflict, Unreachable
from meshkit.tasks import Backoff
from tests.support.waiting import until


def listed(*keys: str) -> WorkQueue[str]:
    work: WorkQueue[str] = WorkQueue("test", Backoff(first_s=0.01, cap_s=0.02))
    for key in keys:
        work.add(key)
    return work


async def test_a_failed_key_is_retried_and_does_not_delay_others() -> None:
    done: list[str] = []
    tries = {"bad": 3, "odd": 2, "late": 2}
    errors = {"bad": Unreachable("no"), "odd": ZeroDivisionError(), "late": Conflict(409, "", "", "")}

    async def work(key: str) -> None:
        if tries.get(key, 0) > 0:
            tries[key] -= 1
            raise errors[key]
        done.append(key)

    work_list = listed("bad", "odd", "late", "good", "good")
    task = asyncio.create_task(work_list.run(work))
    await until(lambda: len(done) == 4)
    assert done[0] == "good"
    assert sorted(done) == ["bad", "good", "late", "odd"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_cancelled_key_is_reconciled_by_the_next_run() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        if key == "b" and not done[1:]:
            done.append("b begun")
            await asyncio.Event().wait()
        done.append(key)

    work_list = listed("a", "b", "c")
    task = asyncio.create_task(work_list.run(work))
    await until(lambda: "b begun" in done)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(work_list) == 2
    task = asyncio.create_task(work_list.run(work))
    await until(lambda: set(done) >= {"a", "b", "c"})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
