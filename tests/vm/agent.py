"""What a node agent finds at its start on a node that has loaded no module for it, with no more than its container has.

Its container has no modprobe and the chart's capabilities; what it needs of modules, the kernel itself must load.
"""

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from meshapi import names
from meshkit.linux import netns
from nodeagent.capture.choice import NoBackend, Wanted, choose
from nodeagent.capture.egress_filter import EgressFilter
from tests.support.lab import ROOT
from tests.vm import machine

_TEMPLATE = ROOT / "deploy" / "helm" / "culvert" / "templates" / "node-agent.yaml"
_FILE = machine.EXCHANGE / "agent.json"


@dataclass(frozen=True, slots=True)
class Found:
    """The agent's choice, as it logs it.

    Attributes:
        how: captured pods' rules get into the kernel.
        why: this way.
        unguarded: why pods have no guard.
        others: the other ways that work.
        not_ebpf: why the backend ebpf does not work; empty where it does.
        no_egress: why pods cannot be confined to the registry; empty where they can.
    """

    how: str
    why: str
    unguarded: str
    others: list[str]
    not_ebpf: str
    no_egress: str


def command() -> str:
    """Return the command that finds it out."""
    modprobe = Path(shutil.which("modprobe") or "/sbin/modprobe").resolve()
    wanted = ",".join(f"+{name.lower()}" for name in _capabilities())
    program = shlex.join(["setpriv", f"--bounding-set=-all,{wanted}", sys.executable, "-m", __name__])
    # In a mount namespace of its own, so that the kernel, when it starts modprobe, still finds it.
    inside = f"mount --bind /dev/null {modprobe} && exec {program}"
    return f"unshare --mount sh -c {shlex.quote(inside)}"


def found(exchange: Path) -> Found:
    """Return what it has found."""
    return Found(**json.loads((exchange / _FILE.name).read_text()))


def _capabilities() -> list[str]:
    line = next(line for line in _TEMPLATE.read_text().splitlines() if line.strip().startswith("add: {{"))
    # On Linux 5.10 with what the chart's values say of it.
    extra = ["SYS_RESOURCE"] if os.environ.get("CULVERT_VM_DEBIAN") == "bullseye" else []
    return re.findall('"([A-Z_]+)"', line) + extra


def _main() -> None:
    with TemporaryDirectory() as folder:
        lock = Path(folder) / "lock"
        choice = choose(Wanted.AUTO, lock)
        not_ebpf = ""
        try:
            ebpf = choose(Wanted.EBPF, lock, pins=Path(names.BPF_PINS)).ebpf
        except NoBackend as error:
            not_ebpf = str(error)
        else:
            if ebpf is not None:
                ebpf.node.uninstall()
    no_egress = ""
    egress = EgressFilter(Path(names.BPF_PINS_MOUNTED).with_name("culvert-test-egress"))
    try:
        netns.scratch(egress.attach)
    except OSError as error:
        no_egress = str(error)
    egress.uninstall()
    others = [other.pods.how for other in choice.others]
    seen = Found(choice.backend.pods.how, choice.why, choice.unguarded, others, not_ebpf, no_egress)
    _FILE.write_text(json.dumps(asdict(seen)))


if __name__ == "__main__":
    _main()
