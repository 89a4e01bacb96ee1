"""VirtualServices: values that no proxy can be told are refused by field and fix, before anything is translated."""

from typing import Any

import pytest

from controlplane.routing import virtual_services
from controlplane.routing.ir import Abort, Respond
from meshapi.errors import InvalidResource
from meshapi.resources import base
from meshapi.resources.virtual_service import VirtualService


def with_rule(rule: dict[str, Any]) -> VirtualService:
    spec = {"hosts": ["web"], "http": [rule]}
    return base.read(VirtualService, {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            {"route": [{"destination": {"host": "web"}}], "fault": {"abort": {"grpcStatus": "GONE"}}},
            r"http\[0\].fault.abort.grpcStatus: is not a gRPC status; write one of OK, CANCELLED",
        ),
        (
            {"directResponse": {"status": 200, "body": {"bytes": "%%%%a"}}},
            r"http\[0\].directResponse.body.bytes: is not base64; encode the bytes, or use string",
        ),
    ],
)
def test_a_value_that_no_proxy_understands_is_refused(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidResource, match=said):
        with_rule(rule)


def test_statuses_by_name_and_bytes_in_base64_are_translated() -> None:
    fault = {"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}}
    aborting = with_rule({"route": [{"destination": {"host": "web"}}], "fault": fault})
    answering = with_rule({"directResponse": {"status": 200, "body": {"bytes": "AAE="}}})
    assert virtual_services.translate(aborting, "cluster.local").http[0].abort == Abort(1_000_000, grpc_status=14)
    assert virtual_services.translate(answering, "cluster.local").http[0].action == Respond(200, b"\x00\x01")
