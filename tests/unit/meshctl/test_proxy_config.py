"""The command group ``culvert proxy-config``: filters, spelling, and who answers for a pod.

What it makes of a real Envoy's pages is in ``tests/scenarios/test_proxy_config.py``.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshapi import names
from meshctl.proxy_config import (
    chain_matches,
    clusters,
    commands,
    dump,
    endpoints,
    listeners,
    log_levels,
    routes,
    secrets,
    sources,
)
from meshctl.proxy_config.dump import Dump
from meshctl.proxy_config.sources import Proxy, Target
from meshctl.proxy_config.spelling import camel_case
from meshctl.session import CommandError
from meshkit import kube
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.kubernetes_objects import pod

A = "inbound-vip|80|http/v1|a.shop.svc.cluster.local"
B = "outbound|443||b.shop.svc.cluster.local"
WAYPOINT = {names.GATEWAY_MANAGED_LABEL: names.WAYPOINT_MANAGED}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (clusters.Filter(), [A, B, "sds-grpc"]),
        (clusters.Filter(fqdn="a.shop"), [A]),
        (clusters.Filter(port=443), [B]),
        (clusters.Filter(subset="v1"), [A]),
        (clusters.Filter(direction="inbound"), [A]),
        (clusters.Filter(direction="outbound", port=80), []),
    ],
)
def test_filters_of_clusters(wanted: clusters.Filter, found: list[str]) -> None:
    held = Dump(clusters=[{"name": name} for name in ("sds-grpc", B, A)])
    assert [one["name"] for one in wanted.chosen(held)] == found


def test_a_cluster_says_which_object_it_is_from() -> None:
    def named(config: str) -> str:
        return clusters.table([{"name": A, "metadata": {"filter_metadata": {"istio": {"config": config}}}}]).rows[0][5]

    assert named("/apis/networking.istio.io/v1/namespaces/shop/destination-rule/a") == "a.shop"
    assert named("/apis/gateway.networking.k8s.io/v1/namespaces/shop/http-route/a") == "http-route/a.shop"
    assert named("nonsense") == ""


def host(address: str, port: int = 80, **health: Any) -> dict[str, Any]:
    return {
        "address": {"socket_address": {"address": address, "port_value": port}},
        "health_status": {"eds_health_status": "HEALTHY", **health},
    }


def test_endpoints_are_by_address_and_ejected_ones_are_said() -> None:
    hosts = [host("fd00::1"), host("10.0.0.10"), host("10.0.0.9", failed_outlier_check=True)]
    held = Dump(endpoints=[{"name": A, "host_statuses": hosts}, {"name": B, "host_statuses": []}])
    assert [row[:3] for row in endpoints.table(endpoints.Filter().chosen(held)).rows] == [
        ("10.0.0.9:80", "HEALTHY", "FAILED"),
        ("10.0.0.10:80", "HEALTHY", "OK"),
        ("[fd00::1]:80", "HEALTHY", "OK"),
    ]


def test_a_filter_of_endpoints_leaves_the_others_out_of_the_document() -> None:
    hosts = [host("10.0.0.1"), host("10.0.0.2", eds_health_status="UNHEALTHY")]
    held = Dump(endpoints=[{"name": A, "host_statuses": hosts}])
    [one] = endpoints.Filter(status="unhealthy").chosen(held)
    assert one["host_statuses"] == hosts[1:]
    assert endpoints.Filter(status="draining").chosen(held) == []


def test_routes_show_paths_and_how_many_conditions_there_are_beside() -> None:
    assert routes.described({"prefix": "/a"}) == "/a*"
    assert routes.described({"path": "/a"}) == "/a"
    assert routes.described({"path_separated_prefix": "/a"}) == "PathPrefix:/a"
    assert routes.described({"safe_regex": {"regex": "/a.*"}, "headers": [{}, {}]}) == "regex /a.* +2"


def test_a_virtual_host_without_routes_answers_404() -> None:
    item = {"name": "80", "virtual_hosts": [{"name": "none", "domains": ["*"]}]}
    assert routes.table([item]).rows == [("80", "none", "*", "/*", "404")]


def test_domains_are_shortened() -> None:
    names = ["a.shop.svc.cluster.local", "a.shop.svc", "a.shop", "a", "a:80", "10.0.0.1"]
    assert routes.domains(names) == "a.shop, a + 1 more..."
    assert routes.domains(["a:80"]) == "a:80"


def test_where_a_filter_chain_leads() -> None:
    weighted = {"clusters": [{"name": A, "weight": 1}, {"name": B, "weight": 3}]}
    chain = {
        "filter_chain_match": {"server_names": ["a.com", "b.com"], "application_protocols": ["h2"]},
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {"weighted_clusters": weighted}}],
    }
    rest = {"name": "rest", "filters": [{"name": "envoy.filters.network.echo"}]}
    item = {"name": "l", "filter_chains": [chain], "default_filter_chain": rest}
    assert listeners.table([item]).rows == [
        ("l", "", "SNI: a.com,b.com; App: h2", f"Cluster: {A} (1), {B} (3)"),
        ("l", "rest", "ALL", "Non-HTTP/Non-TCP"),
    ]


def test_what_leads_to_a_filter_chain_by_a_tree() -> None:
    def asked(kind: str) -> dict[str, Any]:
        return {"name": "x", "typed_config": {"@type": f"type.googleapis.com/x.{kind}"}}

    def to(name: str) -> dict[str, Any]:
        return {"action": {"name": name, "typed_config": {"@type": "x.StringValue", "value": name}}}

    protocols = {"exact_match_map": {"map": {"'h2c'": to("http"), "'http/1.1'": to("http")}}}
    detected = {
        "matcher": {"matcher_tree": {"input": asked("ApplicationProtocolInput"), **protocols}, "on_no_match": to("tcp")}
    }
    ports = {"input": asked("DestinationPortInput"), "exact_match_map": {"map": {"80": detected, "81": to("other")}}}
    ranges = [{"address_prefix": "10.0.0.1", "prefix_len": 32}, {"address_prefix": "fd00::1", "prefix_len": 128}]
    one = {"ranges": ranges, "on_match": {"matcher": {"matcher_tree": ports}}}
    addresses = {"name": "ip", "typed_config": {"range_matchers": [one]}}
    tree = {
        "matcher_tree": {"input": asked("DestinationIPInput"), "custom_match": addresses},
        "on_no_match": to("rest"),
    }
    place = "Addr: 10.0.0.1/32,fd00::1/128"
    assert chain_matches.by_chain(tree) == {
        "http": f"App: h2c,http/1.1; {place}:80",
        "tcp": f"{place}:80",
        "other": f"{place}:81",
        "rest": "ALL",
    }
    item = {"name": "l", "filter_chain_matcher": tree, "filter_chains": [{"name": "tcp"}, {"name": "lost"}]}
    assert [row[2] for row in listeners.table([item]).rows] == [f"{place}:80", "ALL"]
    assert chain_matches.by_chain({}) == {}


def test_keys_that_are_data_keep_their_spelling() -> None:
    item = {
        "filter_chain": {"typed_per_filter_config": {"my_filter": {"some_field": 1}}},
        "metadata": {"filter_metadata": {"my_space": {"my_key": 1}}, "typed_filter_metadata": {"my_space": {"a_b": 1}}},
        "node": {"metadata": {"MY_KEY": {"my_key": 1}}},
    }
    assert camel_case(item) == {
        "filterChain": {"typedPerFilterConfig": {"my_filter": {"someField": 1}}},
        "metadata": {"filterMetadata": {"my_space": {"my_key": 1}}, "typedFilterMetadata": {"my_space": {"aB": 1}}},
        "node": {"metadata": {"MY_KEY": {"my_key": 1}}},
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web-1", Target("pod", "web-1", "shop")),
        ("web-1.dev", Target("pod", "web-1", "dev")),
        ("pod/web-1", Target("pod", "web-1", "shop")),
        ("deploy/way.dev", Target("deployment", "way", "dev")),
    ],
)
def test_what_the_user_names(text: str, found: Target) -> None:
    assert sources.target(text, "shop") == found


@pytest.mark.parametrize("text", ["service/web", "deploy/", ".dev"])
def test_a_name_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        sources.target(text, "shop")


def test_who_answers_for_a_pod() -> None:
    assert sources.proxy_of(pod("way-1", labels=WAYPOINT)) is Proxy.OWN
    assert sources.proxy_of(pod("way-1", labels=WAYPOINT, captured=True)) is Proxy.OWN
    assert sources.proxy_of(pod("web-1", captured=True)) is Proxy.ZTUNNEL
    edge = pod("edge-1")
    edge["spec"]["containers"][0]["env"] = [{"name": "NODE_TYPE", "value": "router"}]
    assert sources.proxy_of(edge) is Proxy.OWN, "a gateway that its user runs"
    edge["spec"]["containers"][0]["env"] = [{"name": "NODE_TYPE", "value": "sidecar"}]
    for other in (pod("web-1"), edge):
        with pytest.raises(CommandError, match="-1 has no proxy"):
            sources.proxy_of(other)


async def test_a_deployment_is_answered_for_by_one_of_its_ready_pods() -> None:
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        labels = {"app": "way"}
        api.put("deployments", {"metadata": {"name": "way"}, "spec": {"selector": {"matchLabels": labels}}}, "shop")
        wanted = Target("deployment", "way", "shop")
        with pytest.raises(CommandError, match="has no pods"):
            await sources.find_pod(client, wanted)
        api.put("pods", pod("way-1", labels=labels, ready=False))
        api.put("pods", pod("way-2", labels=labels))
        assert (await sources.find_pod(client, wanted))["metadata"]["name"] == "way-2"
        for missing in (Target("deployment", "x", "shop"), Target("pod", "way-2", "dev")):
            with pytest.raises(CommandError, match="there is no"):
                await sources.find_pod(client, missing)


def test_log_levels_of_all_loggers_are_set_first() -> None:
    assert log_levels.queries("") == [""]
    assert log_levels.queries("debug") == ["?level=debug"]
    assert log_levels.queries("http:trace,info,rbac=debug") == ["?level=info", "?paths=http%3Atrace%2Crbac%3Adebug"]


@pytest.mark.parametrize("levels", ["loud", "http:loud", "debug,,", "a b:info"])
def test_a_log_level_that_means_nothing_is_refused(levels: str) -> None:
    with pytest.raises(CommandError, match="--level"):
        log_levels.queries(levels)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"configs": 1})])
def test_a_file_that_is_no_dump_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    file.write_text(text)
    done = CliRunner().invoke(commands.app, ["cluster", "-f", str(file)])
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("culvert proxy-config cluster: ")


def test_nothing_found_is_said(tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"configs": []}))
    done = CliRunner().invoke(commands.app, ["route", "-f", str(file)])
    assert (done.exit_code, done.stderr) == (1, "culvert proxy-config route: nothing found\n")


def test_a_secret_that_has_not_arrived_is_a_row() -> None:
    config = {"configs": [{"@type": "x.SecretsConfigDump", "dynamic_warming_secrets": [{"name": "default"}]}]}
    rows = secrets.table(dump.read(config).secrets, datetime.now(UTC)).rows
    assert rows == [("default", "", "WARMING", "false", "", "", "")]
