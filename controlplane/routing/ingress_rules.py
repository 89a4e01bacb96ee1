"""From an Ingress to rules at the pods that serve it. Pure. Facts: Istio's ``pilot/pkg/config/kube/ingress``.

Of the rules of all Ingresses for a host the most specific path goes first: exact ones, then the longest prefix.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from controlplane.gateways import servers
from controlplane.gateways.ingresses import Claimed
from controlplane.gateways.listener import EdgeGateway, intersection
from controlplane.routing.at_gateways import AtGateways
from controlplane.routing.edge import EdgeHost
from controlplane.routing.ir import Comparison, Forward, HttpRule, Origin, RequestMatch, Share, Target, TextMatch
from meshapi.resources.ingress import Backend, Ingress, Path, PathType
from meshkit.kube import Key

Port = Callable[[Key, str, int], int]
"""From a Service, and the name or number of a port, to the number; 0: there is no such Service or port."""
_NOWHERE: Final = Target("")
_ALL: Final = Path(backend=Backend())


class _Translation:
    def __init__(self, item: Ingress, domain: str, port: Port) -> None:
        self._item = item
        self._domain = domain
        self._port = port
        self.problems: list[str] = []

    def by_host(self) -> dict[str, tuple[HttpRule, ...]]:
        """Return the rules by host; empty: all hosts."""
        found: dict[str, list[HttpRule]] = {}
        spec = self._item.spec
        for index, rule in enumerate(spec.rules):
            for place, path in enumerate(rule.http.paths):
                at = f"spec.rules[{index}].http.paths[{place}]"
                found.setdefault(rule.host.lower(), []).append(self._rule(at, path, path.backend))
        if spec.default_backend is not None:
            found.setdefault("", []).append(self._rule("spec.defaultBackend", _ALL, spec.default_backend))
        return {host: tuple(rules) for host, rules in found.items()}

    def _rule(self, at: str, path: Path, backend: Backend) -> HttpRule:
        target = self._target(at, backend)
        action = Forward((Share(target),))
        return HttpRule(Origin("Ingress", self._item.key, at), RequestMatch(path=_path(path)), action)

    def _target(self, at: str, backend: Backend) -> Target:
        if backend.service is None:
            self.problems.append(f"{at}.backend: only Services are backends; requests get 503")
            return _NOWHERE
        namespace, service = self._item.metadata.namespace, backend.service
        number = self._port((namespace, service.name), service.port.name, service.port.number)
        if not number:
            port = service.port.name or service.port.number
            self.problems.append(f"{at}.backend: Service {namespace}/{service.name} has no port {port}, or is missing")
            return _NOWHERE
        return Target(f"{service.name}.{namespace}.svc.{self._domain}", number, viewer=namespace)


def bind(claimed: Claimed, gateways: Iterable[EdgeGateway], domain: str, port: Port) -> AtGateways:
    """Return what an Ingress says at the gateways that serve it.

    Args:
        claimed: the Ingress.
        gateways: that serve it.
        domain: the cluster's domain.
        port: returns the number of a Service's port.
    """
    item = claimed.item
    translation = _Translation(item, domain, port)
    by_host = translation.by_host()
    problems = [*translation.problems, *_without_secret(item)]
    requests = dict(place for gateway in gateways for place in _places(gateway, claimed.gateway.key, by_host))
    return AtGateways(item.key, item.metadata.age, tuple(requests.items()), problems=tuple(problems), is_ranked=True)


def _places(
    gateway: EdgeGateway, owner: Key, by_host: dict[str, tuple[HttpRule, ...]]
) -> Iterator[tuple[EdgeHost, tuple[HttpRule, ...]]]:
    for listener in (one for one in gateway.of(servers.KIND, owner) if one.is_served):
        port = gateway.port_of(listener.routes_name)
        for host, rules in by_host.items():
            common = intersection(listener.hostname, host)
            if common is not None:
                yield EdgeHost(gateway.key, listener.routes_name, port, common), rules


def _without_secret(item: Ingress) -> Iterator[str]:
    for index, one in enumerate(item.spec.tls):
        if not one.secret_name:
            yield f"spec.tls[{index}] has no secretName, so its hosts have no TLS; name a Secret"


def _path(path: Path) -> TextMatch | None:
    """Return what a path must be like; ``None``: anything."""
    if path.path_type is PathType.EXACT:
        return TextMatch(Comparison.EXACT, path.path)
    if path.path_type is PathType.PREFIX:
        return TextMatch(Comparison.PATH_PREFIX, path.path.rstrip("/") or "/")
    if not path.path:
        return None
    for ending in (".*", "/*"):
        if path.path.endswith(ending):
            return TextMatch(Comparison.PREFIX, path.path.removesuffix(ending))
    return TextMatch(Comparison.EXACT, path.path)
