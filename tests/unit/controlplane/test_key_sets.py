"""Keys of token issuers: what is fetched, what is not (server-side request forgery), and what stays when it fails."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from controlplane.ambient.model import create
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import KeySet
from controlplane.key_sets import addresses
from controlplane.key_sets.fetching import Fetcher, FetchFailed
from controlplane.key_sets.following import KeySets
from meshapi.resources import base
from meshapi.resources.request_authentication import RequestAuthentication
from tests.support.waiting import until

KEYS = {"keys": [{"kty": "EC", "kid": "one"}]}
ISSUER = "issuer@example.com"
Answer = Callable[[web.Request], web.StreamResponse]


def anywhere(_: str) -> None:
    """The tests' servers are on loopback."""


@contextlib.asynccontextmanager
async def serving(**answers: Answer) -> AsyncIterator[str]:
    """A server; yields its URL. A path is the name of an argument."""
    application = web.Application()

    async def handle(request: web.Request) -> web.StreamResponse:
        return answers[request.path.strip("/").partition("/")[0]](request)

    application.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def keys(_: web.Request) -> web.Response:
    return web.json_response(KEYS)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "0.0.0.0", "::", "::ffff:127.0.0.1",
     "::ffff:169.254.169.254", "fd00:ec2::254", "168.63.129.16", "224.0.0.1"],
)  # fmt: skip
def test_addresses_of_the_node_and_of_metadata_services_are_refused(address: str) -> None:
    with pytest.raises(addresses.Forbidden, match="not fetched from"):
        addresses.check(address)


@pytest.mark.parametrize("address", ["10.96.0.7", "93.184.216.34", "2606:4700::1", "fd00::7"])
def test_other_addresses_are_not(address: str) -> None:
    addresses.check(address)


async def test_a_key_set_is_fetched_from_its_url_or_from_where_the_issuer_says() -> None:
    urls: list[str] = []

    def discovery(_: web.Request) -> web.Response:
        return web.json_response({"jwks_uri": f"{urls[0]}/keys"})

    async with serving(keys=keys, realm=discovery) as url, Fetcher(anywhere) as fetcher:
        urls.append(url)
        assert json.loads(await fetcher.keys(f"{url}/keys", ISSUER, 5)) == KEYS
        assert json.loads(await fetcher.keys("", f"{url}/realm/", 5)) == KEYS


async def refused(fetcher: Fetcher, uri: str, issuer: str = ISSUER, timeout_s: float = 5) -> str:
    with pytest.raises(FetchFailed) as error:
        await fetcher.keys(uri, issuer, timeout_s)
    return str(error.value)


async def test_a_name_or_an_address_of_this_node_is_not_fetched_from() -> None:
    async with serving(keys=keys) as url, Fetcher() as fetcher:
        port = url.rpartition(":")[2]
        assert "not fetched from" in await refused(fetcher, f"{url}/keys")
        assert "not fetched from" in await refused(fetcher, f"http://localhost:{port}/keys"), "the name is looked up"
        assert "not fetched from" in await refused(fetcher, f"http://[::1]:{port}/keys")
        assert "not fetched from" in await refused(fetcher, "http://169.254.169.254/latest/meta-data")


async def test_redirects_are_followed_a_few_times_and_checked_each_time() -> None:
    def away(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    def check(address: str) -> None:
        if address != "127.0.0.1":
            addresses.check(address)

    async with serving(keys=keys, away=away) as url, Fetcher(check) as fetcher:
        assert json.loads(await fetcher.keys(f"{url}/away?to=/keys", ISSUER, 5)) == KEYS
        assert "not fetched from" in await refused(fetcher, f"{url}/away?to=http://169.254.169.254/x")
        assert "no URL of http" in await refused(fetcher, f"{url}/away?to=file:///etc/passwd")
        assert "redirects" in await refused(fetcher, f"{url}/away?to=/away?to=/away?to=/away?to=/away?to=/keys")


async def test_what_is_no_key_set_is_refused_with_its_reason() -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    answers: dict[str, Answer] = {
        "text": lambda _: web.Response(text="hello"),
        "list": lambda _: web.json_response([]),
        "empty": lambda _: web.json_response({"keys": []}),
        "error": lambda _: web.Response(status=503),
        "large": lambda _: web.Response(body=b"x" * (1024 * 1024 + 1)),
    }
    async with serving(**answers) as url, Fetcher(anywhere) as fetcher:
        for path, reason in (
            ("text", "is not JSON"),
            ("list", "no JSON object"),
            ("empty", "has no keys"),
            ("error", "status 503"),
            ("large", "is larger than"),
        ):
            assert reason in await refused(fetcher, f"{url}/{path}")
        assert "set jwksUri or jwks" in await refused(fetcher, "")
        assert "cannot be fetched" in await refused(fetcher, "http://127.0.0.1:1/keys")


async def test_the_last_good_keys_stay_and_the_fault_is_known() -> None:
    model, touched = create(MeshContext()), []
    works = [True]

    def sometimes(request: web.Request) -> web.Response:
        return keys(request) if works[0] else web.Response(status=500)

    async with serving(keys=sometimes) as url:
        rule = {"issuer": ISSUER, "jwksUri": f"{url}/keys"}
        item = base.read(
            RequestAuthentication, {"metadata": {"name": "r", "namespace": "shop"}, "spec": {"jwtRules": [rule]}}
        )
        objects, name = model.inputs.of(RequestAuthentication), (f"{url}/keys", ISSUER)
        found = model.inputs.key_sets
        following = asyncio.create_task(KeySets(model.inputs, touched.append, Fetcher(anywhere)).run())
        objects.set(item.key, item)
        await until(lambda: found.find(name) == KeySet(json.dumps(KEYS)))
        works[0] = False
        objects.set(item.key, None)
        await until(lambda: found.find(name) is None)
        objects.set(item.key, item)
        await until(lambda: found.find(name) is not None)
        assert found.find(name) == KeySet(None, f"{url}/keys answers with status 500")
        works[0] = True
        await until(lambda: found.find(name) == KeySet(json.dumps(KEYS)), within_s=10)
        assert touched
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
