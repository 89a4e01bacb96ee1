"""httpbin, requested over a real connection."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from app import httpbin, web


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = web.server(httpbin.ROUTES, port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def request(port: int, method: str, path: str, **options: object) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, **options)  # type: ignore[arg-type]
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_get_echoes_the_request(port: int) -> None:
    _, _, body = request(port, "GET", "/get?a=1", headers={"X-Thing": "yes"})
    answer = json.loads(body)
    assert answer["args"] == {"a": "1"}
    assert answer["headers"]["X-Thing"] == "yes"
    assert answer["origin"] == "127.0.0.1"
    assert answer["url"].endswith("/get?a=1")


def test_post_says_what_was_sent(port: int) -> None:
    _, _, body = request(port, "POST", "/post", body=b'{"a": 1}')
    assert json.loads(body)["json"] == {"a": 1}
    _, _, body = request(
        port,
        "POST",
        "/anything/x",
        body=iter([b"par", b"ts"]),
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    assert (json.loads(body)["data"], json.loads(body)["method"]) == ("parts", "POST")


@pytest.mark.parametrize("code", [200, 201, 404, 418, 503])
def test_status(port: int, code: int) -> None:
    assert request(port, "GET", f"/status/{code}")[0] == code


def test_bytes_are_the_same_for_the_same_seed(port: int) -> None:
    one, other = (request(port, "GET", "/bytes/100?seed=1")[2] for _ in range(2))
    assert one == other
    assert len(one) == 100


def test_stream_sends_one_document_a_line(port: int) -> None:
    _, headers, body = request(port, "GET", "/stream/3")
    assert headers["Transfer-Encoding"] == "chunked"
    assert [json.loads(line)["id"] for line in body.splitlines()] == [0, 1, 2]


def test_response_headers_are_the_requested_ones(port: int) -> None:
    _, headers, _ = request(port, "GET", "/response-headers?X-Version=2&Server-Thing=a")
    assert (headers["X-Version"], headers["Server-Thing"]) == ("2", "a")


def test_authentication(port: int) -> None:
    assert request(port, "GET", "/basic-auth/u/p")[0] == 401
    assert request(port, "GET", "/basic-auth/u/p", headers={"Authorization": "Basic dTpw"})[0] == 200
    assert request(port, "GET", "/bearer")[0] == 401
    assert request(port, "GET", "/bearer", headers={"Authorization": "Bearer t"})[0] == 200


def test_an_unknown_path_is_404_in_json(port: int) -> None:
    status, _, body = request(port, "GET", "/nowhere")
    assert status == 404
    assert "no such page" in json.loads(body)["error"]


def test_a_head_request_gets_no_body(port: int) -> None:
    status, headers, body = request(port, "HEAD", "/get")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_hostname_is_the_pods(port: int) -> None:
    assert json.loads(request(port, "GET", "/hostname")[2]) == {"hostname": socket.gethostname()}
