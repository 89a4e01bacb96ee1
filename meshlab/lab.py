"""Labs as the command line sees them: up, down, what is there. Wires plan, machines and cluster together."""

import datetime
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from meshkit import files
from meshlab import cluster, images, programs, requirements, state
from meshlab.addons import Addon
from meshlab.api import Api
from meshlab.cluster import Cluster, Programs
from meshlab.components import credentials
from meshlab.components.credentials import Credentials
from meshlab.errors import LabError
from meshlab.images import Archive
from meshlab.machines import hosts, namespaces
from meshlab.machines.machine import Machine
from meshlab.plan import API_PORT, LabPlan, MachinePlan
from meshlab.progress import Progress
from meshlab.state import Record

MakeImage = Callable[[programs.Say], Archive]


class Change(Enum):
    """Whether a command did anything."""

    MADE = "made"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """One machine: its services (None if it does not run), and whether its node is ready (None without a node)."""

    name: str
    services: dict[str, bool] | None
    ready: bool | None


def up(
    name: str,
    *,
    nodes: int,
    dual_stack: bool,
    progress: Progress,
    extra: Sequence[MakeImage] = (),
    on_hosts: Sequence[str] = (),
) -> Change:
    """Bring a lab up; what is up already stays as it is.

    Args:
        extra: images to build beside the start and to load into every node, as ``images.samples``.
        on_hosts: addresses of machines that exist already, one for each node; none: machines made of namespaces.

    Raises:
        LabError: what is missing or failed; nothing of a lab that failed half-way is taken down, so that it can be
            looked at, and ``down`` removes it.
    """
    requirements.check()
    with state.locked(name):
        before = state.load(name)
        if before is not None:
            return _keep(before, nodes=nodes, dual_stack=dual_stack, on_hosts=on_hosts)
        with ThreadPoolExecutor(max_workers=4) as pool:
            # Images and programs first: a build that fails leaves nothing behind.
            archives = [pool.submit(make, progress.say) for make in (images.pause, images.coredns)]
            kubernetes = programs.kubernetes(progress.say)
            needed = [archive.result() for archive in archives]
            record = state.begin(name, nodes=nodes, dual_stack=dual_stack, hosts=on_hosts)
            building = [pool.submit(make, progress.say) for make in extra]
            machines = _make(record, kubernetes, needed, progress)
            if building:
                with progress.step("more images loaded"):
                    cluster.load_everywhere(machines, [archive.result() for archive in building])
        state.complete(record)
    return Change.MADE


def down(name: str, *, progress: Progress) -> Change:
    """Remove a lab and everything that it left, however far it had come.

    Raises:
        LabError: a host of the lab could not be freed; the lab is forgotten all the same.
    """
    requirements.check_root()
    with state.locked(name):
        record = state.load(name)
        if record is None:
            return Change.NOTHING
        lab = record.plan
        with progress.step(f"lab {name} is gone"):
            if not record.hosts:
                namespaces.destroy(name, lab.bridge, [machine.name for machine in lab.machines])
            left = _release(record) if record.hosts else []
            state.forget(name)
    if left:
        raise LabError(f"lab {name} is forgotten, but not removed from all of its hosts: {'; '.join(left)}")
    return Change.MADE


def status(name: str) -> list[MachineStatus]:
    """Return how the machines of a lab are.

    Raises:
        LabError: there is no such lab, or its API server does not answer.
    """
    record = existing(name)
    lab = record.plan
    try:
        ready = set(cluster.ready_nodes(_api(lab)))
    except LabError:
        ready = set()
    found = []
    for plan in lab.machines:
        machine = _find(record, plan)
        services = dict(machine.running()) if machine else None
        found.append(MachineStatus(plan.name, services, plan.name in ready if plan in lab.nodes else None))
    return found


def machine(name: str, machine_name: str) -> Machine:
    """Return a running machine of a lab.

    Raises:
        LabError: there is no such lab or machine, or it does not run.
    """
    record = existing(name)
    lab = record.plan
    for plan in lab.machines:
        if plan.name == machine_name:
            found = _find(record, plan)
            if found is None:
                raise LabError(f"machine {machine_name} of lab {name} does not run: `culvert lab down`, then `up`")
            return found
    known = ", ".join(plan.name for plan in lab.machines)
    raise LabError(f"lab {name} has no machine {machine_name}; it has {known}")


def load_images(name: str, archives: Sequence[Archive]) -> None:
    """Load images into every node of a lab."""
    nodes = [machine(name, plan.name) for plan in existing(name).plan.nodes]
    cluster.load_everywhere(nodes, archives)


def add(name: str, what: str, addon: Addon, *, progress: Progress) -> str:
    """Add something to a lab, or bring it up to date.

    Returns:
        A URL at which this computer reaches it; empty for an addon without a Service.

    Raises:
        LabError: there is no such lab, or the addon does not come up.
    """
    record = existing(name)
    api = _api(record.plan)
    resources = list(addon.resources(record.plan))
    load_images(name, [addon.image(progress.say)])
    with progress.step(f"{what} runs in lab {name}"):
        for resource in resources:
            api.apply(resource)
            if resource["kind"] == "CustomResourceDefinition":
                cluster.wait_for_definition(api, resource)
        for workload, kind in addon.workloads.items():
            cluster.wait_for_rollout(api, kind, addon.namespace, workload)
    if not addon.port:
        return ""
    service = api.read(f"/api/v1/namespaces/{addon.namespace}/services/{what}")
    return f"http://{record.plan.nodes[0].address}:{service['spec']['ports'][0]['nodePort']}"


def existing(name: str) -> Record:
    """Return the record of a lab.

    Raises:
        LabError: there is none.
    """
    record = state.load(name)
    if record is None:
        raise LabError(f"there is no lab {name}: `culvert lab up --name {name}` makes it")
    return record


def logs(name: str) -> list[str]:
    """Return the names of a lab's logs, as ``node1-kubelet``; their files are in the lab's folder afterwards.

    Raises:
        LabError: there is no such lab, or one of its hosts does not answer.
    """
    record = existing(name)
    if record.hosts:
        for plan in record.plan.machines:
            host = hosts.find(plan, state=state.folder(name))
            for service in host.running():
                host.log(service)
    return sorted(path.stem for path in (state.folder(name) / "logs").glob("*.log"))


def _find(record: Record, plan: MachinePlan) -> Machine | None:
    folder = state.folder(record.name)
    if record.hosts:
        return hosts.find(plan, state=folder)
    return namespaces.find(record.plan, plan, state=folder)


def _release(record: Record) -> list[str]:
    """Free the hosts of a lab; return what went wrong, as with a host that is gone."""
    found = [hosts.find(node, state=state.folder(record.name)) for node in record.plan.nodes]
    with ThreadPoolExecutor(max_workers=len(found)) as pool:
        releasing = [pool.submit(host.release) for host in found]
    return [str(error) for each in releasing if (error := each.exception())]


def _keep(record: Record, *, nodes: int, dual_stack: bool, on_hosts: Sequence[str]) -> Change:
    down_command = f"`culvert lab down --name {record.name}`"
    if not record.complete:
        raise LabError(f"lab {record.name} did not come up the last time: {down_command} removes it")
    if (record.nodes, record.dual_stack, record.hosts) != (nodes, dual_stack, tuple(on_hosts)):
        raise LabError(f"lab {record.name} is up with other options; {down_command} removes it")
    lab = record.plan
    dead = [plan.name for plan in lab.machines if not _find(record, plan)]
    if dead:
        raise LabError(f"lab {record.name} has dead machines ({', '.join(dead)}): {down_command} removes it")
    return Change.NOTHING


def _make(record: Record, kubernetes: Path, archives: Sequence[Archive], progress: Progress) -> Sequence[Machine]:
    """Make a lab and return its nodes."""
    lab, folder = record.plan, state.folder(record.name)
    secrets = credentials.issue(lab, now=datetime.datetime.now(datetime.UTC))
    _write_admin(lab, secrets, folder)
    machines = _hosts(record, progress) if record.hosts else _namespaces(lab, folder, progress)
    kubernetes_cluster = Cluster(
        lab,
        control_machine=machines[lab.control.name],
        nodes={plan.name: machines[plan.name] for plan in lab.nodes},
        programs=Programs(kubernetes, shutil.which("containerd") or "containerd", requirements.cni_folder()),
        api=_api(lab),
        progress=progress,
    )
    _start(kubernetes_cluster, lab, secrets, archives, progress)
    return [machines[plan.name] for plan in lab.nodes]


def _namespaces(lab: LabPlan, folder: Path, progress: Progress) -> dict[str, Machine]:
    with progress.step(f"network {lab.bridge_interfaces[0].network} and {len(lab.machines)} machines"):
        namespaces.connect(lab)
        with ThreadPoolExecutor(max_workers=len(lab.machines)) as pool:
            booting = {plan.name: pool.submit(namespaces.boot, lab, plan, state=folder) for plan in lab.machines}
            return {name: machine.result() for name, machine in booting.items()}


def _hosts(record: Record, progress: Progress) -> dict[str, Machine]:
    found = {plan.name: hosts.find(plan, state=state.folder(record.name)) for plan in record.plan.machines}
    with progress.step(f"{len(record.hosts)} hosts reached"), ThreadPoolExecutor(max_workers=len(found)) as pool:
        _finish([pool.submit(host.connect) for host in found.values()])
    return dict(found)


def _start(
    kubernetes: Cluster, lab: LabPlan, secrets: Credentials, archives: Sequence[Archive], progress: Progress
) -> None:
    lower_oom_score = requirements.may_lower_oom_score()
    kubernetes.start_control_plane(secrets)

    def prepare(name: str) -> None:
        kubernetes.prepare_node(name, secrets, images=lambda: archives, lower_oom_score=lower_oom_score)

    with ThreadPoolExecutor(max_workers=len(lab.nodes)) as pool:
        preparing = [pool.submit(prepare, plan.name) for plan in lab.nodes]
        with progress.step("API server ready"):
            kubernetes.wait_for_api()
        with progress.step("container runtimes ready, images loaded"):
            _finish(preparing)
    with progress.step("nodes ready"):
        kubernetes.start_the_rest()
        kubernetes.wait_for_nodes()
    with progress.step("name server ready"):
        kubernetes.wait_for_dns()


def _finish(work: Sequence[Future[None]]) -> None:
    for each in work:
        each.result()


def _write_admin(lab: LabPlan, secrets: Credentials, folder: Path) -> None:
    pki = folder / "pki"
    pki.mkdir(mode=0o700)
    files.replace(pki / "ca.crt", secrets.authority.pair.certificate)
    files.replace(pki / "admin.crt", secrets.admin.certificate)
    files.replace(pki / "admin.key", secrets.admin.key, mode=0o600)
    files.replace(folder / "kubeconfig", credentials.admin_kubeconfig(lab, secrets), mode=0o600)


def _api(lab: LabPlan) -> Api:
    pki = state.folder(lab.name) / "pki"
    return Api(
        host=str(lab.control.address),
        port=API_PORT,
        ca=pki / "ca.crt",
        certificate=pki / "admin.crt",
        key=pki / "admin.key",
    )
