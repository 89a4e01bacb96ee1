"""Custom resource definitions: committed files are fresh, and the schema is structural."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshapi.resources import base, crd, security
from tests.support import kubernetes_objects as objects


@pytest.mark.parametrize("definition", crd.DEFINITIONS, ids=lambda definition: definition.kind)
def test_committed_files_are_fresh(definition: crd.Definition) -> None:
    file = Path(__file__).parents[3] / crd.FOLDER / crd.file_name(definition)
    assert file.read_text() == crd.render(definition), "run: python -m meshapi.resources.crd"


def nodes(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            found += nodes(schema[key], f"{path}[]")
    return found


@pytest.mark.parametrize("definition", crd.DEFINITIONS, ids=lambda definition: definition.kind)
def test_schema_is_structural_and_keeps_unknown_fields(definition: crd.Definition) -> None:
    for path, node in nodes(crd.schema(definition.spec)):
        assert node["type"] in {"object", "array", "string", "boolean", "integer", "number"}, path
        assert not {"$ref", "anyOf", "default", "title", "$defs"} & node.keys(), path
        if "properties" in node:
            assert node["x-kubernetes-preserve-unknown-fields"] is True, path


def test_definition_serves_both_versions() -> None:
    policy = yaml.safe_load(crd.render(next(item for item in crd.DEFINITIONS if item.kind == "AuthorizationPolicy")))
    assert policy["metadata"]["name"] == "authorizationpolicies.security.istio.io"
    versions = policy["spec"]["versions"]
    assert [(item["name"], item["served"], item["storage"]) for item in versions] == [
        ("v1", True, True),
        ("v1beta1", True, False),
    ]
    spec = versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert spec["action"]["enum"] == ["ALLOW", "DENY", "AUDIT", "CUSTOM"]
    rule = spec["rules"]["items"]["properties"]
    assert set(rule) == {"from", "to", "when"}
    assert "notRemoteIpBlocks" in rule["from"]["items"]["properties"]["source"]["properties"]


def test_unknown_fields_are_named() -> None:
    item = objects.policy("p", rulez=[], rules=[{"from": [{"source": {"namespaces": ["x"], "pricipals": ["x"]}}]}])
    policy = base.read(security.AuthorizationPolicy, item)
    assert base.unknown_fields(policy) == ["spec.rules[0].from[0].source.pricipals", "spec.rulez"]
    peer = base.read(security.PeerAuthentication, objects.peer("p", ports={"80": "STRICT"}))
    assert base.unknown_fields(peer) == []
