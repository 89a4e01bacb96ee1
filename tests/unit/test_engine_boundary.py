"""The engine as Python sees it: refusals, closing, forks, threads, descriptors."""

import os
import threading
import time
from pathlib import Path

import pytest

from meshapi import names
from meshapi.proto import engine_pb2, workload_pb2
from meshengine import ConfigRejected, Engine, EngineClosed


def started() -> Engine:
    return Engine(engine_pb2.EngineConfig(worker_threads=2).SerializeToString())


@pytest.fixture
def engine():
    made = started()
    yield made
    made.close()


def address(uid: str = "u", **fields: object) -> tuple[str, bytes]:
    workload = workload_pb2.Workload(uid=uid, namespace="shop", **fields)
    return uid, workload_pb2.Address(workload=workload).SerializeToString()


def test_a_refusal_names_type_resource_field_and_reason_and_keeps_the_rest(engine: Engine) -> None:
    bad = address("bad", addresses=[b"123"])
    with pytest.raises(ConfigRejected, match="bad: addresses: an address has 4 or 16 bytes, not 3") as refused:
        engine.apply(names.ADDRESS_TYPE, [address("good"), bad, ("junk", b"\xff")], [])
    assert refused.value.type_url == names.ADDRESS_TYPE
    assert [one.name for one in refused.value.rejected] == ["bad", "junk"]
    assert refused.value.rejected[0].field == "addresses"
    assert '"uid":"good"' in engine.dump("workloads")


def test_a_change_wakes_nobody(engine: Engine) -> None:
    """It is in force when the call returns, so there is nothing to wait for."""
    engine.apply(names.ADDRESS_TYPE, [address()], [])
    assert '"uid":"u"' in engine.dump("workloads")
    assert engine_pb2.EventBatch.FromString(engine.drain_events()) == engine_pb2.EventBatch()


def test_the_last_good_version_of_a_refused_resource_stays(engine: Engine) -> None:
    engine.apply(names.ADDRESS_TYPE, [address("u", addresses=[b"\x0a\x00\x00\x01"])], [])
    with pytest.raises(ConfigRejected):
        engine.apply(names.ADDRESS_TYPE, [address("u", addresses=[b"1"])], [])
    assert "10.0.0.1" in engine.dump("workloads")


def test_unknown_types_sections_and_messages_are_refused(engine: Engine) -> None:
    with pytest.raises(ConfigRejected, match=r"example\.com/Nothing"):
        engine.apply("example.com/Nothing", [], [])
    with pytest.raises(ValueError, match="secrets"):
        engine.dump("secrets")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="WorkloadRef"):
        engine.add_workload(b"\xff", 0)
    with pytest.raises(ConfigRejected, match="is not a workload identity"):
        engine.set_certificate("web", b"", b"")


def test_a_closed_engine_refuses_and_leaves_no_thread_and_no_descriptor() -> None:
    def threads() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    started().close()  # what the first one leaves behind for good (library state) is not a leak
    before = threads(), descriptors()
    for _ in range(100):
        engine = started()
        engine.close()
        engine.close()
        with pytest.raises(EngineClosed):
            engine.apply(names.ADDRESS_TYPE, [], [])
        del engine
    # Fewer is fine: other tests' libraries may close theirs meanwhile. A leak would show a hundred times.
    assert threads() <= before[0]
    assert descriptors() <= before[1]


def test_a_forked_child_cannot_use_the_handle(engine: Engine) -> None:
    child = os.fork()
    if child == 0:
        try:
            engine.connections()
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_calls_let_other_threads_run(engine: Engine) -> None:
    """A large update is decoded without the interpreter lock: another thread goes on meanwhile."""
    many = [address(f"u{number}", addresses=[number.to_bytes(4)], name=f"n{number}") for number in range(50_000)]
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    began = ticks
    engine.apply(names.ADDRESS_TYPE, many, [])
    during = ticks - began
    done.set()
    thread.join()
    assert during > 5


def test_leaving_the_block_closes_the_engine() -> None:
    with started() as engine:
        assert engine.connections() == 0
    with pytest.raises(EngineClosed):
        engine.drain(0)
