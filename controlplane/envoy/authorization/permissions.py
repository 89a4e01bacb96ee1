"""What is called: ``to`` and those of ``when``, as Envoy's permissions."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import path_pb2

from controlplane.envoy.authorization import texts
from controlplane.envoy.packing import extension
from meshapi.resources.security import Condition, Operation

Permission: Final = rbac_pb2.Permission
Make = Callable[[str], rbac_pb2.Permission]
_ONE: Final = "{*}"
_MANY: Final = "{**}"


def of_operation(operation: Operation, *, is_http: bool) -> rbac_pb2.Permission:
    """Return an operation: all of its fields, in each one of the values.

    Args:
        operation: the operation.
        is_http: whether fields about requests count.
    """
    fields: list[tuple[tuple[str, ...], tuple[str, ...], Make]] = [(operation.ports, operation.not_ports, _port)]
    if is_http:
        fields += [
            (operation.hosts, operation.not_hosts, _host),
            (operation.methods, operation.not_methods, _method),
            (operation.paths, operation.not_paths, _path),
        ]
    return both(one for values, not_values, make in fields for one in _field(values, not_values, make))


def of_condition(condition: Condition) -> rbac_pb2.Permission | None:
    """Return a condition about what is called; ``None`` for one about the caller."""
    makers: dict[str, Make] = {"destination.ip": _address, "destination.port": _port, "connection.sni": _server_name}
    make = makers.get(condition.key)
    return None if make is None else both(_field(condition.values, condition.not_values, make))


def anything() -> rbac_pb2.Permission:
    """Return a permission that every request needs."""
    return Permission(any=True)


def both(parts: Iterable[rbac_pb2.Permission]) -> rbac_pb2.Permission:
    """Return the permission that is all of ``parts``."""
    found = list(parts)
    return Permission(and_rules=Permission.Set(rules=found)) if found else anything()


def either(parts: Iterable[rbac_pb2.Permission]) -> rbac_pb2.Permission:
    """Return the permission that is one of ``parts``."""
    return Permission(or_rules=Permission.Set(rules=list(parts)))


def _field(values: tuple[str, ...], not_values: tuple[str, ...], make: Make) -> Iterator[rbac_pb2.Permission]:
    if values:
        yield either(map(make, values))
    if not_values:
        yield Permission(not_rule=either(map(make, not_values)))


def _port(value: str) -> rbac_pb2.Permission:
    return Permission(destination_port=int(value))


def _address(value: str) -> rbac_pb2.Permission:
    return Permission(destination_ip=texts.address_range(value))


def _server_name(value: str) -> rbac_pb2.Permission:
    return Permission(requested_server_name=texts.match(value))


def _host(value: str) -> rbac_pb2.Permission:
    return _header(":authority", value, ignores_case=True)


def _method(value: str) -> rbac_pb2.Permission:
    return _header(":method", value)


def _header(name: str, value: str, *, ignores_case: bool = False) -> rbac_pb2.Permission:
    match = texts.match(value, ignores_case=ignores_case and value != "*")
    return Permission(header=route_components_pb2.HeaderMatcher(name=name, string_match=match))


def _path(value: str) -> rbac_pb2.Permission:
    if _ONE in value or _MANY in value:
        template = value.replace(_MANY, "**").replace(_ONE, "*")
        config = uri_template_match_pb2.UriTemplateMatchConfig(path_template=template)
        return Permission(uri_template=extension("uri-template", config))
    return Permission(url_path=path_pb2.PathMatcher(path=texts.match(value)))
