"""Bring a cluster up on machines: what runs where and in which order. Does not know what a machine is made of.

Order, so that no step waits for one that has not been started: etcd and the API server at once (the server waits for
etcd by itself), container runtimes and images meanwhile; with the API ready, controllers, kubelets, kube-proxies and
add-ons.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from meshapi import names
from meshlab import run
from meshlab.api import Api, Resource, resource_path
from meshlab.components import control, credentials, dns, node
from meshlab.components.credentials import Credentials
from meshlab.errors import ComponentFailed
from meshlab.images import Archive
from meshlab.machines.machine import Machine
from meshlab.plan import LabPlan
from meshlab.progress import Progress

_API_TIMEOUT_S = 90.0
_NODES_TIMEOUT_S = 90.0
_IMPORT_TIMEOUT_S = 300.0
_DEPLOYMENT_TIMEOUT_S = 120.0
_DEFINITION_TIMEOUT_S = 20.0
_POLL_S = 0.05
_LOOK_EVERY_S = 1.0
_Log = tuple[Machine, str]
"""A machine, and one of its services."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs are, on every machine at the same path."""

    kubernetes: Path
    containerd: str
    cni: Path

    def component(self, name: str) -> str:
        """Return the path of one of Kubernetes' components."""
        return str(self.kubernetes / name)


class Cluster:
    """A Kubernetes cluster on booted machines. Construct, then ``start``."""

    def __init__(
        self,
        lab: LabPlan,
        *,
        control_machine: Machine,
        nodes: Mapping[str, Machine],
        programs: Programs,
        api: Api,
        progress: Progress,
    ) -> None:
        self._lab = lab
        self._control = control_machine
        self._nodes = nodes
        self._programs = programs
        self._api = api
        self._progress = progress

    def start_control_plane(self, secrets: Credentials) -> None:
        """Start etcd and the API server without waiting for them."""
        self._control.provide(self._programs.kubernetes)
        self._control.write(credentials.control_files(self._lab, secrets))
        self._control.start(control.etcd(self._programs.component("etcd")))
        self._control.start(control.api_server(self._programs.component("kube-apiserver"), self._lab))

    def prepare_node(
        self, name: str, secrets: Credentials, *, images: Callable[[], Sequence[Archive]], lower_oom_score: bool
    ) -> None:
        """Write a node's files, start its container runtime and load images into it."""
        plan = next(each for each in self._lab.nodes if each.name == name)
        machine = self._nodes[name]
        machine.provide(self._programs.kubernetes)
        machine.write(credentials.node_files(self._lab, secrets, name))
        machine.write(node.files(self._lab, plan, lower_oom_score=lower_oom_score))
        machine.link(names.CNI_BIN_DIR, [str(self._programs.cni / plugin) for plugin in node.CNI_PLUGINS])
        machine.start(node.containerd(self._programs.containerd))
        self._wait(
            f"containerd on {name}",
            lambda: machine.run(_ctr("version")).status == 0,
            timeout_s=20.0,
            logs=[(machine, "containerd")],
        )
        load(machine, images())

    def wait_for_api(self) -> None:
        """Wait until the API server is ready."""
        logs = [(self._control, "kube-apiserver"), (self._control, "etcd")]
        self._wait("API server", self._api.ready, timeout_s=_API_TIMEOUT_S, logs=logs)

    def start_the_rest(self) -> None:
        """Start what needs the API: controllers, kubelets, kube-proxies; apply the add-ons."""
        component = self._programs.component
        self._control.start(control.controller_manager(component("kube-controller-manager"), self._lab))
        self._control.start(control.scheduler(component("kube-scheduler")))
        for plan in self._lab.nodes:
            machine = self._nodes[plan.name]
            machine.start(node.kubelet(component("kubelet"), plan))
            machine.start(node.kube_proxy(component("kube-proxy")))
        for resource in dns.resources(self._lab):
            self._api.apply(resource)

    def wait_for_nodes(self) -> None:
        """Wait until every node is ready."""
        wanted = {plan.name for plan in self._lab.nodes}
        logs = [(machine, "kubelet") for machine in self._nodes.values()]
        self._wait("nodes", lambda: wanted <= set(ready_nodes(self._api)), timeout_s=_NODES_TIMEOUT_S, logs=logs)

    def wait_for_dns(self) -> None:
        """Wait until the name server answers."""
        path = f"/apis/apps/v1/namespaces/{dns.NAMESPACE}/deployments/{dns.NAME}"
        logs = [(self._control, "kube-controller-manager"), *[(each, "kubelet") for each in self._nodes.values()]]

        def available() -> bool:
            return bool(self._api.read(path).get("status", {}).get("availableReplicas"))

        self._wait("name server", available, timeout_s=_NODES_TIMEOUT_S, logs=logs)

    def _wait(self, what: str, done: Callable[[], bool], *, timeout_s: float, logs: Sequence[_Log]) -> None:
        end = time.monotonic() + timeout_s
        next_look = time.monotonic() + _LOOK_EVERY_S
        while not done():
            if time.monotonic() > next_look:
                self._fail_if_something_ended()
                next_look = time.monotonic() + _LOOK_EVERY_S
            if time.monotonic() > end:
                files = [machine.log(service) for machine, service in logs]
                tails = "\n".join(f"{log}:\n{run.tail(log)}" for log in files)
                raise ComponentFailed(f"{what} not ready after {timeout_s:.0f} s; last lines of the logs:\n{tails}")
            time.sleep(_POLL_S)

    def _fail_if_something_ended(self) -> None:
        """Say at once what would otherwise show as a long wait for something else."""
        for machine in (self._control, *self._nodes.values()):
            for service, running in machine.running().items():
                if not running:
                    log = machine.log(service)
                    raise ComponentFailed(f"{service} on {machine.name} ended, see {log}:\n{run.tail(log)}")


def load(machine: Machine, images: Sequence[Archive]) -> None:
    """Import images into a node's container runtime.

    Raises:
        ComponentFailed: the import fails; the message is containerd's.
    """
    for image in images:
        machine.provide(image.path)
        done = machine.run(_ctr("images", "import", str(image.path)), timeout_s=_IMPORT_TIMEOUT_S)
        if done.status != 0:
            raise ComponentFailed(f"{machine.name} cannot import {image.name}: {done.text.strip()}")


def load_everywhere(machines: Sequence[Machine], images: Sequence[Archive]) -> None:
    """Import images into several nodes at the same time."""
    with ThreadPoolExecutor(max_workers=max(len(machines), 1)) as pool:
        for done in [pool.submit(load, machine, images) for machine in machines]:
            done.result()


def holds(machine: Machine, image: str) -> bool:
    """Say whether a node's container runtime has an image of this name."""
    done = machine.run(_ctr("images", "ls", "-q", f"name=={image}"))
    return done.status == 0 and image in done.text.split()


class Workload(Enum):
    """A kind of workload: its name in paths, and where its status counts updated and available pods."""

    DEPLOYMENT = ("deployments", "updatedReplicas", "availableReplicas")
    DAEMON_SET = ("daemonsets", "updatedNumberScheduled", "numberAvailable")


def wait_for_rollout(api: Api, workload: Workload, namespace: str, name: str) -> None:
    """Wait until all pods of a workload are of its last generation and available.

    Raises:
        ComponentFailed: it does not in time.
    """
    path = f"/apis/apps/v1/namespaces/{namespace}/{workload.value[0]}/{name}"
    end = time.monotonic() + _DEPLOYMENT_TIMEOUT_S
    while not _is_rolled_out(workload, api.read(path)):
        if time.monotonic() > end:
            look = f"`kubectl describe pod -n {namespace} -l app={name}`"
            raise ComponentFailed(f"{name} not available after {_DEPLOYMENT_TIMEOUT_S:.0f} s: {look} says why")
        time.sleep(_POLL_S)


def wait_for_definition(api: Api, definition: Resource) -> None:
    """Wait until objects of a CustomResourceDefinition can be applied.

    Raises:
        ComponentFailed: they cannot in time.
    """
    end = time.monotonic() + _DEFINITION_TIMEOUT_S
    while not _has_condition(api.read(resource_path(definition)), "Established"):
        if time.monotonic() > end:
            name = definition["metadata"]["name"]
            raise ComponentFailed(
                f"{name} not established after {_DEFINITION_TIMEOUT_S:.0f} s: `kubectl describe crd {name}`"
            )
        time.sleep(_POLL_S)


def _is_rolled_out(workload: Workload, item: Resource) -> bool:
    status = item.get("status", {})
    _, updated, available = workload.value
    seen = (status.get("observedGeneration"), status.get(updated), status.get(available))
    is_deployment = workload is Workload.DEPLOYMENT
    wanted = item["spec"]["replicas"] if is_deployment else status.get("desiredNumberScheduled")
    return bool(wanted) and seen == (item["metadata"]["generation"], wanted, wanted)


def ready_nodes(api: Api) -> list[str]:
    """Return the names of the nodes that are ready."""
    return [item["metadata"]["name"] for item in api.read("/api/v1/nodes")["items"] if _has_condition(item, "Ready")]


def _has_condition(item: Resource, kind: str) -> bool:
    # A definition that was just made has `conditions: null`.
    conditions = (item.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def _ctr(*arguments: str) -> list[str]:
    return ["ctr", f"--address={node.CONTAINERD_SOCKET}", "--namespace=k8s.io", *arguments]
