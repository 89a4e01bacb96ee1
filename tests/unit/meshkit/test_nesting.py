"""Threat ``hostile-objects``: control-plane DoS by config: one object nested without end does not hide the others."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from meshapi.resources import base, security
from meshkit import kube
from meshkit.kube import Client, Informer, kinds, nesting
from tests.support.waiting import until

texts = st.text(st.sampled_from('a"\\{}[]\n é'))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)


@given(values)
def test_shallow_documents_are_parsed_unchanged(value: object) -> None:
    text = json.dumps(value).encode()
    assert nesting.decode(text) == value
    assert nesting._pruned(text) == text


@given(values, values, st.integers(200, 400), st.sampled_from([(b'{"a":', b"}"), (b"[", b"]"), (b'[1,{"b]":', b"}]")]))
def test_too_deep_values_are_left_out_and_their_siblings_kept(
    before: object, after: object, levels: int, brackets: tuple[bytes, bytes]
) -> None:
    opening, closing = brackets
    deep = opening * levels + b'"\\"}"' + closing * levels
    text = b"[%s,%s,%s]" % (json.dumps(before).encode(), deep, json.dumps(after).encode())
    first, pruned, last = nesting.decode(text)
    assert (first, last) == (before, after)
    depth = 0
    while isinstance(pruned, dict | list):
        pruned = pruned.get("a", pruned.get("b]")) if isinstance(pruned, dict) else pruned[-1]
        depth += 1
    assert pruned is None
    assert depth == nesting.DEEPEST - 1


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b'{"a":' * 500 + b"}" * 499, b'"\\'])
def test_invalid_json_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        nesting.decode(text)


def _policy(name: str, version: int, levels: int) -> bytes:
    deep = '{"a":' * levels + "1" + "}" * levels
    return (
        f'{{"metadata":{{"name":"{name}","namespace":"shop","resourceVersion":"{version}"}},'
        f'"spec":{{"action":"DENY","deep":{deep}}}}}'
    ).encode()


@asynccontextmanager
async def api(listed: list[bytes], watched: list[bytes]):
    """An API server that says exactly these bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            items = b",".join(listed)
            return web.Response(body=b'{"metadata":{"resourceVersion":"9"},"items":[%s]}' % items)
        response = web.StreamResponse()
        await response.prepare(request)
        for item in watched:
            await response.write(b'{"type":"ADDED","object":%s}\n' % item)
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    await runner.cleanup()


@pytest.mark.parametrize("levels", [90, 600, 5_000])
async def test_one_bottomless_object_does_not_hide_the_others(levels: int) -> None:
    listed = [_policy("first", 7, levels), _policy("second", 8, 1)]
    watched = [_policy("first", 10, levels + 1), _policy("first", 11, levels), _policy("third", 12, 1)]
    async with api(listed, watched) as url, Client(kube.explicit(url)) as client:
        informer = Informer(
            client, kinds.AUTHORIZATION_POLICY, lambda item: base.read(security.AuthorizationPolicy, item)
        )
        seen: set[str] = set()
        informer.add_handler(lambda _, new: seen.add(new.metadata.name if new else ""))
        task = asyncio.create_task(informer.run())
        await until(lambda: {"first", "second", "third"} <= seen or task.done())
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
