"""The mesh configuration as proxies get it."""

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from controlplane.ambient import proxy_settings
from meshapi import names
from meshapi.mesh_config.model import MeshConfig
from meshapi.proto import mesh_config_pb2
from meshkit.xds import client
from meshkit.xds.credentials import token_metadata
from tests.support.running_control_plane import Recorder, Running
from tests.support.waiting import until

ANY = {"outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ANY),
        ({"accessLogFile": ""}, ANY | {"accessLogFile": "/dev/null"}),
        ({"accessLogFile": "/dev/stdout"}, ANY | {"accessLogFile": "/dev/stdout"}),
        ({"accessLogFormat": "%DURATION%"}, ANY | {"accessLogFormat": "%DURATION%"}),
        ({"accessLogEncoding": "JSON"}, ANY | {"accessLogEncoding": "JSON"}),
        ({"connectTimeout": "1500ms"}, ANY | {"connectTimeout": "1.500s"}),
        ({"tcpKeepalive": {"probes": 3, "time": "1m"}}, ANY | {"tcpKeepalive": {"probes": 3, "time": "60s"}}),
        ({"tcpKeepalive": {"interval": "2s"}}, ANY | {"tcpKeepalive": {"interval": "2s"}}),
        ({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}, {"outboundTrafficPolicy": {}}),
        ({"outboundTrafficPolicy": {"mode": 3}}, {"outboundTrafficPolicy": {"mode": "ALLOW_ANY_DYNAMIC_DNS"}}),
    ],
)
def test_settings(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert MessageToDict(proxy_settings.translate(MeshConfig.model_validate(config))) == expected


PUBLIC_NUMBERS = {
    "connect_timeout": 6, "access_log_file": 13, "outbound_traffic_policy": 17, "access_log_format": 24,
    "access_log_encoding": 27, "tcp_keepalive": 28,
}  # fmt: skip
"""Source: istio/api, mesh/v1alpha1/config.proto."""


def test_field_numbers_are_those_of_the_public_api() -> None:
    fields = mesh_config_pb2.MeshConfig.DESCRIPTOR.fields
    assert {field.name: field.number for field in fields} == PUBLIC_NUMBERS
    assert mesh_config_pb2.MeshConfig.DESCRIPTOR.full_name == names.MESH_CONFIG_TYPE.rpartition("/")[2]


def put(running: Running, text: str) -> None:
    running.api.put("configmaps", {"metadata": {"name": "istio"}, "data": {"mesh": text}}, "istio-system")


async def test_settings_are_served_before_anything_else_and_follow_the_config_map(running: Running) -> None:
    put(running, "connectTimeout: 2s\n")
    await until(lambda: running.plane.model.all(names.MESH_CONFIG_TYPE))
    seen = Recorder()
    types = (names.MESH_CONFIG_TYPE, names.AUTHORIZATION_TYPE, names.ADDRESS_TYPE)
    subscriber = client.DeltaClient(
        connect=running.connect(),
        metadata=lambda: token_metadata(running.token_file, "Kubernetes"),
        node=client.NodeInfo("ztunnel~x"),
        subscriptions=dict.fromkeys(types, client.EVERYTHING),
        optional=[names.MESH_CONFIG_TYPE],
        receiver=seen,
    )

    def settings() -> mesh_config_pb2.MeshConfig:
        _, body = seen.held.get(names.MESH_CONFIG_RESOURCE, ("", b""))
        return mesh_config_pb2.MeshConfig.FromString(body)

    async with running.following(subscriber):
        await until(lambda: names.ADDRESS_TYPE in [type_url for type_url, *_ in seen.updates])
        assert seen.updates[0][0] == names.MESH_CONFIG_TYPE
        assert settings().connect_timeout.seconds == 2
        put(running, "connectTimeout: 3s\naccessLogFormat: '%X'\n")
        await until(lambda: settings().connect_timeout.seconds == 3)
        assert settings().access_log_format == ""
    assert json.loads(await running.page("/debug/model"))["proxySettings"]["connectTimeout"] == "3s"


async def test_a_proxy_that_does_not_subscribe_to_settings_gets_none(running: Running) -> None:
    seen = Recorder()
    async with running.subscriber(seen) as subscriber:
        await subscriber.wait_received()
        put(running, "connectTimeout: 2s\n")
        await until(lambda: running.plane.model.all(names.MESH_CONFIG_TYPE))
        put(running, "trustDomain: example.org\n")
        await until(lambda: seen.workload("Kubernetes//Pod/shop/web").trust_domain == "example.org")
    assert names.MESH_CONFIG_TYPE not in {type_url for type_url, *_ in seen.updates}


async def test_a_type_that_the_server_does_not_serve_is_not_waited_for(running: Running) -> None:
    seen = Recorder()
    subscriber = client.DeltaClient(
        connect=running.connect(),
        metadata=lambda: token_metadata(running.token_file, "Kubernetes"),
        node=client.NodeInfo("ztunnel~x"),
        subscriptions={"type.googleapis.com/not.Served": client.EVERYTHING, names.ADDRESS_TYPE: client.EVERYTHING},
        optional=["type.googleapis.com/not.Served"],
        receiver=seen,
    )
    async with running.following(subscriber):
        await subscriber.wait_received()
        assert subscriber.connected
