"""The samples' authorizer: what it answers to a waypoint's question."""

import pytest
from app import ext_authz, web


@pytest.mark.parametrize(("value", "status"), [("allow", 200), ("deny", 403), (None, 403)])
def test_a_header_decides(value: str | None, status: int) -> None:
    headers = {} if value is None else {"x-ext-authz": value}
    asked = web.Request("GET", "/headers", {}, headers, tuple(headers.items()), b"", "192.0.2.1")
    answer = ext_authz.check(asked, "headers")
    assert answer.status == status
    assert dict(answer.headers)["x-ext-authz-check-received"] == "GET /headers"
