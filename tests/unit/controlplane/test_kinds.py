"""The table of kinds: that everything else which lists kinds agrees with it, and what a new kind takes."""

import asyncio
import re
from pathlib import Path
from typing import Any

import yaml

from controlplane.ambient.model import create
from controlplane.envoy import layer7
from controlplane.graph.derived import Derived, Fetch
from controlplane.graph.scheduler import Graph
from controlplane.inputs.config_warnings import ConfigWarnings
from controlplane.inputs.kinds import KINDS, InputKind
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.registry import Registry
from controlplane.inputs.sources import Inputs
from controlplane.metrics import Metrics
from controlplane.stages import ADDRESSES
from controlplane.status.outcomes import Outcomes
from meshapi import names
from meshapi.resources import base, crd
from meshctl.report import collecting
from meshkit import kube
from meshkit.kube import Kind, kinds
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until

TEMPLATE = Path("deploy/helm/culvert/templates/control-plane-rbac.yaml")


def rules() -> list[dict[str, Any]]:
    """The rules of the control plane's ClusterRole, as the chart has them."""
    text = re.sub(r"\{\{.*?\}\}", "x", TEMPLATE.read_text())
    documents = [item for item in yaml.safe_load_all(text) if item]
    [role] = [item for item in documents if item["kind"] == "ClusterRole"]
    found: list[dict[str, Any]] = role["rules"]
    return found


def may(verb: str, group: str, resource: str) -> bool:
    return any(
        group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
        for rule in rules()
        if "resourceNames" not in rule
    )


def test_the_chart_lets_the_control_plane_read_each_kind() -> None:
    missing = [
        (verb, item.kind.plural)
        for item in KINDS
        for verb in ("get", "list", "watch")
        if not may(verb, item.kind.group, item.kind.plural)
    ]
    assert missing == []


_OTHERS = (
    kinds.GATEWAY,
    kinds.GATEWAY_CLASS,
    kinds.LISTENER_SET,
    kinds.HTTP_ROUTE,
    kinds.GRPC_ROUTE,
    kinds.TCP_ROUTE,
    kinds.TLS_ROUTE,
    kinds.UDP_ROUTE,
    kinds.BACKEND_TLS_POLICY,
    kinds.BACKEND_TRAFFIC_POLICY,
    kinds.INGRESS,
)
"""Kinds whose status is written, but not as conditions of `Outcomes`."""


def test_the_chart_lets_the_control_plane_write_each_condition_and_no_other_status() -> None:
    wanted = {(kind.group, f"{kind.plural}/status") for kind in Outcomes(layer7.create(create(MeshContext()))).by_kind}
    wanted |= {(kind.group, f"{kind.plural}/status") for kind in _OTHERS}
    given = {
        (group, resource)
        for rule in rules()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if resource.endswith("/status")
    }
    assert given == wanted


def test_each_kind_of_the_mesh_has_a_definition_and_is_in_the_bug_report() -> None:
    ours = {(item.kind.group, item.kind.name, item.kind.plural) for item in KINDS if item.is_mesh_resource}
    assert ours <= {(item.group, item.kind, item.plural) for item in crd.DEFINITIONS}
    assert ours <= {(kind.group, kind.name, kind.plural) for kind in collecting.CLUSTER_KINDS}


class Greeting(base.ModelObject):
    """A made-up kind."""

    text: str


GREETING = InputKind(Kind("test.istio.io", "v1", "Greeting", "greetings"), Greeting)


async def test_a_new_kind_is_a_line_in_the_table_a_model_and_a_derivation() -> None:
    graph, metrics = Graph(), Metrics()
    inputs = Inputs(graph, MeshContext(), [*KINDS, GREETING])

    def shout(item: Greeting, fetch: Fetch) -> str:
        return f"{item.text.upper()} in {fetch.setting(inputs.mesh).trust_domain}"

    shouted = Derived(graph, "shouted", inputs.of(Greeting), ADDRESSES, shout)
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        registry = Registry(
            client,
            inputs,
            system_namespace=names.DEFAULT_NAMESPACE,
            metrics=metrics,
            warnings=ConfigWarnings(metrics),
            touch=lambda _: None,
            input_kinds=[*KINDS, GREETING],
        )
        api.put("greetings", {"metadata": {"name": "g", "namespace": "shop"}, "text": "hello"}, "shop")
        following = asyncio.create_task(registry.informer(Greeting).run())
        await until(lambda: inputs.of(Greeting).find(("shop", "g")))
        graph.run()
        assert shouted.find(("shop", "g")) == "HELLO in cluster.local"
        api.put("greetings", {"metadata": {"name": "g", "namespace": "shop"}}, "shop")
        await until(lambda: inputs.faults.find(("Greeting", ("shop", "g"))))
        graph.run()
        assert shouted.find(("shop", "g")) == "HELLO in cluster.local", "the last good form stays in force"
        following.cancel()
        counted = metrics.registry.get_sample_value("pilot_k8s_cfg_events", {"type": "Greeting", "event": "add"})
        assert counted == 1
