"""What can be read on the cables between the nodes of a lab, with tcpdump."""

import json
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from meshlab import lab
from meshlab.errors import LabError
from meshlab.machines.machine import Machine

_SYN = re.compile(r"IP (\d+\.\d+\.\d+\.\d+)\.\d+ > (\d+\.\d+\.\d+\.\d+)\.(\d+): Flags \[S\]")
_HTTP = re.compile(r"^.*(GET|POST) /\S* HTTP/1\.1|HTTP/1\.1 \d{3}")
_PODS = "10.244.0.0/16"
# Signals do not reach what runs on a machine; the end of the input does.
_UNTIL_END_OF_INPUT = '"$@" & cat >/dev/null; kill $!; wait'


class NoCapture(Exception):
    """tcpdump does not run."""


class Watched:
    """What went by: filled when the watching ends."""

    def __init__(self) -> None:
        self.http = 0
        self.tunnel_bytes = 0
        self._syns: Counter[tuple[str, str, int]] = Counter()

    def read(self, text: str) -> None:
        """Take tcpdump's text."""
        for line in text.splitlines():
            if found := _SYN.search(line):
                self._syns[found[1], found[2], int(found[3])] += 1
            self.http += bool(_HTTP.search(line))
            if re.search(r"\.15008[: ]", line) and (length := re.search(r"length (\d+)", line)):
                self.tunnel_bytes += int(length[1])

    def connections(self) -> dict[tuple[str, str, int], int]:
        """Return how many connections were opened, by source address, destination address and port."""
        return dict(self._syns)


@contextmanager
def watch(name: str) -> Iterator[Watched]:
    """Watch the first node's cable while the context is open: what goes to or comes from other nodes."""
    try:
        node = lab.existing(name).plan.nodes[0]
        machine = lab.machine(name, node.name)
    except LabError as error:
        raise NoCapture(str(error)) from error
    link = _link_of(machine, str(node.address))
    expression = f"tcp and src net {_PODS} and dst net {_PODS}"
    result = Watched()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        argv = ["tcpdump", "-i", link, "-n", "-A", "-U", "-s", "256", "--immediate-mode", expression]
        command = machine.command(["sh", "-c", _UNTIL_END_OF_INPUT, "sh", *argv])
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, text=True)
        while "listening on" not in (line := process.stderr.readline() if process.stderr else ""):
            if not line:
                raise NoCapture("tcpdump ended at once; run setup/system")
        try:
            yield result
        finally:
            time.sleep(0.3)  # what is on its way to tcpdump has no event to wait for
            process.communicate(timeout=10)
            output.seek(0)
            result.read(output.read())


def _link_of(machine: Machine, address: str) -> str:
    """Return the link of a machine that has an address: its end of the cable."""
    links = json.loads(machine.run(["ip", "-json", "address"]).text)
    for link in links:
        if any(each.get("local") == address for each in link["addr_info"]):
            return str(link["ifname"])
    raise NoCapture(f"no link of {machine.name} has the address {address}")
