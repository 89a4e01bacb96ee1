"""From a Gateway and its ListenerSets to the gateway that they are."""

from collections.abc import Callable, Iterable
from typing import Final

from controlplane.gateways import conflicts, references
from controlplane.gateways.grants import Referrer
from controlplane.gateways.listener import ACCEPTED, RESOLVED, EdgeGateway, EdgeListener, Spoken
from controlplane.gateways.references import References
from controlplane.inputs.verdicts import Verdict
from meshapi import names
from meshapi.mesh_config import proxy_annotation
from meshapi.resources.gateway import (
    GROUP,
    AddressType,
    FromNamespaces,
    Gateway,
    Listener,
    ListenerSet,
    RouteNamespaces,
    TlsMode,
)
from meshkit.kube import Key

_ROUTES: Final = {
    Spoken.HTTP: ("HTTPRoute", "GRPCRoute"),
    Spoken.HTTPS: ("HTTPRoute", "GRPCRoute"),
    Spoken.TLS: ("TLSRoute", "TCPRoute"),
    Spoken.PASSTHROUGH: ("TLSRoute",),
    Spoken.TCP: ("TCPRoute",),
    Spoken.UDP: ("UDPRoute",),
}
"""Kinds of routes by what is spoken; what is not here is not supported."""
RESERVED_PORTS: Final = frozenset(
    {
        names.ENVOY_ADMIN_PORT,
        names.WAYPOINT_HOST_ADMIN_PORT,
        names.METRICS_PORT,
        names.READINESS_PORT,
        names.ENVOY_PROMETHEUS_PORT,
    }
)
"""Ports of a gateway's pod that are taken."""


def read(
    gateway: Gateway,
    sets: Iterable[ListenerSet],
    resolve: References,
    labels_of: Callable[[str], dict[str, str]],
    proxy_config_of: Callable[[Key], str] = lambda _: "",
) -> EdgeGateway:
    """Return a gateway.

    Args:
        gateway: the Gateway.
        sets: ListenerSets that name it.
        resolve: how references are resolved.
        labels_of: returns the labels of a namespace.
        proxy_config_of: returns the settings of the pods that a Service selects, as their annotation has them.
    """
    allowed = gateway.spec.allowed_listeners.namespaces
    attached = sorted(
        (one for one in sets if admits(allowed, gateway.metadata.namespace, one.metadata.namespace, labels_of)),
        key=lambda one: (one.metadata.creation_timestamp, one.key),
    )
    owners: list[tuple[str, Key, tuple[Listener, ...]]] = [("Gateway", gateway.key, gateway.spec.listeners)]
    owners += [("ListenerSet", one.key, one.spec.listeners) for one in attached]
    every = conflicts.marked(_listener(kind, key, one) for kind, key, given in owners for one in given)
    by_id = {(kind, key, one.name): one for kind, key, given in owners for one in given}
    found = tuple(_resolved(one, by_id[one.id], gateway, resolve) for one in every)
    own = _manual_service(gateway)
    certificate, verdict = _towards_backends(gateway, resolve)
    config = proxy_annotation.read(_proxy_config(gateway) if own is None else proxy_config_of(own))
    return EdgeGateway(
        gateway.key,
        object_name(gateway) if own is None else own[1],
        service_account(gateway),
        labels=frozenset(pod_labels(gateway).items()) if own is None else frozenset(),
        service=own,
        listeners=found,
        listener_sets=tuple(one.key for one in attached if _has_valid(found, one)),
        secrets=frozenset(resolve.secrets),
        config_maps=frozenset(resolve.config_maps),
        client_certificate=certificate,
        resolved=verdict,
        topology=config.topology,
        problems=config.problems,
    )


def _has_valid(listeners: Iterable[EdgeListener], of: ListenerSet) -> bool:
    return any(one.is_served for one in listeners if (one.owner_kind, one.owner) == ("ListenerSet", of.key))


def admits(allowed: RouteNamespaces, own: str, other: str, labels_of: Callable[[str], dict[str, str]]) -> bool:
    """Return whether a namespace is one of those that are allowed; ``own``: the namespace of what allows them."""
    if allowed.from_ is FromNamespaces.ALL:
        return True
    if allowed.from_ is FromNamespaces.SELECTOR:
        return allowed.selector is not None and allowed.selector.matches(labels_of(other))
    return allowed.from_ is FromNamespaces.SAME and own == other


def is_manual(gateway: Gateway) -> bool:
    """Return whether a Gateway's user runs its pods: it names the Service of these."""
    return any(one.type == AddressType.HOSTNAME for one in gateway.spec.addresses)


def _manual_service(gateway: Gateway) -> Key | None:
    """Return the Service of the pods that a Gateway's user runs, in the Gateway's namespace; ``None``: we run them.

    A Service of another namespace is none: its pods would get certificates of this one.
    """
    if not is_manual(gateway):
        return None
    host = next(one.value for one in gateway.spec.addresses if one.type == AddressType.HOSTNAME)
    name, _, rest = host.partition(".")
    own = gateway.metadata.namespace
    return (own, name) if not rest or rest == own or rest.startswith(f"{own}.svc") else (own, "")


def object_name(gateway: Gateway) -> str:
    """Return the name of what is made for a gateway: its Deployment, Service and service account."""
    given = gateway.metadata.annotations.get(names.GATEWAY_NAME_ANNOTATION, "")
    return given or f"{gateway.metadata.name}-{gateway.spec.gateway_class_name}"


def service_account(gateway: Gateway) -> str:
    """Return the service account of a gateway's pods."""
    return gateway.metadata.annotations.get(names.GATEWAY_SERVICE_ACCOUNT_ANNOTATION, "") or object_name(gateway)


def pod_labels(gateway: Gateway) -> dict[str, str]:
    """Return the labels of a gateway's pods, by which policies select them."""
    given = gateway.spec.infrastructure.labels
    own = (
        gateway.metadata.labels if given is None else {k: v for k, v in given.items() if not k.startswith(f"{GROUP}/")}
    )
    name = gateway.metadata.name
    return {**own, names.GATEWAY_NAME_LABEL: name, names.ISTIO_GATEWAY_NAME_LABEL: name}


def _proxy_config(gateway: Gateway) -> str:
    """Return the settings of a gateway's proxies: the annotation that its pods get."""
    given = gateway.spec.infrastructure.annotations
    found = gateway.metadata.annotations if given is None else given
    return found.get(names.PROXY_CONFIG_ANNOTATION, "")


def _listener(kind: str, key: Key, one: Listener) -> EdgeListener:
    spoken = _spoken(one)
    supported = () if spoken is None else _ROUTES[spoken]
    given = one.allowed_routes.kinds
    kinds = tuple(kind.kind for kind in given if kind.group == GROUP and kind.kind in supported) if given else supported
    resolved = RESOLVED
    if len(kinds) < len(given):
        unknown = ", ".join(f"{kind.group}/{kind.kind}" for kind in given if kind.kind not in kinds)
        message = f"allowedRoutes.kinds: {unknown} cannot attach to protocol {one.protocol}"
        resolved = Verdict(False, "InvalidRouteKinds", message)
    return EdgeListener(
        kind,
        key,
        one.name,
        one.port,
        spoken,
        hostname=one.hostname.lower().rstrip("."),
        kinds=kinds,
        allowed=one.allowed_routes.namespaces,
        accepted=_accepted(one, spoken),
        resolved=resolved,
    )


def _spoken(one: Listener) -> Spoken | None:
    is_passthrough = one.tls is not None and one.tls.mode is TlsMode.PASSTHROUGH
    found = {
        ("HTTP", False): Spoken.HTTP,
        ("HTTPS", False): Spoken.HTTPS,
        ("TLS", False): Spoken.TLS,
        ("TLS", True): Spoken.PASSTHROUGH,
        ("TCP", False): Spoken.TCP,
        ("UDP", False): Spoken.UDP,
    }.get((one.protocol, is_passthrough))
    return found if found in _ROUTES else None


def _accepted(one: Listener, spoken: Spoken | None) -> Verdict:
    if spoken is None:
        return Verdict(False, "UnsupportedProtocol", f"protocol {one.protocol} is not supported{_with_mode(one)}")
    if one.port in RESERVED_PORTS:
        return Verdict(False, "PortUnavailable", f"port {one.port} is taken by the gateway itself")
    if one.tls is not None and one.tls.options:
        ignored = ", ".join(sorted(one.tls.options))
        return Verdict(True, ACCEPTED.reason, f"tls.options are not known and ignored: {ignored}")
    return ACCEPTED


def _with_mode(one: Listener) -> str:
    return "" if one.tls is None else f" with TLS mode {one.tls.mode.value}"


def _resolved(listener: EdgeListener, given: Listener, gateway: Gateway, resolve: References) -> EdgeListener:
    """Return a listener with what it refers to."""
    if listener.spoken is None or not listener.spoken.ends_tls:
        return listener
    found = references.with_certificates(listener, () if given.tls is None else given.tls.certificate_refs, resolve)
    validation = gateway.spec.tls.frontend.validation(listener.port)
    if validation is None:
        return found
    return references.with_client_check(found, validation, Referrer("Gateway", gateway.metadata.namespace), resolve)


def _towards_backends(gateway: Gateway, resolve: References) -> tuple[Key | None, Verdict | None]:
    given = gateway.spec.tls.backend.client_certificate_ref
    if given is None:
        return None, None
    who = Referrer("Gateway", gateway.metadata.namespace)
    key, fault = references.of_secret(given, who, resolve, "InvalidClientCertificateRef")
    return (key, RESOLVED) if fault is None else (None, fault)
