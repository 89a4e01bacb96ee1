"""What a process holds after its start."""

import subprocess
import sys

HOLES = """
import gc
from meshkit.linux import memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

blocks = [bytearray(100_000) for _ in range(400)]
last = blocks[-1]
del blocks
before = resident()
memory.settle()
print(before - resident(), gc.get_freeze_count())
"""


def test_what_was_freed_below_what_is_held_goes_back_to_the_kernel() -> None:
    freed, frozen = map(int, subprocess.check_output([sys.executable, "-c", HOLES], text=True).split())
    assert freed > 30_000_000
    assert frozen > 1_000
