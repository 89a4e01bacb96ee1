"""Kinds that have no effect here are validated all the same: what is stored has to mean something elsewhere."""

from typing import Any

import pytest

from meshapi.errors import InvalidResource
from meshapi.resources import base
from meshapi.resources.envoy_filter import EnvoyFilter
from meshapi.resources.extensions import ProxyConfig, WasmPlugin
from meshapi.resources.sidecar import Sidecar, WorkloadGroup

PATCH = {"operation": "MERGE", "value": {"name": "x"}}
EGRESS = {"hosts": ["./*", "istio-system/*", "*/api.example.com", "~/*"]}


def read(model: type[base.ModelObject], spec: Any) -> base.ModelObject:
    return base.read(model, {"metadata": {"name": "x", "namespace": "shop"}, "spec": spec})


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (Sidecar, {}),
        (Sidecar, {"egress": [{"port": {"number": 9080, "protocol": "HTTP", "name": "egress"}, **EGRESS}, EGRESS]}),
        (Sidecar, {"ingress": [{"port": {"number": 9080}, "defaultEndpoint": "unix:///var/run/app.sock"}]}),
        (WorkloadGroup, {"template": {"serviceAccount": "vm"}, "probe": {"httpGet": {"port": 8080}}}),
        (EnvoyFilter, {"configPatches": [{"applyTo": "HTTP_FILTER", "patch": {"operation": "REMOVE"}}]}),
        (EnvoyFilter, {"configPatches": [{"applyTo": "CLUSTER", "match": {"cluster": {}}, "patch": PATCH}]}),
        (ProxyConfig, {"concurrency": 0, "environmentVariables": {"A": "b"}, "image": {"imageType": "distroless"}}),
        (WasmPlugin, {"url": "oci://example.com/filter:1", "pluginConfig": {"a": [1]}, "sha256": "0" * 64}),
        (WasmPlugin, {"url": "example.com/filter", "vmConfig": {"env": [{"name": "A", "valueFrom": "HOST"}]}}),
    ],
)
def test_users_objects_are_taken(model: type[base.ModelObject], spec: Any) -> None:
    assert base.unknown_fields(read(model, spec)) == []


@pytest.mark.parametrize(
    ("model", "spec", "field", "reason"),
    [
        (Sidecar, {"egress": [{"hosts": []}]}, "spec.egress[0].hosts", "at least 1"),
        (Sidecar, {"egress": [{"hosts": ["api.example.com"]}]}, "spec.egress[0].hosts[0]", "host of a namespace"),
        (Sidecar, {"egress": [EGRESS, {"port": {"number": 1}, **EGRESS}]}, "spec", "only the last listener"),
        (Sidecar, {"ingress": [{"port": {"number": 1}}] * 2}, "spec", "two listeners with one port"),
        (Sidecar, {"ingress": [{"port": {"number": 1}, "defaultEndpoint": "10.0.0.1:80"}]},
         "spec.ingress[0].defaultEndpoint", "endpoint of the pod"),
        (WorkloadGroup, {}, "spec.template", "required"),
        (WorkloadGroup, {"template": {}, "probe": {}}, "spec.probe", "has none of"),
        (EnvoyFilter, {"configPatches": [{"patch": PATCH}]}, "spec.configPatches[0]", "applyTo is missing"),
        (EnvoyFilter, {"configPatches": [{"applyTo": "CLUSTER"}]}, "spec.configPatches[0]", "operation is missing"),
        (EnvoyFilter, {"configPatches": [{"applyTo": "CLUSTER", "patch": {"operation": "ADD"}}]},
         "spec.configPatches[0]", "value is missing"),
        (EnvoyFilter, {"configPatches": [{"applyTo": "ROUTER"}]}, "spec.configPatches[0].applyTo", "should be"),
        (EnvoyFilter, {"workloadSelector": {}, "targetRefs": [{"kind": "Gateway", "name": "w"}]}, "spec", "exclude"),
        (ProxyConfig, {"image": {"imageType": "a b"}}, "spec.image.imageType", "not the type"),
        (ProxyConfig, {"concurrency": -1}, "spec.concurrency", "greater"),
        (WasmPlugin, {}, "spec.url", "required"),
        (WasmPlugin, {"url": "ftp://x"}, "spec.url", "scheme"),
        (WasmPlugin, {"url": "x", "sha256": "ab"}, "spec.sha256", "SHA-256"),
        (WasmPlugin, {"url": "x", "vmConfig": {"env": [{"name": "A"}, {"name": "A"}]}}, "spec", "twice"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(model: type[base.ModelObject], spec: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        read(model, spec)
    assert refused.value.field == field
    assert reason in refused.value.reason
