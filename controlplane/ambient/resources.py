"""From translated messages to named, versioned resources. Equal bytes have equal versions: a version is their hash."""

from controlplane.ambient import ip
from meshapi import names
from meshapi.proto import authorization_pb2, mesh_config_pb2, workload_pb2
from meshkit.xds.source import Resource, versioned


def of_workload(workload: workload_pb2.Workload) -> Resource:
    """Return a workload's resource; also found by its addresses, and wanted by those who want its services."""
    aliases: tuple[str, ...] = ()
    if workload.network_mode != workload_pb2.HOST_NETWORK:
        aliases = tuple(_alias(workload.network, address) for address in workload.addresses)
    return versioned(
        workload.uid, workload_pb2.Address(workload=workload), aliases=aliases, parents=tuple(sorted(workload.services))
    )


def of_service(service: workload_pb2.Service) -> Resource:
    """Return a service's resource; also found by its virtual addresses."""
    aliases = tuple(_alias(address.network, address.address) for address in service.addresses)
    name = f"{service.namespace}/{service.hostname}"
    return versioned(name, workload_pb2.Address(service=service), aliases=aliases)


def of_policy(policy: authorization_pb2.Authorization) -> Resource:
    """Return a policy's resource."""
    return versioned(f"{policy.namespace}/{policy.name}", policy)


def of_settings(settings: mesh_config_pb2.MeshConfig) -> Resource:
    """Return the resource of the proxies' settings; there is one."""
    return versioned(names.MESH_CONFIG_RESOURCE, settings)


def _alias(network: str, address: bytes) -> str:
    return f"{network}/{ip.text(address)}"
