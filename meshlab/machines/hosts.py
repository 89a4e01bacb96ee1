"""Machines that exist already, with kernels of their own: virtual machines or computers, reached by SSH as root.

They have Debian's packages for nodes (``setup/node`` installs them) and nothing of Kubernetes. Services are started
without the machine's init system. What a lab leaves there: processes whose numbers are in ``/run/culvert-lab``, logs in
``/var/log/culvert-lab``, Kubernetes' and containerd's own folders, the network plugins' configuration and links to
them, routes to the other hosts' pods, and copies of programs and images in the cache. ``release`` ends the processes
and removes all but the links and the copies.
"""

import io
import shlex
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshlab.components import node
from meshlab.errors import ComponentFailed
from meshlab.machines.machine import File, Output, Service
from meshlab.plan import MachinePlan

RUN: Final = "/run/culvert-lab"
LOGS: Final = "/var/log/culvert-lab"
_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
_COPY_TIMEOUT_S: Final = 600.0
_CONNECT_TIMEOUT_S: Final = 60.0
# The shell notes its own number and becomes the service: `$1` is the file for the number, `$2` the log.
_START: Final = """mkdir -p "${1%/*}" "${2%/*}"
setsid sh -c 'echo $$ >"$1"; log=$2; shift 2; exec "$@" >>"$log" 2>&1' sh "$@" </dev/null >/dev/null 2>&1 &"""
_RUNNING: Final = """for file in "$1"/*; do [ -e "$file" ] || continue; read -r pid <"$file"
[ -d "/proc/$pid" ] && state=1 || state=0; echo "${file##*/} $state"; done"""
# Aside, then renamed: a copy that was cut off must not be taken for the whole.
_RECEIVE: Final = (
    'rm -rf "$1.part" && mkdir -p "$1.part" && tar -xf - -C "$1.part" && mv "$1.part/$2" "$1" && rmdir "$1.part"'
)
# The folder of logs says that a lab has taken the machine: without it, `down` must not touch what others have there.
_TAKE: Final = f"""
[ ! -d {LOGS} ] || exit 0
if pgrep -x containerd >/dev/null; then echo "containerd runs there already" >&2; exit 1; fi
if [ -n "$(find /etc/kubernetes /var/lib/kubelet -mindepth 1 -print -quit 2>/dev/null)" ]; then
echo "Kubernetes is there already" >&2; exit 1; fi
mkdir -p {LOGS}
"""
# Containers have their own sessions and cgroups, so they are ended by cgroup; their mounts keep folders from going. A
# folder may be a mount of the host's own, so it is emptied.
_RELEASE: Final = f"""
[ -d {LOGS} ] || exit 0
for file in {RUN}/*/*; do [ -e "$file" ] || continue; read -r pid <"$file"; kill -KILL "-$pid" 2>/dev/null; done
root=$(awk '$3 == "cgroup2" {{ print $2; exit }}' /proc/mounts)
if [ -e "$root/kubepods/cgroup.kill" ]; then echo 1 >"$root/kubepods/cgroup.kill"
else find "$root/kubepods" -name cgroup.procs -exec cat {{}} + 2>/dev/null | xargs -r kill -KILL; fi
for each in /proc/[0-9]*; do case $(readlink "$each/exe") in */containerd-shim*) kill -KILL "${{each##*/}}";; esac; done
awk '$2 ~ "^(/var/lib/kubelet|/run/containerd)/" {{ print $2 }}' /proc/mounts | tac | xargs -r umount -l
for each in $(ip netns list | awk '/^cni-/ {{ print $1 }}'); do ip netns delete "$each"; done
nft delete table ip kube-proxy 2>/dev/null; nft delete table ip6 kube-proxy 2>/dev/null
for each in "$@"; do ip route delete "$each" 2>/dev/null; done
for each in {RUN} {LOGS} /etc/kubernetes /run/containerd /var/lib/etcd /var/lib/kubelet /var/lib/cni \
/var/lib/containerd; do [ ! -d "$each" ] || find "$each" -xdev -mindepth 1 -delete; done
rm -f {node.CNI_CONFIG}
rm -rf {RUN} {LOGS}
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that exists already; see ``machine.Machine``.

    Attributes:
        plan: what it is for the lab.
        logs: folder of this computer for copies of its logs.
        sockets: folder of this computer for what connections share; removed with the lab.
    """

    plan: MachinePlan
    logs: Path
    sockets: Path

    @property
    def name(self) -> str:
        """What the lab calls it."""
        return self.plan.name

    def write(self, files: Sequence[File]) -> None:
        """Write files, with the folders above them."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file in files:
                entry = tarfile.TarInfo(file.path.lstrip("/"))
                entry.size, entry.mode = len(file.content), file.mode
                tar.addfile(entry, io.BytesIO(file.content))
        self._checked(["tar", "-xpf", "-", "-C", "/", "--no-same-owner"], content=archive.getvalue())

    def provide(self, path: Path) -> None:
        """Copy a file or folder of this computer's cache to the machine, at the same path, unless it is there."""
        if self.run(["test", "-e", str(path)]).status == 0:
            return
        with subprocess.Popen(["tar", "-cf", "-", "-C", str(path.parent), path.name], stdout=subprocess.PIPE) as packed:
            receive = self._ssh(["sh", "-c", _RECEIVE, "sh", str(path), path.name])
            done = subprocess.run(
                receive, stdin=packed.stdout, stderr=subprocess.PIPE, text=True, timeout=_COPY_TIMEOUT_S, check=False
            )
        if done.returncode or packed.returncode:
            raise ComponentFailed(f"{self.name} cannot take over {path}: {done.stderr.strip()}")

    def link(self, folder: str, targets: Sequence[str]) -> None:
        """Put symbolic links to ``targets`` into a folder, under their own names."""
        self._checked(["mkdir", "-p", folder])
        self._checked(["ln", "-sfn", "-t", folder, *targets])

    def run(self, argv: Sequence[str], *, timeout_s: float = 60.0) -> Output:
        """Run a program to its end; standard output and error come together."""
        done = subprocess.run(
            self._ssh(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
        return Output(done.returncode, done.stdout.decode(errors="replace"))

    def start(self, service: Service) -> None:
        """Start a service; its output goes to a file of the machine, which ``log`` copies."""
        environment = ["env", *(f"{key}={value}" for key, value in service.environment.items())]
        files = [f"{RUN}/{self.name}/{service.name}", self._log(service.name)]
        self._checked(["sh", "-c", _START, "sh", *files, *environment, *service.argv])

    def running(self) -> Mapping[str, bool]:
        """Say which of the started services are still there."""
        lines = self._checked(["sh", "-c", _RUNNING, "sh", f"{RUN}/{self.name}"]).splitlines()
        return {name: state == "1" for name, state in sorted(line.split() for line in lines)}

    def log(self, service: str) -> Path:
        """Copy the log file of a service to this computer, and return the copy."""
        copy = self.logs / f"{self.name}-{service}.log"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(self.run(["cat", self._log(service)]).text)
        return copy

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` on the machine from a terminal of this computer."""
        return self._ssh(argv, options=["-t"])

    def connect(self) -> None:
        """Take the machine, and make what it needs for this lab: forwarding, and routes to the other machines' pods.

        Raises:
            ComponentFailed: it cannot be reached, lacks something, or is used already; the message is the machine's.
        """
        self._checked(["sh", "-c", _TAKE])
        self._checked(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
        for network, gateway in self.plan.routes:
            self._checked(["ip", "route", "replace", str(network), "via", str(gateway)])

    def release(self) -> None:
        """End and remove what a lab left on the machine. Twice is as good as once.

        Raises:
            ComponentFailed: it cannot be reached.
        """
        self._checked(["sh", "-c", _RELEASE, "sh", *(str(network) for network, _ in self.plan.routes)])

    def _log(self, service: str) -> str:
        return f"{LOGS}/{self.name}/{service}.log"

    def _checked(self, argv: Sequence[str], *, content: bytes = b"") -> str:
        done = subprocess.run(
            self._ssh(argv), input=content, capture_output=True, timeout=_CONNECT_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise ComponentFailed(f"{argv[0]} on {self.name} ({self.plan.address}) fails: {said}")
        return done.stdout.decode(errors="replace")

    def _ssh(self, argv: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """Connections to a machine share one, so a command costs milliseconds. SSH's own configuration is honoured."""
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ControlMaster": "auto",
            "ControlPath": f"{self.sockets}/%C",
            "ControlPersist": "60",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": f"{self.sockets}/known_hosts",
        }
        given = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        line = shlex.join(["env", *(f"{key}={value}" for key, value in _ENVIRONMENT.items()), *argv])
        return ["ssh", *given, *options, f"root@{self.plan.address}", "--", line]


def find(plan: MachinePlan, *, state: Path) -> Host:
    """Return a machine, without asking whether it answers."""
    sockets = state / "ssh"
    sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Host(plan, state / "logs", sockets)
