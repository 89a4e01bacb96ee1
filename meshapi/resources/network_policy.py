"""Kubernetes NetworkPolicy: the fields that decide whether mesh traffic passes.

Source: Kubernetes API reference, networking.k8s.io/v1.
"""

from pydantic import Field

from meshapi.resources.base import Model, ModelObject
from meshapi.selectors import LabelSelector


class PolicyPort(Model):
    """A port, a range of ports or a port's name; without a port, all of the protocol."""

    protocol: str = "TCP"
    port: int | str | None = None
    end_port: int | None = None

    def covers(self, number: int) -> bool:
        """Return whether a TCP port is in it; names are not resolved."""
        if self.protocol != "TCP":
            return False
        if self.port is None:
            return True
        return isinstance(self.port, int) and self.port <= number <= (self.end_port or self.port)


class PolicyPeer(Model):
    """Pods by label, here or in other namespaces, or addresses."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: dict[str, object] | None = None


class Rule(Model):
    """One ingress or egress rule. No peers: everybody. No ports: all."""

    ports: tuple[PolicyPort, ...] = ()
    peers: tuple[PolicyPeer, ...] = ()

    def covers(self, port: int) -> bool:
        """Return whether the rule allows a TCP port."""
        return not self.ports or any(one.covers(port) for one in self.ports)


class IngressRule(Rule):
    """Who may connect."""

    peers: tuple[PolicyPeer, ...] = Field(default=(), alias="from")


class EgressRule(Rule):
    """Who may be connected to."""

    peers: tuple[PolicyPeer, ...] = Field(default=(), alias="to")


class NetworkPolicySpec(Model):
    """Which pods, and what they may."""

    pod_selector: LabelSelector = LabelSelector()
    policy_types: tuple[str, ...] = ()
    ingress: tuple[IngressRule, ...] = ()
    egress: tuple[EgressRule, ...] = ()


class NetworkPolicy(ModelObject):
    """A NetworkPolicy."""

    spec: NetworkPolicySpec = NetworkPolicySpec()
