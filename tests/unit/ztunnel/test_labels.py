"""The labels that a setting can leave out are those that the engine has."""

from contextlib import closing

import pytest

from meshapi.proto import engine_pb2
from meshengine import Engine
from ztunnel.labels import MetricLabel
from ztunnel.settings import ZtunnelSettings


def label_names(*excluded: MetricLabel) -> list[str]:
    config = engine_pb2.EngineConfig(worker_threads=1, metrics_excluded_labels=excluded)
    with closing(Engine(config.SerializeToString())) as engine:
        families = engine_pb2.MetricFamilies.FromString(engine.metrics()).families
    by_name = {one.name: list(one.label_names) for one in families}
    assert by_name["istio_tcp_sent_bytes"] == by_name["istio_tcp_connections_opened"]
    return by_name["istio_tcp_sent_bytes"]


def test_every_label_of_the_engine_but_the_reporter_can_be_left_out() -> None:
    assert label_names() == ["reporter", *MetricLabel]
    assert label_names(*MetricLabel) == ["reporter"]
    left_out = (MetricLabel.SOURCE_APP, MetricLabel.RESPONSE_FLAGS)
    assert label_names(*left_out) == ["reporter", *(one for one in MetricLabel if one not in left_out)]


def test_a_label_that_does_not_exist_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ZtunnelSettings.from_command_line(["--node-name", "n", "--metrics-excluded-labels", "reporter"])
    assert "--metrics-excluded-labels" in capsys.readouterr().err


def test_labels_come_from_the_environment_and_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_EXCLUDED_LABELS", '["source_zone", "destination_zone"]')
    arguments = ["--node-name", "n"]
    wanted = [MetricLabel.SOURCE_ZONE, MetricLabel.DESTINATION_ZONE]
    assert ZtunnelSettings.from_command_line(arguments).metrics_excluded_labels == wanted
    arguments += ["--metrics-excluded-labels", "source_app,source_version"]
    assert ZtunnelSettings.from_command_line(arguments).metrics_excluded_labels == [
        MetricLabel.SOURCE_APP, MetricLabel.SOURCE_VERSION,
    ]  # fmt: skip
