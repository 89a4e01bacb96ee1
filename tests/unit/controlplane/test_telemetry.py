"""Which Telemetries count, in which order, and what follows from them: Istio's rules as pure functions."""

from pathlib import Path
from typing import Any

import pytest

from controlplane.envoy import metrics as envoy_metrics
from controlplane.envoy.telemetry import access_logs as loggers
from controlplane.inputs.rejections import name_in
from controlplane.inputs.sources import Rejection
from controlplane.routing.telemetry import access_logs, metrics, tracing
from controlplane.routing.telemetry.scope import inherited
from controlplane.routing.telemetry.tracing import Traces
from meshapi.mesh_config import providers
from meshapi.mesh_config.model import MeshConfig
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.names import LISTENER_TYPE
from meshapi.resources import base
from meshapi.resources.telemetry import Telemetry
from tests.scenarios import files, world

SERVICE = {"targetRefs": [{"kind": "Service", "name": "reviews"}]}


def telemetry(name: str, namespace: str, day: int = 1, **spec: Any) -> Telemetry:
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": f"2026-01-{day:02}T00:00:00Z"}
    return base.read(Telemetry, {"metadata": metadata, "spec": spec})


def names(*found: Telemetry, root: str = "root", proxy: str = "proxy", owner: str = "owner") -> list[str]:
    return [one.metadata.name for one in inherited(found, root=root, proxy=proxy, owner=owner)]


def test_namespaces_come_from_general_to_special_and_then_what_is_attached() -> None:
    attached = telemetry("attached", "owner", 1, **SERVICE)
    gateway = telemetry("gateway", "proxy", 9, **SERVICE)
    wide = [telemetry(space, space, 5) for space in ("owner", "proxy", "root")]
    assert names(attached, gateway, *wide) == ["root", "proxy", "owner", "gateway", "attached"]


def test_the_oldest_counts_alone_for_a_namespace() -> None:
    assert names(telemetry("b", "root", 2), telemetry("a", "root", 3), telemetry("c", "root", 2)) == ["b"]


def test_all_that_are_attached_count_the_youngest_last() -> None:
    attached = [telemetry(name, "owner", day, **SERVICE) for name, day in (("b", 2), ("a", 3), ("c", 1))]
    assert names(*attached) == ["c", "b", "a"]


def test_a_namespace_that_is_several_of_the_three_counts_once() -> None:
    found = [telemetry("wide", "root"), telemetry("attached", "root", **SERVICE)]
    assert names(*found, root="root", proxy="root", owner="root") == ["wide", "attached"]


KNOWN = {
    name: ExtensionProvider.model_validate({"name": name, "envoyFileAccessLog": {"path": f"/{name}"}}) for name in "abc"
}


def logs(*levels: list[dict[str, Any]], default: tuple[str, ...] = (), **mesh: Any) -> dict[str, str]:
    config = MeshConfig.model_validate({"defaultProviders": {"accessLogging": default}, **mesh})
    found = [telemetry(f"t{n}", "owner", accessLogging=level) for n, level in enumerate(levels)]
    return {
        str(one.provider.envoy_file_access_log and one.provider.envoy_file_access_log.path): one.expression
        for one in access_logs.chosen(found, config, KNOWN)
    }


def to(*named: str, **more: Any) -> dict[str, Any]:
    return {"providers": [{"name": name} for name in named], **more}


def only(expression: str) -> dict[str, Any]:
    return {"filter": {"expression": expression}}


CLIENT = {"match": {"mode": "CLIENT"}}


@pytest.mark.parametrize(
    ("levels", "default", "expected"),
    [
        ([], ("a",), {"/a": ""}),
        ([[]], ("a", "b"), {"/a": "", "/b": ""}),
        ([[to("b")]], ("a",), {"/b": ""}),
        ([[to("B")]], (), {"/b": ""}),
        ([[{"disabled": True}]], ("a",), {}),
        ([[to("a"), to("b")], [{"disabled": True}]], (), {"/a": ""}),
        ([[to("a", "b")], [{"disabled": True}]], (), {}),
        ([[to("a", "b")], [to("a", disabled=True)]], (), {}),
        ([[to("a", "b")], [to("b")]], (), {"/b": ""}),
        ([[{"disabled": True}], [{"disabled": False}]], ("a",), {"/a": ""}),
        ([[{"disabled": True}], [{}]], ("a",), {"/a": ""}),
        ([[to("a", **only("x"))]], (), {"/a": "x"}),
        ([[only("x")]], ("a",), {"/a": "x"}),
        ([[to("a", **only("x"))], [to("a")]], (), {"/a": ""}),
        ([[to("a", **only("x"))], [{"disabled": False}]], (), {"/a": "x"}),
        ([[to("a", **only("x"))], [only("y")]], (), {"/a": "y"}),
        ([[to("a", **CLIENT), to("b", match={"mode": "SERVER"})]], (), {"/b": ""}),
        ([[to("a")], [{**CLIENT, "disabled": True}]], (), {"/a": ""}),
        ([[to("a")], [to("b", **CLIENT)]], (), {"/a": ""}),
    ],
)
def test_levels_change_what_the_level_before_says(
    levels: list[list[dict[str, Any]]], default: tuple[str, ...], expected: dict[str, str]
) -> None:
    assert logs(*levels, default=default) == expected


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([], {"/mesh": ""}),
        ([[to("absent")]], {"/mesh": ""}),
        ([[to("a")]], {"/a": ""}),
        ([[to("a", disabled=True)]], {}),
    ],
)
def test_the_file_of_the_mesh_counts_where_no_provider_does(
    levels: list[list[dict[str, Any]]], expected: dict[str, str]
) -> None:
    assert logs(*levels, accessLogFile="/mesh") == expected


@pytest.mark.parametrize("file", ["", "/dev/null", None])
def test_nothing_is_logged_unless_it_is_asked_for(file: str | None) -> None:
    assert logs(accessLogFile=file) == {}


def test_two_providers_are_always_there_and_can_be_replaced() -> None:
    own = ExtensionProvider.model_validate({"name": "Envoy", "envoyFileAccessLog": {"path": "/x"}})
    assert set(providers.by_name([])) == {"envoy", "prometheus"}
    assert providers.by_name([own])["envoy"] is own


def test_what_a_proxy_refuses_is_on_the_telemetry_that_it_came_from(tmp_path: Path) -> None:
    logging = {"accessLogging": [{"providers": [{"name": "envoy"}]}]}
    kind = {"kind": "Telemetry"}
    resources = (
        {**kind, "metadata": {"name": "mine"}, "spec": logging},
        {**kind, "metadata": {"name": "other", "namespace": "elsewhere"}, "spec": logging},
    )
    running = world.World(files.Scenario(about="", resources=resources, steps=()), tmp_path)
    assert running.message("Telemetry/mine") == ""
    refused = Rejection("waypoint-1.default", "bad expression", others=False)
    running.model.inputs.rejections.set((LISTENER_TYPE, name_in(("default", "waypoint"), "main_internal")), refused)
    running.publish()
    assert running.message("Telemetry/mine").startswith("rejected by waypoint-1.default: bad expression")
    assert "rejected" not in running.message("Telemetry/elsewhere/other")


ALL = {"match": {"metric": "ALL_METRICS"}}
COUNT = {"match": {"metric": "REQUEST_COUNT"}}


def changes(*levels: list[dict[str, Any]], default: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is said of each metric: ``off``, or its labels."""
    found = [telemetry(f"t{n}", "owner", metrics=level) for n, level in enumerate(levels)]
    mine = ExtensionProvider.model_validate({"name": "mine", "prometheus": {}})
    known = providers.by_name([mine, *KNOWN.values()])
    chosen = metrics.chosen(found, default, known)
    return {name: "off" if change.is_off else dict(change.labels) for name, change in chosen.items()}


def override(*overrides: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"overrides": list(overrides), **more}]


def tags(**values: str | None) -> dict[str, Any]:
    return {
        "tagOverrides": {
            name: {"operation": "REMOVE"} if value is None else {"value": value} for name, value in values.items()
        }
    }


EVERY = metrics.NAMES.values()
NONE = dict.fromkeys(EVERY, "off")


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([], {}),
        ([override()], {}),
        ([override({"disabled": True})], NONE),
        ([override({**ALL, "disabled": True})], NONE),
        ([override({**COUNT, "disabled": True})], {"requests_total": "off"}),
        ([override({**COUNT, "disabled": True}), override({**COUNT, "disabled": False})], {"requests_total": {}}),
        ([override({**COUNT, "disabled": True}), override({**COUNT, **tags(a="b")})], {"requests_total": "off"}),
        ([override({"disabled": True}), override()], NONE),
        ([override({"disabled": True}), override({**COUNT, **tags(a="b")})], {"requests_total": {"a": "b"}}),
        ([override({**COUNT, **tags(a="b")}), override({"disabled": True})], NONE),
        ([override(tags(a="b", c=None))], {name: {"a": "b", "c": None} for name in EVERY}),
        ([override({**COUNT, **tags(a="b")}), override({**COUNT, **tags(a="c")})], {"requests_total": {"a": "c"}}),
        ([override({**COUNT, **tags(a="b")}), override({**COUNT, **tags(a=None)})], {"requests_total": {"a": None}}),
        ([override({"match": {"mode": "CLIENT"}, "disabled": True})], {}),
        ([override({"match": {"mode": "SERVER"}, "disabled": True})], NONE),
        ([override({"match": {"customMetric": "x"}, "disabled": True})], {"x": "off"}),
        ([override({"match": {"metric": "GRPC_REQUEST_MESSAGES"}, "disabled": True})], {}),
        ([override(providers=[{"name": "absent"}])], NONE),
        ([override(providers=[{"name": "a"}])], NONE),
        ([override(providers=[{"name": "absent"}]), override(providers=[{"name": "Prometheus"}])], {}),
        ([override({"disabled": True}), override(providers=[{"name": "mine"}])], {}),
        ([override({"disabled": True}, providers=[{"name": "mine"}]), override({**COUNT, **tags(a="b")})],
         {"requests_total": {"a": "b"}}),
    ],
)  # fmt: skip
def test_later_overrides_change_earlier_ones(levels: list[list[dict[str, Any]]], expected: dict[str, Any]) -> None:
    assert changes(*levels) == expected


def test_default_providers_say_whether_there_are_metrics() -> None:
    assert changes() == {}
    assert changes(default=("prometheus",)) == {}
    assert changes(default=("a",)) == NONE
    assert changes(override(providers=[{"name": "prometheus"}]), default=("a",)) == {}


@pytest.mark.parametrize(
    ("expression", "form"),
    [
        ("request.host", "%CEL(request.host)%"),
        ("string(destination.port)", "%CEL(destination.port)%"),
        ("'at 100% ' + string(response.code)", "at 100%% %CEL(response.code)%"),
        ("(a)%2", "%CEL((a) %2)%"),
    ],
)
def test_an_expression_becomes_a_format(expression: str, form: str) -> None:
    assert envoy_metrics.value(expression) == form


ZIPKIN = ExtensionProvider.model_validate({"name": "z", "zipkin": {"service": "x", "port": 1, "maxTagLength": 9}})
OTEL = ExtensionProvider.model_validate({"name": "o", "opentelemetry": {"service": "x", "port": 1}})


def traces(*levels: list[dict[str, Any]], default: tuple[str, ...] = (), **defaults: Any) -> Traces | None:
    mesh = {"defaultProviders": {"tracing": default}, "defaultConfig": {"tracing": defaults}}
    found = [telemetry(f"t{n}", "owner", tracing=level) for n, level in enumerate(levels)]
    return tracing.chosen(found, MeshConfig.model_validate(mesh), {"z": ZIPKIN, "o": OTEL})


@pytest.mark.parametrize(
    ("levels", "default", "provider"),
    [
        ([], (), None),
        ([[{"randomSamplingPercentage": 5}]], (), None),
        ([], ("z",), "z"),
        ([], ("Z", "o"), "z"),
        ([[to("o")]], ("z",), "o"),
        ([[to("o", "z")]], (), "o"),
        ([[to("o")], [{}]], (), "o"),
        ([[to("o")], [to("z", **CLIENT)]], (), "o"),
        ([[to("absent")]], ("z",), None),
        ([[{"disableSpanReporting": True}]], ("z",), None),
        ([[{"disableSpanReporting": True}], [{"randomSamplingPercentage": 5}]], ("z",), None),
        ([[{"disableSpanReporting": True}], [{"disableSpanReporting": False}]], ("z",), "z"),
        ([[{**CLIENT, "disableSpanReporting": True}]], ("z",), "z"),
    ],
)
def test_the_last_provider_that_is_named_takes_the_spans(
    levels: list[list[dict[str, Any]]], default: tuple[str, ...], provider: str | None
) -> None:
    found = traces(*levels, default=default)
    assert (None if found is None else found.provider.name) == provider


def test_details_of_traces_come_from_the_last_level_that_has_them() -> None:
    tag = {"literal": {"value": "x"}}
    plain = traces(default=("o",))
    assert plain is not None
    assert (plain.sampling, plain.tags, plain.max_path_length) == (1.0, {}, 0)
    assert plain.has_istio_tags
    assert plain.uses_request_id
    of_mesh = traces(default=("z",), sampling=7, customTags={"m": tag}, maxPathTagLength=3)
    assert of_mesh is not None
    assert (of_mesh.sampling, list(of_mesh.tags), of_mesh.max_path_length) == (7, ["m"], 9)
    first = {"randomSamplingPercentage": 50, "customTags": {"a": tag, "b": tag}, "enableIstioTags": False}
    second = {"customTags": {"c": tag}, "useRequestIdForTraceSampling": False}
    found = traces([first], [second], default=("o",), sampling=7, customTags={"m": tag}, maxPathTagLength=3)
    assert found is not None
    assert (found.sampling, list(found.tags), found.max_path_length) == (50, ["c"], 3)
    assert not found.has_istio_tags
    assert not found.uses_request_id
    off = traces([{"randomSamplingPercentage": 0}], default=("o",), sampling=7)
    assert off is not None
    assert off.sampling == 0


def test_of_tunnels_only_those_that_failed_are_logged() -> None:
    file = ExtensionProvider.model_validate({"name": "f", "envoyFileAccessLog": {}})
    http = ExtensionProvider.model_validate({"name": "h", "envoyHttpAls": {"service": "x", "port": 1}})
    tcp = ExtensionProvider.model_validate({"name": "t", "envoyTcpAls": {"service": "x", "port": 1}})
    found = [access_logs.Log(file, "a == b"), access_logs.Log(http), access_logs.Log(tcp)]
    config = MeshConfig()
    taken = list(loggers.of_failed_tunnels_in(found, config, lambda _: "cluster"))
    opened = list(loggers.of_failed_tunnels_out(found, config, lambda _: "cluster"))
    assert [one.name.rpartition(".")[2] for one in taken] == ["file", "http_grpc"]
    assert [one.name.rpartition(".")[2] for one in opened] == ["file", "tcp_grpc"]
    assert taken[1].filter.status_code_filter.comparison.value.default_value == 400
    assert opened[1].filter.response_flag_filter.flags == ["UF"]
    kinds = [one.WhichOneof("filter_specifier") for one in taken[0].filter.and_filter.filters]
    assert kinds == ["status_code_filter", "extension_filter"]
