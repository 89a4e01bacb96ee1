"""Which exits restart the child, and which do not. With real processes."""

import os
import signal
import subprocess
import sys

import pytest

from meshkit.process import CRASHED
from meshproxy.supervisor import Crashes
from tests.support.lab import ROOT

PROGRAM = """
import os, signal, sys, time
from meshkit import log
from meshproxy.supervisor import supervise

log.configure()

def serve(crashes):
    print(f"child {crashes}", flush=True)
    %s

sys.exit(supervise(serve))
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM % body], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_childs_own_exit_status_is_passed_on(status: int) -> None:
    done = run(f"return {status}")
    assert (done.returncode, done.stdout) == (status, "child 0\n")


@pytest.mark.parametrize("crash", [f"return {CRASHED}", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
def test_a_crash_starts_a_new_child_that_is_notified_of_it(crash: str) -> None:
    done = run(f"if crashes < 2:\n        {crash}\n    return 0")
    assert (done.returncode, done.stdout) == (0, "child 0\nchild 1\nchild 2\n")
    assert done.stderr.count("crashed, starting again") == 2


def test_repeated_crashes_end_the_container() -> None:
    done = run(f"return {CRASHED}")
    assert done.returncode == CRASHED
    assert done.stdout.splitlines()[-1] == "child 5"
    assert "crashed too often" in done.stderr


def test_old_crashes_do_not_count() -> None:
    now = [0.0]
    crashes = Crashes(lambda: now[0], burst=2, window_s=60)
    assert crashes.again()
    now[0] = 50
    assert crashes.again()
    assert not crashes.again()
    now[0] = 61
    assert crashes.again()
    assert crashes.count == 3


def test_a_signal_is_forwarded() -> None:
    body = "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n    print('ready', flush=True)\n    time.sleep(20)"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM % body], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    with process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["child 0\n", "ready\n"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7
