"""The grammar of access log formats is written twice: what the control plane accepts, the engine accepts too."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from meshapi import names
from meshapi.mesh_config import access_log_format
from meshapi.proto import engine_pb2
from meshapi.proto.mesh_config_pb2 import MeshConfig
from meshengine import ConfigRejected, Engine

PIECES = st.sampled_from([
    "%", "%%", "(", ")", ":", "1", " ", "x", "\n", "é", "{", '"', "%START_TIME%", "%START_TIME(%F %T.%3f)%",
    "%REQ(A?B):9%", "%START_TIME(", "%Y", "%9f", ")%", "%DURATION%", "DURATION", "%BYTES_SENT:", "%UPSTREAM_HOST%",
    "%NO_SUCH%",
])  # fmt: skip
texts = st.lists(PIECES, max_size=8).map("".join)
documents = st.dictionaries(texts, texts | st.integers(0, 9) | st.none() | st.lists(texts, max_size=2), max_size=3)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    config = engine_pb2.EngineConfig(worker_threads=1, access_log=engine_pb2.MESH)
    made = Engine(config.SerializeToString())
    yield made
    made.close()


def is_accepted(engine: Engine, config: MeshConfig) -> bool:
    try:
        engine.apply(names.MESH_CONFIG_TYPE, [(names.MESH_CONFIG_RESOURCE, config.SerializeToString())], [])
    except ConfigRejected as error:
        [rejected] = error.rejected
        assert rejected.field == "accessLogFormat"
        return False
    return True


@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_text(engine: Engine, text: str) -> None:
    try:
        access_log_format.check_text(text)
    except ValueError as error:
        event("refused by both" if not is_accepted(engine, MeshConfig(access_log_format=text)) else "unknown operator")
        assert "knows" in str(error) or not is_accepted(engine, MeshConfig(access_log_format=text))
    else:
        assert is_accepted(engine, MeshConfig(access_log_format=text))


@settings(max_examples=300, deadline=None)
@given(text=documents.map(json.dumps) | texts)
def test_json(engine: Engine, text: str) -> None:
    config = MeshConfig(access_log_format=text, access_log_encoding=MeshConfig.JSON)
    if not text:
        return
    try:
        access_log_format.check_json(text)
    except ValueError:
        return
    assert is_accepted(engine, config)
