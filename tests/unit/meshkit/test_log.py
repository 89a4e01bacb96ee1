"""The form of log lines."""

import json

import pytest

from meshkit import log


@pytest.fixture(autouse=True)
def restored():
    yield
    log.configure()


def line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_text_has_time_level_scope_message_and_quoted_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(log_format=log.Format.TEXT)
    log.logger("tests").warning("it happened", pod="shop/web", count=3, ok=True, reason='a" b="c\nd')
    time, level, scope, message, fields = line(capsys).rstrip("\n").split("\t")
    assert time.endswith("Z")
    assert (level, scope, message) == ("warn", "tests", "it happened")
    assert fields == 'pod="shop/web" count=3 ok=true reason="a\\" b=\\"c\\nd"'


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(log_format=log.Format.JSON)
    log.logger("tests").info("it happened", pod="shop/web\n")
    found = json.loads(line(capsys))
    assert found.pop("time")
    assert found == {"level": "info", "scope": "tests", "message": "it happened", "pod": "shop/web\n"}


def test_messages_below_the_log_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level=log.Level.WARN)
    log.logger("tests").info("not said")
    log.logger("tests").error("said")
    assert line(capsys).count("\n") == 1
