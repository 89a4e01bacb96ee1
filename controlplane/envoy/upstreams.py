"""From targets to clusters, as one waypoint sees them; and what had a part in the answers."""

from dataclasses import dataclass, field, replace

from controlplane.envoy import balancing, names
from controlplane.envoy.placing import Source
from controlplane.envoy.routes import Upstream
from controlplane.graph.derived import Fetch
from controlplane.routing.collections import RoutingCollections
from controlplane.routing.destinations import Rules
from controlplane.routing.ir import Target
from controlplane.routing.services import Discovery, Port, Service
from controlplane.waypoints.collections import Waypoints
from meshkit.kube import Key


@dataclass(slots=True)
class Upstreams:
    """The clusters of targets for one computation.

    Attributes:
        view: key of the waypoint's Gateway.
        foreign: targets that are no services of the waypoint; filled by use.
        sources: DestinationRules and policies that were read; filled by use.
        credentials: Secrets that DestinationRules name for TLS; filled by use.
    """

    routing: RoutingCollections
    waypoints: Waypoints
    view: Key
    fetch: Fetch
    foreign: set[tuple[Key, Target]] = field(default_factory=set)
    sources: set[Source] = field(default_factory=set)
    credentials: set[tuple[Key, str]] = field(default_factory=set)
    _rules: dict[str, Rules] = field(default_factory=dict)

    def rules(self, service: Service) -> Rules:
        """Return what DestinationRules and policies say of a service.

        Many targets of one computation are of one service.
        """
        if service.host not in self._rules:
            found = self.sealed_rules(service)
            self.credentials.update((self.view, name) for name in found.credentials)
            demanded = self.routing.backend_tls.of(service, self.fetch)
            self.sources.update(("BackendTLSPolicy", one.key) for _, one in demanded)
            traffic = self.routing.backend_traffic.of(service, self.fetch)
            self.sources.update(("XBackendTrafficPolicy", one.key) for _, one in traffic)
            if demanded or traffic:
                certificate = self.routing.client_certificate(self.view, self.fetch) if demanded else None
                tls = tuple((number, replace(one.tls, certificate=certificate)) for number, one in demanded)
                found = replace(found, backend_tls=tls, traffic=traffic)
            self._rules[service.host] = found
        return self._rules[service.host]

    def sealed_rules(self, service: Service) -> Rules:
        """Return what counts of a service where the client's TLS goes on as it is: what DestinationRules say.

        Their own TLS is not started, so nothing is noted that it needs.
        """
        found = self.routing.rules(service.host, self.view[0], service.namespace, self.fetch)
        self.sources.update(("DestinationRule", key) for key in found.sources)
        return found

    def is_own(self, service: Service) -> bool:
        """Return whether a service uses the waypoint."""
        waypoint = self.waypoints.serving(service.kind, service.key, self.fetch)
        return waypoint is not None and waypoint.key == self.view

    def find(self, target: Target, called: int, *, is_http: bool) -> Upstream:
        """Return the cluster of a target; one that does not exist where there is no such service or port.

        Args:
            target: where requests or connections go.
            called: the port that clients have called; it counts where the target has none.
            is_http: whether requests go there, or connections.
        """
        service = self.routing.service(target.host, self.fetch)
        port = None if service is None else port_of(service, target.port, called)
        if service is None or port is None or (target.viewer and not service.is_seen_from(target.viewer)):
            return Upstream(names.BLACK_HOLE)
        if target.is_sealed:
            self.foreign.add((self.view, Target(service.host, port.number, target.subset, is_sealed=True)))
            return Upstream(names.sealed(service.host, port.number, target.subset))
        policy = self.rules(service).policy(port.number, target.subset)
        hashes = balancing.hash_policies(policy)
        if self.is_own(service):
            name = names.inbound_vip(service.host, port.number, is_http=is_http, subset=target.subset)
            return Upstream(name, hashes, policy.session)
        if service.discovery is Discovery.NAMED:
            return Upstream(names.BLACK_HOLE)  # only its own chains resolve what clients send
        self.foreign.add((self.view, Target(service.host, port.number, target.subset)))
        return Upstream(names.outbound(service.host, port.number, target.subset), hashes, policy.session)


def port_of(service: Service, wanted: int, called: int) -> Port | None:
    """Return the port of a target: the given one, else the only one, else the one that was called."""
    return service.port(wanted) or (None if wanted else service.port(called))
