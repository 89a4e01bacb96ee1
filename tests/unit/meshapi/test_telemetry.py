"""Telemetry: what is refused, and how; and the expressions in it."""

from typing import Any

import pytest

from meshapi import cel
from meshapi.errors import InvalidResource
from meshapi.resources import base
from meshapi.resources.telemetry import Telemetry, WorkloadMode

SERVICE = {"kind": "Service", "name": "x"}
ALL = cel.PLAIN_FUNCTIONS | cel.TEXT_FUNCTIONS


def read(spec: dict[str, Any]) -> Telemetry:
    return base.read(Telemetry, {"metadata": {"name": "t", "namespace": "shop"}, "spec": spec})


def test_every_field_is_known() -> None:
    tags = {"custom": {"literal": {"value": "x"}}, "of": {"environment": {"name": "A", "defaultValue": "b"}}}
    found = read({
        "targetRefs": [{"kind": "Service", "name": "reviews"}],
        "tracing": [{
            "match": {"mode": "SERVER"}, "providers": [{"name": "z"}], "randomSamplingPercentage": 12.5,
            "disableSpanReporting": False, "useRequestIdForTraceSampling": True, "enableIstioTags": True,
            "disableContextPropagation": True,
            "customTags": {**tags, "header": {"header": {"name": "x-a"}}, "form": {"formatter": {"value": "%PATH%"}}},
        }],
        "metrics": [{
            "providers": [{"name": "prometheus"}], "reportingInterval": "5s",
            "overrides": [
                {"match": {"metric": "REQUEST_COUNT", "mode": "CLIENT"}, "disabled": True},
                {"match": {"customMetric": "mine"}, "tagOverrides": {"a": {"operation": "REMOVE"}}},
                {"tagOverrides": {"b": {"value": "1"}}},
            ],
        }],
        "accessLogging": [{
            "match": {"mode": "CLIENT_AND_SERVER"}, "providers": [{"name": "envoy"}], "disabled": False,
            "filter": {"expression": "response.code >= 400"},
        }],
    })  # fmt: skip
    assert base.unknown_fields(found) == []
    assert not found.spec.is_for_namespace


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"selector": {"matchLabels": {"a": "b"}}, "targetRefs": [SERVICE]}, "spec", "exclude"),
        ({"targetRefs": [{"kind": "Service", "name": str(n)} for n in range(17)]}, "spec.targetRefs", "at most 16"),
        ({"accessLogging": [{"providers": [{"name": ""}]}]}, "spec.accessLogging[0].providers[0].name", "character"),
        ({"accessLogging": [{"match": {"mode": "BOTH"}}]}, "spec.accessLogging[0].match.mode", "CLIENT_AND_SERVER"),
        ({"accessLogging": [{"filter": {}}]}, "spec.accessLogging[0].filter.expression", "required"),
        ({"accessLogging": [{"filter": {"expression": "a >"}}]}, "spec.accessLogging[0].filter.expression", "the end"),
        ({"tracing": [{"randomSamplingPercentage": 101}]}, "spec.tracing[0].randomSamplingPercentage", "100"),
        ({"tracing": [{"customTags": {"a": {}}}]}, "spec.tracing[0].customTags.a", "has none of"),
        (
            {"tracing": [{"customTags": {"a": {"literal": {}}}}]},
            "spec.tracing[0].customTags.a.literal.value", "required",
        ),
        (
            {"tracing": [{"customTags": {"a": {"literal": {"value": "x"}, "header": {"name": "x"}}}}]},
            "spec.tracing[0].customTags.a", "literal and header exclude",
        ),
        (
            {"tracing": [{"customTags": {"": {"literal": {"value": "x"}}}}]},
            "spec.tracing[0].customTags", "without a name",
        ),
        (
            {"metrics": [{"overrides": [{"match": {"metric": "REQUEST_COUNT", "customMetric": "x"}}]}]},
            "spec.metrics[0].overrides[0].match", "exclude",
        ),
        (
            {"metrics": [{"overrides": [{"match": {"customMetric": ""}}]}]},
            "spec.metrics[0].overrides[0].match.customMetric", "character",
        ),
        (
            {"metrics": [{"overrides": [{"tagOverrides": {"a": {}}}]}]},
            "spec.metrics[0].overrides[0].tagOverrides.a", "UPSERT needs a value",
        ),
        (
            {"metrics": [{"overrides": [{"tagOverrides": {"a": {"operation": "REMOVE", "value": "x"}}}]}]},
            "spec.metrics[0].overrides[0].tagOverrides.a", "value is for UPSERT only",
        ),
        (
            {"metrics": [{"overrides": [{"tagOverrides": {"a": {"value": "size(string(x))"}}}]}]},
            "spec.metrics[0].overrides[0].tagOverrides.a", "string()",
        ),
        ({"metrics": [{"reportingInterval": "often"}]}, "spec.metrics[0].reportingInterval", "duration"),
    ],
)  # fmt: skip
def test_what_istio_refuses_is_refused_with_field_and_fix(spec: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidResource) as error:
        read(spec)
    assert error.value.field == field
    assert reason in error.value.reason


def test_one_without_labels_and_targets_is_for_its_namespace() -> None:
    assert read({}).spec.is_for_namespace
    assert read({"selector": {"matchLabels": {}}}).spec.is_for_namespace
    assert not read({"selector": {"matchLabels": {"a": "b"}}}).spec.is_for_namespace
    assert not read({"targetRef": {"kind": "Service", "name": "x"}}).spec.is_for_namespace


def test_modes_cover_their_side() -> None:
    assert WorkloadMode.CLIENT_AND_SERVER.covers(WorkloadMode.SERVER)
    assert WorkloadMode.SERVER.covers(WorkloadMode.SERVER)
    assert not WorkloadMode.CLIENT.covers(WorkloadMode.SERVER)


@pytest.mark.parametrize(
    "expression",
    [
        "response.code >= 400",
        "connection.mtls && request.url_path.contains('v1beta3')",
        '!has(request.useragent) || !(request.useragent.startsWith("Amazon-Route53-Health-Check-Service"))',
        "request.headers['x-a'] in ['a', \"b\",]",
        "a.b[0]['c'].size() % 2 == -1 ? {'x': 1u, 'y': 2.5e3}['x'] > 0x1F : r'\\d' != b'''a'b'''",
        "response.code == 200 // a remark\n && true",
        "string(response.code).split('0').join('-') == '2--'",
    ],
)
def test_expressions_of_the_language_are_taken(expression: str) -> None:
    cel.check(expression, ALL)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("response.code >=", "has the end at character 17"),
        ("response.code = 3", "has '=' at character 15"),
        ("a b", "has 'b' at character 3 where an operator should be"),
        ("(a", "where ) should be"),
        ("a[1", "where ] should be"),
        ("a ? b", "where : should be"),
        ("a..b", "where a name should be"),
        ("a.in", "where a name should be"),
        ("'a", 'has "\'" at character 1'),
        ("a && ", "where a value should be"),
        ("{'a' 1}", "where : should be"),
        ("[1, 2", "where ] should be"),
        ("size(", "where a value should be"),
        ("bogus(1)", "calls bogus()"),
        ("request.headers.exists(x, x == 'a')", "calls exists()"),
        ("(" * 33 + "a" + ")" * 33, "nested"),
        ("a £ b", "has '£'"),
    ],
)
def test_what_the_proxy_would_refuse_is_refused(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".*") as error:
        cel.check(expression, ALL)
    assert reason in str(error.value)


def test_an_outermost_conversion_is_taken_off() -> None:
    assert cel.without_outer_string("string(destination.port)") == "destination.port"
    assert cel.without_outer_string("string( size(a) )") == "size(a)"
    for other in ("request.host", "string(a) + string(b)", "string(a)[0]", "mystring(a)"):
        assert cel.without_outer_string(other) == other


def test_a_remainder_does_not_end_an_operator_of_envoy() -> None:
    assert cel.without_percent("(a)%2 == 1") == "(a) %2 == 1"
    assert cel.without_percent("a % 2") == "a  % 2"
    with pytest.raises(ValueError, match="text with"):
        cel.without_percent("a == 'x)%'")


def test_texts_are_joined_where_one_is_certain_to_be_one() -> None:
    assert cel.joined("'is ' + request.method + '+'") == ["'is '", "request.method", "'+'"]
    assert cel.joined("a + string(b)") == ["a", "string(b)"]
    for one in ("a + b", "1 + 2", "'a' == b + 'c'", "x ? 'a' + b : 'c'", "('a' + b)", "'a'"):
        assert cel.joined(one) == [one]
    assert (cel.text_of("'a%'"), cel.text_of('"b"')) == ("a%", "b")
    for one in ("a", "'a' + 'b'", r"'\n'", "b'a'", "r'a'", "'''a'''", "1"):
        assert cel.text_of(one) is None
