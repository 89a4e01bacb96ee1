"""The mesh configuration: config map ``istio``, key ``mesh``, YAML. Only the fields that are used are read."""

from typing import Any

import yaml
from pydantic import Field, ValidationError

from meshapi import names
from meshapi.errors import InvalidResource
from meshapi.resources.base import Fields, field_path
from meshkit.kube.client import Json


class MeshConfig(Fields):
    """What users set for the mesh as a whole. Source: istio/api, mesh/v1alpha1/config.proto."""

    trust_domain: str = Field(default=names.DEFAULT_TRUST_DOMAIN, min_length=1)
    root_namespace: str = ""


def parse(config_map: Json) -> MeshConfig:
    """Read the mesh configuration from its config map.

    Raises:
        InvalidResource: the text is not YAML, not a mapping, or a field has a wrong type.
    """
    metadata = config_map["metadata"]
    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
    text = (config_map.get("data") or {}).get(names.MESH_CONFIG_KEY, "")
    field = f"data.{names.MESH_CONFIG_KEY}"
    try:
        content: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InvalidResource("ConfigMap", name, field, f"is not YAML: {reason}; mend the text") from error
    if not isinstance(content, dict):
        raise InvalidResource("ConfigMap", name, field, "is not a mapping; write fields such as trustDomain")
    try:
        return MeshConfig.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InvalidResource("ConfigMap", name, f"{field}.{field_path(fault['loc'])}", fault["msg"]) from error
