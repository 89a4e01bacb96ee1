"""One workload's connection limit always leaves descriptors for the others."""

import resource
import subprocess
import sys

from meshproxy import limits


def test_a_workload_gets_a_quarter_of_the_descriptors_at_most() -> None:
    assert limits.connections_per_workload(20_000, 1_048_576) == 20_000
    assert limits.connections_per_workload(20_000, 20_000) == 5_000
    assert limits.connections_per_workload(20_000, 2) == 1


def test_all_descriptors_that_may_be_had_are_taken() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = (
        "import resource; from meshproxy import limits;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (64, {most}));"
        "print(limits.raise_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.split() == [str(most), str(most)]
