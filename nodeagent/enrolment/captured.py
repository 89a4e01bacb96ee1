"""The table of captured pods, and what each of them owns."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from meshapi.identity import SpiffeId
from meshapi.proto import zds_pb2
from nodeagent.capture.annotations import PlanResult
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import Sandbox
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.zds.server import Served


@dataclass(slots=True)
class Captured:
    """One captured pod. Owns the descriptor of its network namespace.

    Attributes:
        sandbox: its network namespace, and the pod as it was when it was captured.
        identity: of the workload.
        planned: the plan in force in its namespace, and the annotations that are ignored.
        addresses: the pod's.
        served: what ZDS sends to ztunnel.
    """

    sandbox: Sandbox
    identity: SpiffeId
    planned: PlanResult
    addresses: tuple[str, ...]
    served: Served = field(init=False)

    def __post_init__(self) -> None:
        """Describe the pod to ztunnel once: ZDS tells changed workloads by their object."""
        self.served = Served(workload_info(self.sandbox.pod), self.sandbox.netns)

    @property
    def key(self) -> str:
        """Namespace and name."""
        return self.sandbox.pod.key

    @property
    def plan(self) -> PodPlan:
        """The capture plan in force in its namespace."""
        return self.planned.plan

    def close(self) -> None:
        """Close the descriptor of the namespace."""
        os.close(self.sandbox.netns)


def workload_info(pod: PodInfo) -> zds_pb2.WorkloadInfo:
    """Return the description of a pod that ZDS sends to ztunnel."""
    return zds_pb2.WorkloadInfo(name=pod.name, namespace=pod.namespace, service_account=pod.service_account)


class Enrolled(Mapping[str, Served]):
    """Captured pods by UID, as ZDS sees them; the controller adds and removes."""

    def __init__(self) -> None:
        self._captured: dict[str, Captured] = {}

    def __getitem__(self, uid: str) -> Served:
        return self._captured[uid].served

    def __iter__(self) -> Iterator[str]:
        return iter(self._captured)

    def __len__(self) -> int:
        return len(self._captured)

    def find(self, uid: str) -> Captured | None:
        """Return a captured pod."""
        return self._captured.get(uid)

    def put(self, uid: str, captured: Captured) -> None:
        """Add a captured pod."""
        self._captured[uid] = captured

    def take(self, uid: str) -> Captured | None:
        """Remove a pod and return it; the caller closes it."""
        return self._captured.pop(uid, None)

    def held(self, uid: str) -> PlanResult | None:
        """Return the plan of a pod that may reach only what the registry knows; ``None`` for another."""
        captured = self._captured.get(uid)
        return captured.planned if captured is not None and captured.plan.registry_only else None

    def addresses(self) -> frozenset[str]:
        """Return the addresses of all captured pods."""
        return frozenset(address for captured in self._captured.values() for address in captured.addresses)
