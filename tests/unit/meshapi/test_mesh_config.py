"""The mesh configuration: what each field means, and reports of fields that are bad, unknown or not honoured."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshapi.mesh_config import access_log_format, reading, unsupported
from meshapi.mesh_config.model import AccessLogEncoding, MeshConfig, OutboundMode, Visibility
from tests.support.certificates import Issuer

ROOT = Issuer.root()


def read(document: dict[str, Any] | str) -> reading.Reading:
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    return reading.read({"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": text}})


def config(document: dict[str, Any]) -> MeshConfig:
    found = read(document)
    assert found.faults == ()
    return reading.config_of(found.content)


def reported(document: dict[str, Any] | str) -> list[tuple[str, str]]:
    found = read(document)
    return [(one.field, one.text) for one in (*found.faults, *found.notices)]


EVERYTHING: dict[str, Any] = {
    "trustDomain": "example.org",
    "trustDomainAliases": ["old.example.org"],
    "rootNamespace": "istio-system",
    "discoverySelectors": [{"matchLabels": {"mesh": "on"}}],
    "defaultServiceExportTo": ["*"],
    "serviceEntryVisibility": {"defaultVisibility": "NAMESPACE"},
    "caCertificates": [{"pem": ROOT.pem.decode()}],
    "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
    "accessLogFile": "/dev/stdout",
    "accessLogFormat": "%START_TIME% %RESP(X-Y?Z):10% 100%%\n",
    "accessLogEncoding": "TEXT",
    "connectTimeout": "5s",
    "tcpKeepalive": {"probes": 3, "time": "60s", "interval": "10s"},
    "enablePrometheusMerge": False,
    "defaultConfig": {
        "holdApplicationUntilProxyStarts": True,
        "gatewayTopology": {"numTrustedProxies": 1, "forwardClientCertDetails": 4, "proxyProtocol": {}},
        "tracing": {"sampling": 5, "maxPathTagLength": 9, "customTags": {"a": {"literal": {"value": "b"}}}},
    },
    "defaultProviders": {"metrics": ["prometheus"], "accessLogging": ["envoy"], "tracing": ["f"]},
    "enableTracing": None,
    "extensionProviders": [
        {"name": "a", "envoyFileAccessLog": {"path": "/a", "logFormat": {"text": "%CEL(size(request.path) > (1))%"}}},
        {"name": "b", "envoyOtelAls": {"service": "x", "port": 1, "logFormat": {"labels": {"a": "%PATH%"}}}},
        {"name": "c", "envoyHttpAls": {"service": "x", "port": 1, "additionalRequestHeadersToLog": ["a"]}},
        {"name": "d", "envoyTcpAls": {"service": "x", "port": 1, "filterStateObjectsToLog": ["a"]}},
        {"name": "e", "prometheus": {}},
        {
            "name": "f",
            "opentelemetry": {
                "service": "x",
                "port": 1,
                "maxTagLength": 9,
                "resourceDetectors": {"environment": {}},
                "http": {"path": "/a", "timeout": "1s", "headers": [{"name": "a", "value": "b"}]},
                "grpc": {"timeout": "1s", "initialMetadata": [{"name": "a", "envName": "B"}]},
            },
        },
        {
            "name": "g",
            "zipkin": {
                "service": "x",
                "port": 1,
                "maxTagLength": 9,
                "enable64bitTraceId": True,
                "path": "/p",
                "traceContextOption": "USE_B3_WITH_W3C_PROPAGATION",
                "timeout": "1s",
                "headers": [{"name": "a"}],
            },
        },
    ],
}


def test_honoured_fields_are_not_reported() -> None:
    assert reported(EVERYTHING) == []
    assert reported("") == []


def _spans(more: dict[str, Any]) -> dict[str, Any]:
    return {"opentelemetry": {"service": "x", "port": 1, **more}}


def _formed(form: dict[str, Any]) -> dict[str, Any]:
    return {"envoyFileAccessLog": {"logFormat": form}}


@pytest.mark.parametrize(
    ("provider", "field", "part"),
    [
        ({"envoyFileAccessLog": {}, "prometheus": {}}, "[0]", "exclude each other"),
        (_formed({"text": "", "labels": {}}), "[0].envoyFileAccessLog.logFormat", "exclude"),
        (_formed({"text": "%BOGUS%"}), "[0].envoyFileAccessLog.logFormat.text", "BOGUS"),
        (_formed({"labels": {"a": ["%B"]}}), "[0].envoyFileAccessLog.logFormat.labels", "%B"),
        (_formed({"text": "%REQ%"}), "[0].envoyFileAccessLog.logFormat.text", "write %REQ(...)%"),
        (_formed({"text": "%CEL(a >)%"}), "[0].envoyFileAccessLog.logFormat.text", "%CEL(a >)% has the end"),
        (_formed({"text": "%CEL(a(b) == ')')%"}), "[0].envoyFileAccessLog.logFormat.text", "calls a()"),
        (
            {"envoyHttpAls": {"service": "x", "port": 1, "additionalRequestHeadersToLog": ["a b"]}},
            "[0].envoyHttpAls.additionalRequestHeadersToLog[0]",
            "header",
        ),
        ({"envoyOtelAls": {"port": 1}}, "[0].envoyOtelAls.service", "required"),
        ({"envoyTcpAls": {"service": "x", "port": 0}}, "[0].envoyTcpAls.port", "greater"),
        ({"datadog": {}}, "[0].datadog", "providers of this kind"),
        ({"zipkin": {"service": "x", "port": 1, "headers": [{"name": "a b"}]}}, "[0].zipkin.headers[0].name", "header"),
        ({"zipkin": {"service": "x", "port": 1, "traceContextOption": 2}}, "[0].zipkin.traceContextOption", "USE_B3"),
        (
            _spans({"http": {"headers": [{"name": "a", "value": "b", "envName": "c"}]}}),
            "[0].opentelemetry.http.headers[0]",
            "exclude",
        ),
        (
            _spans({"http": {"headers": [{"name": "a", "value": "b\r\nc: d"}]}}),
            "[0].opentelemetry.http.headers[0]",
            "line break",
        ),
        (_spans({"dynatraceSampler": {}}), "[0].opentelemetry.dynatraceSampler", "Dynatrace"),
        (_spans({"serviceAttributeEnrichment": 1}), "[0].opentelemetry.serviceAttributeEnrichment", "service.name"),
        ({"bogus": {}}, "[0].bogus", "check the spelling"),
    ],
)
def test_a_bad_provider_is_named_with_its_field(provider: dict[str, Any], field: str, part: str) -> None:
    [(path, text)] = reported({"extensionProviders": [{"name": "x", **provider}]})
    assert path == f"extensionProviders{field}"
    assert part in text


@pytest.mark.parametrize(
    ("document", "field", "part"),
    [
        ({"enableTracing": True}, "enableTracing", "sends no spans by itself"),
        ({"enableTracing": False, "defaultProviders": {"tracing": ["f"]}}, "enableTracing", "no effect"),
        ({"defaultProviders": {"tracing": ["f", "f"]}}, "defaultProviders.tracing", "only the first"),
        ({"defaultConfig": {"tracing": {"zipkin": {}}}}, "defaultConfig.tracing.zipkin", "extensionProviders"),
        ({"defaultConfig": {"tracing": {"sampling": 101}}}, "defaultConfig.tracing.sampling", "100"),
    ],
)
def test_what_is_said_of_traces_and_has_no_effect_is_reported(document: dict[str, Any], field: str, part: str) -> None:
    [(path, text)] = reported({**document, "extensionProviders": [{"name": "f", **_spans({})}]})
    assert path == field
    assert part in text


def test_a_file_without_a_path_is_standard_output() -> None:
    [provider] = config({"extensionProviders": [{"name": "a", "envoyFileAccessLog": {"path": ""}}]}).extension_providers
    assert provider.envoy_file_access_log is not None
    assert provider.envoy_file_access_log.path == "/dev/stdout"


def test_default_providers_that_are_none_are_reported() -> None:
    named = {"accessLogging": ["envoy", "absent", "prometheus"], "metrics": ["prometheus", "envoy"]}
    assert reported({"defaultProviders": named}) == [
        ("defaultProviders.accessLogging", "names absent, which extensionProviders does not have"),
        ("defaultProviders.accessLogging", "names prometheus, which is a provider for something else"),
        ("defaultProviders.metrics", "names envoy, which is a provider for something else"),
    ]


@pytest.mark.parametrize(
    ("document", "field", "expected"),
    [
        ({"connectTimeout": "1m30s"}, "connect_timeout", 90.0),
        ({"connect_timeout": "250ms"}, "connect_timeout", 0.25),
        ({"trust_domain_aliases": ["a", "b"]}, "trust_domain_aliases", ("a", "b")),
        ({"accessLogEncoding": 1}, "access_log_encoding", AccessLogEncoding.JSON),
        ({"accessLogFile": ""}, "access_log_file", ""),
        ({}, "access_log_file", None),
    ],
)
def test_values(document: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(config(document), field) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, OutboundMode.ALLOW_ANY),
        ({"mode": "REGISTRY_ONLY"}, OutboundMode.REGISTRY_ONLY),
        ({"mode": 0}, OutboundMode.REGISTRY_ONLY),
        ({"mode": 3}, OutboundMode.ALLOW_ANY_DYNAMIC_DNS),
    ],
)
def test_outbound_mode(given: dict[str, Any], expected: OutboundMode) -> None:
    assert config({"outboundTrafficPolicy": given}).outbound_traffic_policy.mode is expected


@pytest.mark.parametrize(
    ("document", "field", "part"),
    [
        ({"trustDomain": "Example"}, "trustDomain", "is not a trust domain"),
        ({"defaultConfig": {"gatewayTopology": {"numTrustedProxies": -1}}},
         "defaultConfig.gatewayTopology.numTrustedProxies", "greater than or equal to 0"),
        ({"defaultConfig": {"gatewayTopology": {"forwardClientCertDetails": "KEEP"}}},
         "defaultConfig.gatewayTopology.forwardClientCertDetails", "(found 'KEEP')"),
        ({"trustDomain": 5}, "trustDomain", "valid string (found 5)"),
        ({"trustDomainAliases": ["ok", "a/b"]}, "trustDomainAliases[1]", "is not a trust domain"),
        ({"discoverySelectors": [{"matchExpressions": [{"key": "a", "operator": "Is"}]}]},
         "discoverySelectors[0].matchExpressions[0].operator", "'In', 'NotIn', 'Exists' or 'DoesNotExist'"),
        ({"discoverySelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]},
         "discoverySelectors[0].matchExpressions[0]", "operator In needs values"),
        ({"discoverySelectors": [{"matchLabels": {"a b": "c"}}]}, "discoverySelectors[0].matchLabels.a b.[key]",
         "is not a label name"),
        ({"outboundTrafficPolicy": {"mode": "DENY"}}, "outboundTrafficPolicy.mode", "(found 'DENY')"),
        ({"connectTimeout": "5"}, "connectTimeout", "'5' is not a duration; write it as 10s or 500ms (found '5')"),
        ({"connectTimeout": "0s"}, "connectTimeout", "between 1ms and 1h"),
        ({"tcpKeepalive": {"time": "500ms"}}, "tcpKeepalive.time", "between 1s and 32767s"),
        ({"tcpKeepalive": {"probes": 0}}, "tcpKeepalive.probes", "greater than or equal to 1"),
        ({"caCertificates": [{"pem": "x"}]}, "caCertificates[0]", "pem is not a list of PEM certificates"),
        ({"caCertificates": [{"pem": ROOT.leaf([])[0].decode()}]}, "caCertificates[0]", "is not a CA"),
        ({"defaultServiceExportTo": [".", "*"]}, "defaultServiceExportTo", "* and ~ must be alone"),
        ({"accessLogFormat": "%START_TIME"}, "accessLogFormat", "'%START_TIME' is not an operator"),
        ({"accessLogFormat": "%STRAT_TIME%"}, "accessLogFormat", "did you mean %START_TIME%?"),
        ({"accessLogFormat": "%START_TIME(%Q)%"}, "accessLogFormat", "a time that cannot be written"),
        ({"accessLogFormat": "a", "accessLogEncoding": "JSON"}, "accessLogFormat", "is not JSON"),
        ({"accessLogFormat": '{"a": ["%X"]}', "accessLogEncoding": "JSON"}, "accessLogFormat", "is not an operator"),
        ("trustDomain: [\n", "", "is not YAML"),
        ("- a\n", "", "is not a mapping"),
    ],
)  # fmt: skip
def test_bad_values(document: dict[str, Any] | str, field: str, part: str) -> None:
    found = read(document)
    assert [one.field for one in found.faults] == [field]
    assert part in found.faults[0].text
    [message] = found.messages
    assert message.startswith("data.mesh") and "last good" in message


@pytest.mark.parametrize(
    ("document", "field", "part"),
    [
        ({"meshMTLS": {"minProtocolVersion": "TLSV1_2"}}, "meshMTLS", "has no effect: ztunnel always uses mutual TLS"),
        ({"mesh_mTLS": {"minProtocolVersion": "TLSV1_2"}}, "meshMTLS", "has no effect"),
        ({"enablePrometheusMerge": True}, "enablePrometheusMerge", "ztunnel on port 15020"),
        ({"defaultConfig": {"concurrency": 2}}, "defaultConfig.concurrency", "ztunnel.workerThreads"),
        ({"defaultConfig": {"holdApplicationUntilProxyStarts": False}},
         "defaultConfig.holdApplicationUntilProxyStarts", "always start after"),
        ({"defaultConfig": {"concurency": 2}}, "defaultConfig.concurency", "did you mean concurrency?"),
        ({"defaultConfig": {"gatewayTopology": {"numTrustedProxy": 1}}},
         "defaultConfig.gatewayTopology.numTrustedProxy", "did you mean numTrustedProxies?"),
        ({"trustDomian": "x"}, "trustDomian", "did you mean trustDomain?"),
        ({"zzz": "x"}, "zzz", "check the spelling"),
        ({"outboundTrafficPolicy": {"mod": "x"}}, "outboundTrafficPolicy.mod", "did you mean mode?"),
        ({"outboundTrafficPolicy": {"tls": {}}}, "outboundTrafficPolicy.tls", "has no effect"),
        ({"outboundTrafficPolicy": {"mode": 3}}, "outboundTrafficPolicy.mode", "as ALLOW_ANY"),
        ({"discoverySelectors": [{"matchLables": {}}]}, "discoverySelectors[0].matchLables",
         "did you mean matchLabels?"),
        ({"accessLogFile": "/var/log/x"}, "accessLogFile", "/dev/stdout only"),
        ({"defaultServiceExportTo": ["."]}, "defaultServiceExportTo", "services of Kubernetes stay visible"),
        ({"serviceEntryVisibility": {"applyToSidecars": True}}, "serviceEntryVisibility.applyToSidecars",
         "no sidecars"),
        ({"caCertificates": [{"spiffeBundleUrl": "https://x"}]}, "caCertificates[0].spiffeBundleUrl", "is not fetched"),
        ({"caCertificates": [{"pem": ROOT.pem.decode(), "trustDomains": ["x"]}]}, "caCertificates[0].trustDomains",
         "not added"),
        ({"caCertificates": [{"pem": ROOT.pem.decode(), "certSigners": ["x"]}]}, "caCertificates[0].certSigners",
         "not added"),
    ],
)  # fmt: skip
def test_fields_without_effect_are_reported(document: dict[str, Any], field: str, part: str) -> None:
    found = read(document)
    assert found.faults == ()
    assert [one.field for one in found.notices] == [field]
    assert part in found.notices[0].text
    assert not found.notices[0].text.endswith(".")


@pytest.mark.parametrize("name", sorted(unsupported.FIELDS))
def test_each_field_without_effect_is_reported_by_its_path(name: str) -> None:
    assert [field for field, _ in reported({name: {"other": "value"}})] == [name]


@pytest.mark.parametrize("name", sorted(unsupported.PROXY_FIELDS))
def test_each_proxy_field_without_effect_is_reported_by_its_path(name: str) -> None:
    assert [field for field, _ in reported({"defaultConfig": {name: "value"}})] == [f"defaultConfig.{name}"]


def test_a_bad_value_leaves_its_last_good_one_and_all_others_in_force() -> None:
    good = read({"trustDomain": "one", "connectTimeout": "1s"})
    bad = read({"trustDomain": "!", "connectTimeout": "2s", "accessLogFile": "/dev/null"})
    in_force = reading.config_of(bad.with_last_good(good.content))
    assert (in_force.trust_domain, in_force.connect_timeout, in_force.access_log_file) == ("one", 2.0, "/dev/null")
    fresh = reading.config_of(bad.with_last_good({}))
    assert fresh.trust_domain == "cluster.local"
    assert read("[").with_last_good(good.content) == good.content


def test_a_bad_format_leaves_the_last_good_format_with_its_encoding() -> None:
    good = read({"accessLogFormat": "%DURATION%"})
    bad = read({"accessLogFormat": "%DURATION%", "accessLogEncoding": "JSON"})
    in_force = reading.config_of(bad.with_last_good(good.content))
    assert (in_force.access_log_format, in_force.access_log_encoding) == ("%DURATION%", AccessLogEncoding.TEXT)


SELECTORS = [
    ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
    ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
    ({}, {}, True),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
    ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
    ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
    ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
    ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
    ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, {"a": "1"}, False),
]


@pytest.mark.parametrize(("selector", "labels", "expected"), SELECTORS)
def test_label_selectors(selector: dict[str, Any], labels: dict[str, str], expected: bool) -> None:
    assert config({"discoverySelectors": [selector]}).discovery_selectors[0].matches(labels) is expected


@pytest.mark.parametrize(
    ("document", "labels", "expected"),
    [
        ({}, {}, Visibility.PUBLIC),
        ({"defaultVisibility": 1}, {}, Visibility.NONE),
        ({"policies": [{"visibility": "NAMESPACE"}]}, {}, Visibility.NAMESPACE),
        ({"policies": [{"visibility": "NONE", "matchingRules": [{}]}]}, {}, Visibility.PUBLIC),
        ({"defaultVisibility": "NAMESPACE", "policies": [
            {"visibility": "NONE", "matchingRules": [{"namespaceSelector": {"matchLabels": {"a": "1"}}}]},
            {"visibility": "PUBLIC", "matchingRules": [{"namespaceSelector": {"matchLabels": {"b": "1"}}}]}]},
         {"b": "1"}, Visibility.PUBLIC),
    ],
)  # fmt: skip
def test_service_entry_visibility(document: dict[str, Any], labels: dict[str, str], expected: Visibility) -> None:
    found = config({"serviceEntryVisibility": document}).service_entry_visibility
    assert found is not None
    assert found.of(labels) is expected


@given(st.text(alphabet="%ABSTRE_():0123 \n", max_size=40))
def test_a_format_is_either_read_to_its_end_or_refused_with_a_reason(text: str) -> None:
    try:
        access_log_format.check_text(text)
    except ValueError as error:
        assert str(error)


VALUES = st.recursive(
    st.sampled_from([None, True, 0, 3, -1, "", "*", "10s", "x y", ROOT.pem.decode()]),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.sampled_from(["mode", "pem", "key"]), below),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*EVERYTHING, "x"]), VALUES, max_size=4))
def test_any_document_is_read_and_what_is_good_of_it_can_be_put_in_force(document: dict[str, Any]) -> None:
    reading.config_of(read(document).content)
