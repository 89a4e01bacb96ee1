"""``networking.k8s.io``: Ingress and IngressClass, the fields that the mesh reads.

Source: k8s.io/api, networking/v1/types.go. The API server checks values, so only types are checked here.
"""

from enum import StrEnum

from pydantic import Field

from meshapi.resources.base import Model, ModelObject
from meshapi.resources.gateway import ObjectReference


class PathType(StrEnum):
    """How a path is compared."""

    EXACT = "Exact"
    PREFIX = "Prefix"
    """By whole segments."""
    SPECIFIC = "ImplementationSpecific"


class BackendPort(Model):
    """A port of a Service, by number or by name."""

    number: int = 0
    name: str = ""


class BackendService(Model):
    """A Service of the Ingress's namespace."""

    name: str
    port: BackendPort = BackendPort()


class Backend(Model):
    """Where requests go."""

    service: BackendService | None = None
    resource: ObjectReference | None = None


class Path(Model):
    """A path, and where requests for it go."""

    path: str = ""
    path_type: PathType = PathType.SPECIFIC
    backend: Backend


class Paths(Model):
    """The paths of a host."""

    paths: tuple[Path, ...] = ()


class Rule(Model):
    """What is routed for a host; no host: for all that no rule is for."""

    host: str = ""
    http: Paths = Paths()


class Tls(Model):
    """Hosts, and the Secret with their certificate."""

    hosts: tuple[str, ...] = ()
    secret_name: str = ""


class IngressSpec(Model):
    """Routes of requests from outside."""

    ingress_class_name: str = ""
    default_backend: Backend | None = None
    tls: tuple[Tls, ...] = ()
    rules: tuple[Rule, ...] = ()


class Ingress(ModelObject):
    """Routes of requests from outside."""

    spec: IngressSpec = IngressSpec()


class IngressClassSpec(Model):
    """Who implements a class."""

    controller: str = Field(default="")


class IngressClass(ModelObject):
    """A class of Ingresses."""

    spec: IngressClassSpec = IngressClassSpec()
