"""What the user has asked: who calls, and what. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from meshctl.session import CommandError

_POD_TYPES = frozenset({"pod", "po", "pods"})
_SERVICE_TYPES = frozenset({"service", "svc", "services"})


@dataclass(frozen=True, slots=True)
class Name:
    """A pod or a service by name.

    Attributes:
        kind: ``pod`` or ``service``; empty where the user has not said which.
        namespace: where it is.
        host: for a service, the host as it was given, which may be one of a ServiceEntry.
    """

    kind: str
    namespace: str
    name: str
    host: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Destination:
    """What is called: a name or an address, and a port of TCP."""

    what: Name | IPv4Address | IPv6Address
    port: int


def source(text: str, namespace: str) -> Name:
    """Return the pod that calls.

    Args:
        text: ``POD``, ``POD.NAMESPACE`` or ``NAMESPACE/POD``, with ``pod/`` before it or not.
        namespace: where it is unless ``text`` says so.

    Raises:
        CommandError: it names no pod.
    """
    found = _name(text, namespace)
    if found.kind == "service":
        raise CommandError(f"{text}: a connection comes from a pod; name one of the service's")
    return found


def destination(text: str, namespace: str) -> Destination:
    """Return what is called.

    Args:
        text: a host, a service or pod as ``NAME``, ``NAME.NAMESPACE``, ``NAMESPACE/NAME``, ``svc/NAME``,
            ``pod/NAME`` or an address (of IPv6 in brackets), then ``:PORT``.
        namespace: where it is unless ``text`` says so.

    Raises:
        CommandError: the port is missing or none, or the name is.
    """
    where, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 1 << 16 or not where:
        raise CommandError(f"{text}: a port is missing; write NAME:PORT, ADDRESS:PORT or [ADDRESS]:PORT")
    try:
        return Destination(ip_address(where.removeprefix("[").removesuffix("]")), int(port))
    except ValueError:
        return Destination(_name(where, namespace), int(port))


def _name(text: str, namespace: str) -> Name:
    parts = text.split("/")
    kind = ""
    if parts[0] in _POD_TYPES | _SERVICE_TYPES and len(parts) > 1:
        kind = "pod" if parts.pop(0) in _POD_TYPES else "service"
    given = parts.pop(0) if len(parts) > 1 else ""
    if len(parts) != 1 or not parts[0]:
        raise CommandError(f"{text}: write NAME, NAME.NAMESPACE or NAMESPACE/NAME")
    host = parts[0]
    name, _, rest = host.partition(".")
    return Name(kind, given or rest.partition(".")[0] or namespace, name, host)
