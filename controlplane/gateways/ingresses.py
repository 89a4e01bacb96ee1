"""Ingresses of Kubernetes as Gateways of Istio's API, which the pods of the ingress gateway serve. Pure.

Facts: Istio's ``pilot/pkg/config/kube/ingress``. Each Ingress is one Gateway: port 80 for all hosts, and port 443 for
each entry of ``tls``, with the Secret of the gateway's namespace. Its name is none that a user can write.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from meshapi.mesh_config.model import IngressMode, MeshConfig
from meshapi.resources.base import Metadata
from meshapi.resources.ingress import Ingress, IngressClass
from meshapi.resources.istio_gateway import Gateway, GatewaySpec, Port, Server, ServerTLS, TlsMode
from meshkit.kube import Key

CONTROLLER: Final = "istio.io/ingress-controller"
_CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
_SUFFIX: Final = ":ingress"
_LABEL: Final = "istio"
_SERVICE: Final = "istio-ingressgateway"
_POD: Final = "ingressgateway"


@dataclass(frozen=True, slots=True)
class Claimed:
    """An Ingress that Culvert serves.

    Attributes:
        item: the Ingress.
        gateway: the Gateway that it becomes.
    """

    item: Ingress
    gateway: Gateway


def key_of(ingress: Ingress) -> Key:
    """Return the key of the Gateway that an Ingress is."""
    return (ingress.metadata.namespace, f"{ingress.metadata.name}{_SUFFIX}")


def shown(gateway: Key) -> str:
    """Return a Gateway, or the Ingress that it is, as messages have it."""
    namespace, name = gateway
    kind = "Ingress" if name.endswith(_SUFFIX) else "Gateway"
    return f"{kind} {namespace}/{name.removesuffix(_SUFFIX)}"


def is_claimed(ingress: Ingress, of_class: IngressClass | None, config: MeshConfig) -> bool:
    """Return whether Culvert serves an Ingress: by the old annotation, which goes first, or by its class's controller.

    Args:
        ingress: the Ingress.
        of_class: the class that it names, where there is one.
        config: the mesh configuration.
    """
    mode = config.ingress_controller_mode
    if mode in {IngressMode.OFF, IngressMode.UNSPECIFIED}:
        return False
    given = ingress.metadata.annotations.get(_CLASS_ANNOTATION)
    if given is not None:
        return given == (config.ingress_class or "istio") or (mode is IngressMode.DEFAULT and not given)
    if of_class is not None:
        return of_class.spec.controller == CONTROLLER
    return mode is IngressMode.DEFAULT and not ingress.spec.ingress_class_name


def service_of(config: MeshConfig) -> str:
    """Return the Service, of the root namespace, whose addresses are those of Ingresses."""
    return config.ingress_service or _SERVICE


def selector(config: MeshConfig) -> Mapping[str, str]:
    """Return the labels of the pods that serve Ingresses."""
    if config.ingress_selector:
        return {_LABEL: config.ingress_selector}
    own = config.ingress_service not in {"", _SERVICE}
    return {_LABEL: config.ingress_service if own else _POD}


def gateway_of(ingress: Ingress, config: MeshConfig) -> Gateway:
    """Return the Gateway that an Ingress is."""
    servers = [Server(port=Port(number=80, protocol="HTTP", name="http"), hosts=("*",))]
    for index, one in enumerate(ingress.spec.tls):
        if one.secret_name:
            port = Port(number=443, protocol="HTTPS", name=f"https-443-{index}")
            tls = ServerTLS(mode=TlsMode.SIMPLE, credential_name=one.secret_name)
            servers.append(Server(port=port, hosts=one.hosts or ("*",), tls=tls))
    namespace, name = key_of(ingress)
    created, generation = ingress.metadata.creation_timestamp, ingress.metadata.generation
    metadata = Metadata(name=name, namespace=namespace, creation_timestamp=created, generation=generation)
    return Gateway(metadata=metadata, spec=GatewaySpec(selector=dict(selector(config)), servers=tuple(servers)))
