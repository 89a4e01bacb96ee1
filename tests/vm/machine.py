"""A machine for one command. It sees this computer's files; what is written to them stays in the machine's memory.
A disk, where it is given one, keeps what is written to it for the next machine.

The processor is emulated, so it works where there is no virtualisation, and everything takes ten to twenty times as
long. There is no network. What the command leaves in ``EXCHANGE`` is in a folder of this computer afterwards. Processes
that are started here end here; if this process is killed, the kernel ends the machine.
"""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.vm import initramfs
from tests.vm.kernel import Kernel

EXCHANGE = Path("/run/exchange")
"""Where the machine sees the exchange folder."""
DISK = Path("/dev/vda")
"""Where the machine sees its disk, after ``modprobe virtio_blk``."""
_DISK_SIZE = "64M"
_MEMORY = "2G"
_PROCESSORS = 2
_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
_ARGUMENTS = (
    "console=ttyS0",
    "quiet",
    "panic=-1",  # and so, with -no-reboot, the end of the machine
    "tsc=reliable",  # the other clocks are emulated devices
    "mitigations=off",
    "norandmaps",  # translated code is found again by its address only
)
_END_S = 5.0
_LOOK_EVERY_S = 0.05


class MachineFailed(AssertionError):
    """The machine did not come to the command's end; the text has its console."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a command.

    Attributes:
        status: with which it ended.
        output: what it wrote.
        console: what the kernel wrote.
        seconds: from switching on to switching off.
    """

    status: int
    output: str
    console: str
    seconds: float


def disk(path: Path) -> Path:
    """Make an empty disk with a file system of the kind ext4."""
    subprocess.run(["mkfs.ext4", "-q", str(path), _DISK_SIZE], capture_output=True, check=True)
    return path


def run(
    kernel: Kernel, command: str, exchange: Path, *, cwd: Path, env: Mapping[str, str], limit_s: float,
    disk: Path | None = None,
) -> Done:  # fmt: skip
    """Boot, run a command of the shell, and switch off.

    Args:
        kernel: to boot.
        command: for the shell.
        exchange: a folder of this computer that both see; gets ``console``, ``output`` and ``status`` too.
        cwd: the folder of this computer in which it runs.
        env: what it finds in its environment besides this process's ``PATH`` and ``HOME``.
        limit_s: when the machine is switched off at the latest.
        disk: that it has.

    Raises:
        MachineFailed: it ended without the command's end, or not in time.
    """
    _prepare(kernel, command, exchange, cwd, env)
    began = time.monotonic()
    in_time = _boot(kernel, exchange, limit_s, disk)
    seconds = time.monotonic() - began
    status = _read(exchange / "status")
    if not in_time or not status:
        raise _failed(exchange, "ended without the command's end" if in_time else _late(limit_s))
    return Done(int(status), _read(exchange / "output"), _read(exchange / "console"), seconds)


def power_cut(
    kernel: Kernel, command: str, exchange: Path, *, cwd: Path, env: Mapping[str, str], limit_s: float,
    disk: Path, when: Callable[[], bool],
) -> float:  # fmt: skip
    """Boot, run a command as ``run`` does, and take its power away when a condition is true; return the seconds.

    Raises:
        MachineFailed: it ended by itself, or the condition was not true in time.
    """
    _prepare(kernel, command, exchange, cwd, env)
    began = time.monotonic()
    if _boot(kernel, exchange, limit_s, disk, when):
        raise _failed(exchange, "ended before its power was cut")
    if not when():
        raise _failed(exchange, _late(limit_s))
    return time.monotonic() - began


def _prepare(kernel: Kernel, command: str, exchange: Path, cwd: Path, env: Mapping[str, str]) -> None:
    for left in ("output", "status"):
        (exchange / left).unlink(missing_ok=True)
    given = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "LANG": "C.UTF-8", **env}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in given.items())
    (exchange / "command").write_text(f"{exports}cd {shlex.quote(str(cwd))} || exit\n{command}\n")
    (exchange / "modules").write_text(str(kernel.modules))
    (exchange / "sources").write_text(str(kernel.sources))


def _late(limit_s: float) -> str:
    return f"was switched off after {limit_s:.0f} s"


def _failed(exchange: Path, why: str) -> MachineFailed:
    logs = "\n".join(f"--- {name}:\n{_read(exchange / name)}" for name in ("console", "output"))
    return MachineFailed(f"the machine {why}\n{logs}")


def _boot(
    kernel: Kernel, exchange: Path, limit_s: float, disk: Path | None, cut: Callable[[], bool] = lambda: False
) -> bool:
    """Return whether it ended by itself."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory(prefix="vm")))
        (place / "initramfs").write_bytes(initramfs.build(kernel))
        shares = [
            # The host's files do not change for the guest's kernel, so it need not revalidate them.
            *stack.enter_context(_shared("host", Path("/"), place, cache="always")),
            *stack.enter_context(_shared("exchange", exchange, place, cache="none")),
        ]
        machine = stack.enter_context(_started([
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(_PROCESSORS),
            "-machine", "q35,memory-backend=memory", "-m", _MEMORY,
            "-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on",
            "-no-user-config", "-nodefaults", "-nic", "none", "-display", "none", "-no-reboot",
            "-serial", f"file:{exchange / 'console'}",
            "-kernel", str(kernel.image), "-initrd", str(place / "initramfs"), "-append", " ".join(_ARGUMENTS),
            *shares, *_drive(disk),
        ], place / "qemu.log"))  # fmt: skip
        try:
            deadline = time.monotonic() + limit_s
            while machine.poll() is None:
                if cut() or time.monotonic() > deadline:
                    machine.kill()  # nothing in the machine has time for anything
                    return False
                time.sleep(_LOOK_EVERY_S)
        finally:
            with (exchange / "console").open("a") as console:
                console.writelines(_read(log) for log in sorted(place.glob("*.log")))
    return True


def _drive(disk: Path | None) -> list[str]:
    return [] if disk is None else ["-drive", f"file={disk},format=raw,if=virtio"]


@contextmanager
def _shared(tag: str, folder: Path, place: Path, *, cache: str) -> Iterator[list[str]]:
    """Share a folder under a name; yields the machine's device for it."""
    path = place / f"{tag}.socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        served = [_VIRTIOFSD, "-f", f"--fd={listener.fileno()}", "-o", "sandbox=chroot", "-o", f"cache={cache}"]
        argv = [*served, "-o", f"source={folder}", "-o", "log_level=warn"]
        with _started(argv, place / f"{tag}.log", pass_fds=[listener.fileno()]):
            device = f"vhost-user-fs-pci,chardev={tag},tag={tag}"
            yield ["-chardev", f"socket,id={tag},path={path}", "-device", device]


@contextmanager
def _started(argv: list[str], log: Path, pass_fds: list[int] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside this one; it ends with the block, or with this process."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=pass_fds or [],
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
