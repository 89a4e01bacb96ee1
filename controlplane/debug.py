"""Debug pages: the model as JSON."""

import json

from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel

from controlplane.ambient.model import Model
from meshapi import names
from meshapi.proto import authorization_pb2, mesh_config_pb2, workload_pb2


def model_page(model: Model) -> str:
    """Return ``/debug/model``: every resource as proxies get it, and what layer 4 left out of policies."""
    addresses = {
        name: MessageToDict(workload_pb2.Address.FromString(item.body))
        for name, item in sorted(model.all(names.ADDRESS_TYPE).items())
    }
    policies = {
        name: MessageToDict(authorization_pb2.Authorization.FromString(item.body))
        for name, item in sorted(model.all(names.AUTHORIZATION_TYPE).items())
    }
    settings = model.all(names.MESH_CONFIG_TYPE).get(names.MESH_CONFIG_RESOURCE)
    mesh = {name: getattr(model.mesh, name) for name in model.mesh.__slots__}
    document = {"mesh": mesh, "addresses": addresses, "policies": policies, "problems": model.problems()}
    document["proxySettings"] = (
        {} if settings is None else MessageToDict(mesh_config_pb2.MeshConfig.FromString(settings.body))
    )
    return json.dumps(document, indent=2, default=_plain) + "\n"


def _plain(value: object) -> object:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else str(value)
