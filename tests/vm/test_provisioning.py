"""The scripts that prepare the machines of ``vagrant/``, on a kernel of Debian's: all but the one that downloads."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import ROOT
from tests.vm import kernel, machine

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_LEFT = machine.EXCHANGE
_SCRIPT = f"""
set -e
ssh-keygen -q -t ed25519 -N "" -f /tmp/lab_key
for time in first second; do
  setup/node
  cp /tmp/lab_key /tmp/given; cp /tmp/lab_key.pub /tmp/given.pub
  HOME=/tmp/root vagrant/key /tmp/given
done
cmp /tmp/lab_key /tmp/root/.ssh/id_ed25519
cmp /tmp/lab_key.pub /tmp/root/.ssh/authorized_keys
ls /tmp/given* && exit 1
vagrant/culvert
cat /proc/mounts >{_LEFT}/mounts
cat /proc/modules >{_LEFT}/modules-loaded
cat /proc/sys/net/ipv4/ip_forward >{_LEFT}/forwarding
culvert check -o json >{_LEFT}/check.json || true
"""


def test_a_machine_is_prepared_twice_and_can_be_a_node(tmp_path: Path) -> None:
    done = machine.run(kernel.obtain(), _SCRIPT, tmp_path, cwd=ROOT, env={}, limit_s=240)
    print(f"the machine ran for {done.seconds:.0f} s")
    assert done.status == 0, f"{done.output}\n{done.console}"
    assert done.output.count("setup/node: ready") == 2
    mounted = {tuple(line.split()[1:3]) for line in (tmp_path / "mounts").read_text().splitlines()}
    assert {("/sys/fs/bpf", "bpf"), ("/sys/fs/cgroup", "cgroup2"), ("/sys/kernel/tracing", "tracefs")} <= mounted
    assert "nf_tables " in (tmp_path / "modules-loaded").read_text()
    assert (tmp_path / "forwarding").read_text() == "1\n"
    found: list[dict[str, Any]] = json.loads((tmp_path / "check.json").read_text())
    faults = [(one["area"], one["name"]) for one in found if one["level"] == "fault"]
    assert faults == [("cni", "configuration")], "what Kubernetes brings is missing, and nothing else"
