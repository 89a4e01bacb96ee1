"""The pods that serve Gateways of Istio's API, in groups that get the same configuration. Pure.

Which Gateways a pod serves, and which Secrets they may use, follow from its labels, its namespace and its service
account; what is in front of it, from an annotation. Pods that are equal in these are one place, with a name that no
Gateway of the Gateway API can have.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshapi.resources.core import Pod, Service, ServicePort
from meshkit.kube import Key

_OF_ONE_POD: Final = frozenset(
    {
        "pod-template-hash",
        "controller-revision-hash",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
    }
)
"""Labels that tell pods of one workload, or its revisions, apart: they make no places."""


@dataclass(frozen=True, slots=True)
class Place:
    """Pods of gateways that get the same configuration.

    Attributes:
        namespace: of the pods.
        workload: name of what has made them, for people.
        account: service account that they run as.
        labels: of the pods, as pairs.
        ports: named ports of the pods: name and number.
        proxy_config: settings of the pods' proxies, as their annotation has them.
    """

    namespace: str
    workload: str
    account: str
    labels: frozenset[tuple[str, str]]
    ports: frozenset[tuple[str, int]] = frozenset()
    proxy_config: str = ""

    @property
    def key(self) -> Key:
        """What names it: not the name of an object, since no object's name has a colon."""
        said = "\0".join((self.workload, self.account, *(f"{k}={v}" for k, v in sorted(self.labels))))
        said += "\0" + "\0".join(f"{name}={number}" for name, number in sorted(self.ports))
        said += f"\0{self.proxy_config}" if self.proxy_config else ""
        return (self.namespace, f"{self.workload}:{hashlib.sha256(said.encode()).hexdigest()[:10]}")


def of_pod(pod: Pod) -> Place:
    """Return the place that a pod belongs to."""
    labels = frozenset((name, value) for name, value in pod.metadata.labels.items() if name not in _OF_ONE_POD)
    named = (
        (port.name, port.container_port)
        for container in (*pod.spec.containers, *pod.spec.init_containers)
        for port in container.ports
        if port.name and port.protocol == "TCP"
    )
    account = pod.spec.service_account_name
    proxy_config = pod.metadata.annotations.get(names.PROXY_CONFIG_ANNOTATION, "")
    return Place(pod.metadata.namespace, _workload(pod), account, labels, frozenset(named), proxy_config)


def targets(services: Iterable[Service], place: Place) -> Mapping[int, frozenset[int]]:
    """Return, by each port of the pods' Services, the ports of the pods that it leads to."""
    found: dict[int, set[int]] = {}
    for port in (port for service in services for port in service.spec.ports):
        number = _target(port, place) if port.protocol == "TCP" else 0
        if number:
            found.setdefault(port.port, set()).add(number)
    return {port: frozenset(numbers) for port, numbers in found.items()}


def _target(port: ServicePort, place: Place) -> int:
    given = port.target_port
    if isinstance(given, str) and not given.isdecimal():
        return dict(place.ports).get(given, 0)
    return int(given) or port.port


def _workload(pod: Pod) -> str:
    """Return the name of what has made a pod; a ReplicaSet's without the hash that a Deployment adds."""
    owner = next((one for one in pod.metadata.owner_references if one.controller), None)
    if owner is None:
        return pod.metadata.name
    revision = pod.metadata.labels.get("pod-template-hash", "")
    return owner.name.removesuffix(f"-{revision}") if owner.kind == "ReplicaSet" and revision else owner.name
