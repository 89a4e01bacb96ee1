"""What is remembered of a lab: one folder, ``$XDG_STATE_HOME/culvert/lab/<name>`` (or below ``~/.local/state``).

::

    lab.json      the options, and whether it came up
    kubeconfig    of the lab's admin, mode 0600
    pki/          certificates of the admin
    logs/         one file for each service of each machine
    machines/     files of the machines

The record is written before anything is made, so that ``down`` knows what to look for after a crash.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from meshkit import files
from meshlab import plan
from meshlab.errors import LabError
from meshlab.plan import LabPlan


@dataclass(frozen=True, slots=True)
class Record:
    """The options of a lab, and whether it came up.

    Attributes:
        hosts: addresses of the machines that it runs on; none: machines made of namespaces of this computer.
    """

    name: str
    slot: int
    nodes: int
    dual_stack: bool
    complete: bool = False
    hosts: tuple[str, ...] = ()

    @property
    def plan(self) -> LabPlan:
        """Return the plan, which follows from the record."""
        if self.hosts:
            return plan.plan_on_hosts(self.name, slot=self.slot, hosts=[IPv4Address(host) for host in self.hosts])
        return plan.plan(self.name, slot=self.slot, nodes=self.nodes, dual_stack=self.dual_stack)


def root() -> Path:
    """Return the folder of all labs."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "culvert" / "lab"


def folder(name: str) -> Path:
    """Return the folder of a lab."""
    return root() / name


def kubeconfig(name: str) -> Path:
    """Return the kubeconfig of a lab's admin."""
    return folder(name) / "kubeconfig"


def load(name: str) -> Record | None:
    """Return the record of a lab, or None if there is none."""
    try:
        fields = json.loads((folder(name) / "lab.json").read_text())
    except FileNotFoundError:
        return None
    return Record(**{**fields, "hosts": tuple(fields.get("hosts", ()))})


def begin(name: str, *, nodes: int, dual_stack: bool, hosts: Sequence[str] = ()) -> Record:
    """Record a new lab under the first free slot.

    Raises:
        LabError: there are too many labs, or the name or size cannot be.
    """
    with locked(".slots"):
        taken = {record.slot for record in all_records()}
        free = [slot for slot in range(plan.SLOTS) if slot not in taken]
        if not free:
            raise LabError(f"there are {plan.SLOTS} labs already; take one down")
        record = Record(name=name, slot=free[0], nodes=nodes, dual_stack=dual_stack, hosts=tuple(hosts))
        _ = record.plan  # refuses what cannot be before anything is written
        shutil.rmtree(folder(name), ignore_errors=True)  # a power cut can leave it without a record
        folder(name).mkdir(mode=0o700)
        _write(record)
        files.keep_names(root())
    return record


def complete(record: Record) -> None:
    """Note that a lab came up."""
    _write(replace(record, complete=True))


def forget(name: str) -> None:
    """Remove the folder of a lab."""
    (folder(name) / "lab.json").unlink()  # first: what is left of a folder is no lab
    files.keep_names(folder(name))
    shutil.rmtree(folder(name), ignore_errors=False)


def all_records() -> list[Record]:
    """Return the records of all labs, by name."""
    names = sorted(entry.name for entry in root().iterdir() if entry.is_dir()) if root().is_dir() else []
    return [record for name in names if (record := load(name))]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of a lab: one ``up`` or ``down`` at a time."""
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(record: Record) -> None:
    files.replace(folder(record.name) / "lab.json", json.dumps(asdict(record)).encode())
