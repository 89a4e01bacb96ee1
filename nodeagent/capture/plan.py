"""What shall be so in a pod's network namespace, and on the host for the kubelet's probes. Pure.

Order of a pod's life, so that no connection meets a rule without a listener or an announcement without a rule:
listeners, then ``CAPTURE``, then the announcement; and back: announcement withdrawn, ``DRAIN``, listeners gone,
``NONE``. ``DRAIN`` redirects nothing new but keeps what open connections stand on: the kernel forgets how to rewrite
their packets when the last NAT chain of a namespace goes, and the application's answers find the tunnel only by mark.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meshapi import names
from meshkit.linux.marks import LocalDelivery


class Mode(StrEnum):
    """How much of a pod's traffic is taken."""

    CAPTURE = "capture"
    DRAIN = "drain"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PodPlan:
    """The wanted state of one pod's namespace.

    Attributes:
        mode: see ``Mode``.
        inbound: whether plain-text connections to the pod are taken (not at gateways that serve outsiders).
    """

    mode: Mode = Mode.CAPTURE
    inbound: bool = True


REPLIES: Final = LocalDelivery(
    mark=names.REPLY_CONNMARK,
    mask=names.REPLY_CONNMARK_MASK,
    table=names.REPLY_ROUTE_TABLE,
    priority=names.REPLY_RULE_PRIORITY,
)
"""The application's answers to connections that the tunnel opened under a client's address come back to the tunnel."""


def plan_pod(annotations: Mapping[str, str]) -> PodPlan:
    """Plan the capture of a pod of the mesh."""
    bypass = annotations.get(names.BYPASS_INBOUND_ANNOTATION, "").lower() in {"true", "1", "t"}
    return PodPlan(mode=Mode.CAPTURE, inbound=not bypass)
