"""What process 1 of a machine reports to its parent."""

import subprocess
import sys

SLOW_TO_SAY_ITS_PID = """
import time
from meshlab.machines import init

say = init._say

def slow(line):
    if line.isdigit():
        time.sleep(0.3)
    say(line)

init._say = slow
init._become_process_1()
slow(init.READY)
"""


def test_a_machine_is_ready_only_after_its_pid_was_said() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_TO_SAY_ITS_PID], capture_output=True, text=True, timeout=20, check=True
    )
    pid, ready = done.stdout.split()
    assert pid.isdigit()
    assert ready == "ready"
