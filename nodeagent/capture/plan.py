"""The desired state of a pod's network namespace, and on the host for the kubelet's probes. Pure.

Order of a pod's life, so that no connection meets a rule without a listener or an announcement without a rule:
listeners, then ``CAPTURE``, then the announcement; and back: announcement withdrawn, ``DRAIN``, listeners gone,
``NONE``. ``DRAIN`` redirects nothing new but keeps what open connections need: the kernel forgets how to rewrite
their packets when the last NAT chain of a namespace goes, and the application's answers find the tunnel only by mark.

``annotations`` turns annotations into a plan.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from meshapi import names
from meshkit.linux.marks import LocalDelivery

Network = IPv4Network | IPv6Network


class Mode(StrEnum):
    """How much of a pod's traffic is taken."""

    CAPTURE = "capture"
    DRAIN = "drain"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Inbound:
    """Which plain-text connections to the pod are taken.

    Attributes:
        only: these ports; ``None``: all of them.
        never: not these ports, where ``only`` is ``None``.
    """

    only: tuple[int, ...] | None = None
    never: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outbound:
    """Which connections from the pod are taken; the first that applies decides, in this order.

    Attributes:
        never_ports: not to these ports.
        never_ranges: not to these addresses.
        ports: to these ports, whatever the address.
        ranges: to these addresses; ``None``: to all of them.
    """

    never_ports: tuple[int, ...] = ()
    never_ranges: tuple[Network, ...] = ()
    ports: tuple[int, ...] = ()
    ranges: tuple[Network, ...] | None = None


@dataclass(frozen=True, slots=True)
class PodPlan:
    """The wanted state of one pod's namespace.

    Attributes:
        mode: see ``Mode``.
        inbound: which plain-text connections to the pod are taken; ``None``: none of them (gateways that serve
            outsiders).
        outbound: which connections from the pod are taken.
        dns: whether the pod's DNS queries are answered by the tunnel.
        virtual_interfaces: links to machines inside the pod (KubeVirt): what comes from them leaves the pod.
        excluded_interfaces: links whose traffic is left alone.
        tunnel_always: whether every connection goes through the tunnel, those to pods of the same node too.
        registry_only: whether nothing leaves the pod but through the tunnel, which carries it where the registry knows
            the destination, and as answers to what has come from outside.
    """

    mode: Mode = Mode.CAPTURE
    inbound: Inbound | None = Inbound()
    outbound: Outbound = Outbound()
    dns: bool = False
    virtual_interfaces: tuple[str, ...] = ()
    excluded_interfaces: tuple[str, ...] = ()
    tunnel_always: bool = False
    registry_only: bool = False


REPLIES: Final = LocalDelivery(
    mark=names.REPLY_CONNMARK,
    mask=names.REPLY_CONNMARK_MASK,
    table=names.REPLY_ROUTE_TABLE,
    priority=names.REPLY_RULE_PRIORITY,
)
"""The application's answers to connections that the tunnel opened under a client's address come back to the tunnel."""
