"""Every scenario of this folder, each against a real Envoy that the control plane's code configures."""

import asyncio
import contextlib
import json
import math
import re
import time
from collections import Counter

import aiohttp
import pytest
from yarl import URL

from tests.scenarios import files, outside, world
from tests.scenarios.answers import Answer
from tests.scenarios.files import Expected, Logged, Request, Seen, Step
from tests.scenarios.world import World
from tests.support import hbone_client
from tests.support.waiting import TIMEOUT_FACTOR, until

LOGS_WITHIN_S = 8.0
"""Spans and log records are sent every few seconds."""
SIGMAS = 4.5
"""A share that is farther off than this happens by chance once in 150,000 runs."""


@pytest.mark.parametrize("name", files.names())
async def test_scenario(name: str) -> None:
    scenario = files.load(name)
    async with world.running(scenario) as running:
        for number, step in enumerate(scenario.steps):
            with _named(f"{name}, step {number}"):
                await _run(running, step)
        for item, message in scenario.problems.items():
            found = running.message(item)
            assert message in found if message else not found, f"{item}: {found!r}"
        assert not running.refusals.reasons, running.refusals.reasons


async def _run(running: World, step: Step) -> None:
    for name in step.remove:
        running.remove(name)
    for item in step.apply:
        running.put(item)
    if step.waypoint_for:
        running.put_waypoint(step.waypoint_for)
    if step.mesh is not None:
        running.configure(step.mesh)
    if step.annotations is not None:
        running.annotate(step.annotations)
    is_configured = step.mesh is not None or step.annotations is not None
    is_changed = bool(step.apply or step.remove or step.waypoint_for or is_configured)
    if is_changed:
        running.publish()
    if step.send is None:
        return None
    if not (is_changed or step.send.tls_name):
        await _once(running, step)
        return None
    # A change takes effect within moments; until then the old configuration answers. And the proxy waits a second for a
    # name in TLS: where the computer is busy, a client's first bytes may come later.
    # Whoever waits for lines in vain, because the old configuration was asked, has time for one more try.
    deadline = time.monotonic() + 5 * TIMEOUT_FACTOR + (LOGS_WITHIN_S * TIMEOUT_FACTOR if step.logs else 0)
    while True:
        try:
            return await _once(running, step)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)


async def _once(running: World, step: Step) -> None:
    assert step.send is not None
    running.seen.clear()
    running.tunnelled.clear()
    for pod in running.pods:
        pod.failed = 0
    if step.logs:
        await running.finish_logs()
        running.clear_logs()
    answers = await _send(running, step.send)
    _check(answers, step.get)
    for seen in step.seen:
        await _check_seen(running, seen)
    if step.tunnelled is not None:
        assert set(running.tunnelled) == set(step.tunnelled), running.tunnelled
    for logged in step.logs:
        await _check_logs(running, logged)
    if step.metrics:
        await _check_metrics(running, step.metrics)


async def _send(running: World, request: Request) -> list[Answer]:
    if running.scenario.gateway:
        return await outside.send(running, request)
    authority = request.at or running.address(request.to, request.port)
    headers = world.baggage(request.namespace, request.account)
    async with contextlib.AsyncExitStack() as stack:
        tunnel = await stack.enter_async_context(running.tunnel(request.namespace, request.account))
        port = await stack.enter_async_context(hbone_client.relay(tunnel, authority, headers))
        if request.raw or request.tls_name:
            return [await _raw(port, request) for _ in range(request.times)]
        session = await stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        )
        if request.session:
            return await _in_session(running, session, port, request)
        gate = asyncio.Semaphore(request.parallel)

        async def one() -> Answer:
            async with gate:
                return await _http(running, session, port, request)

        return list(await asyncio.gather(*(one() for _ in range(request.times))))


async def _in_session(running: World, session: aiohttp.ClientSession, port: int, request: Request) -> list[Answer]:
    """Requests one after the other, each with what an answer before has said of the session."""
    answers: list[Answer] = []
    held: dict[str, str] = {}
    for _ in range(request.times):
        one = request.model_copy(update={"headers": {**request.headers, **held}})
        answers.append(await _http(running, session, port, one))
        said = answers[-1].headers.get("set-cookie" if request.session == "cookie" else request.session, "")
        if said and request.session == "cookie":
            held["Cookie"] = said.partition(";")[0]
        elif said:
            held[request.session] = said
    return answers


async def _http(running: World, session: aiohttp.ClientSession, port: int, request: Request) -> Answer:
    name, _, namespace = request.to.partition(".")
    host = request.host or (f"{name}.{namespace}" if namespace else name)
    path, headers = _with_token(running, request)
    url = URL(f"http://127.0.0.1:{port}{path}", encoded=True)
    started = time.monotonic()
    try:
        async with session.request(
            request.method,
            url,
            headers={"Host": host, **headers},
            data=request.body or None,
            allow_redirects=False,
        ) as answer:
            text = (await answer.read()).decode(errors="replace")
            headers = {key.lower(): value for key, value in answer.headers.items()}
            return Answer(answer.status, headers, text, time.monotonic() - started)
    except aiohttp.ClientError as error:
        return Answer(None, {}, str(error), time.monotonic() - started)


def _with_token(running: World, request: Request) -> tuple[str, dict[str, str]]:
    """The path and the headers of a request, with its token."""
    if request.token is None:
        return request.path, request.headers
    token = (running.forger if request.forged else running.issuer).token(request.token)
    place, name, *prefix = request.token_in.split(" ")
    if place == "param":
        return f"{request.path}{'&' if '?' in request.path else '?'}{name}={token}", request.headers
    value = f"{name}={token}" if place == "cookie" else " ".join((*prefix, token))
    return request.path, {**request.headers, "Cookie" if place == "cookie" else name: value}


async def _raw(port: int, request: Request) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()
    greeting = b""
    try:
        if request.listens:
            greeting = await reader.read(100)
        writer.write(outside.client_hello(request.tls_name, request.alpn) if request.tls_name else request.raw.encode())
        body = (greeting + await reader.read()).decode(errors="replace")
    except ConnectionError:
        body = greeting.decode()
    finally:
        writer.close()
    version, _, rest = body.partition(" ")
    return Answer(None, {"x-version": version}, rest, time.monotonic() - started)


def _check(answers: list[Answer], expected: Expected) -> None:
    if expected.statuses:
        counts = Counter(answer.status for answer in answers)
        for status, (least, most) in expected.statuses.items():
            assert least <= counts[status] <= most, f"{counts[status]} answers with {status}: {counts}"
    elif expected.status is not None:
        assert {answer.status for answer in answers} == {expected.status}, [(one.status, one.body) for one in answers][
            :3
        ]
    if expected.by is not None:
        assert {answer.version for answer in answers} == {expected.by}, Counter(answer.version for answer in answers)
    if expected.names is not None:
        assert {answer.names for answer in answers} == {expected.names}, answers
    if expected.same:
        assert len({answer.pod for answer in answers}) == 1, Counter(answer.pod for answer in answers)
    if expected.same_but:
        others = {answer.pod for answer in answers if answer.version != expected.same_but}
        assert len(others) == 1, Counter(answer.pod for answer in answers)
        assert any(answer.version == expected.same_but for answer in answers)
    for name, pattern in expected.matches.items():
        assert re.fullmatch(pattern, answers[0].headers.get(name, "")), answers[0].headers
    _check_shares(answers, expected.shares)
    for answer in answers:
        for name, value in expected.headers.items():
            assert answer.headers.get(name.lower()) == value, f"{name}: {answer.headers.get(name.lower())!r}"
        if expected.body is not None:
            assert answer.body == expected.body
        if expected.contains is not None:
            assert expected.contains in answer.body
        if expected.takes_s is not None:
            least, most = expected.takes_s
            assert least <= answer.took_s <= most * TIMEOUT_FACTOR, answer.took_s


def _check_shares(answers: list[Answer], shares: dict[str, float]) -> None:
    counts = Counter(answer.version for answer in answers)
    for version, share in shares.items():
        bound = SIGMAS * math.sqrt(len(answers) * share * (1 - share))
        assert abs(counts[version] - len(answers) * share) <= bound, counts
    assert not shares or set(counts) <= set(shares), counts


async def _check_seen(running: World, expected: Seen) -> None:
    def found() -> list[world.Request]:
        return [
            one
            for one in running.seen
            if (not expected.by or one.version == expected.by)
            and (not expected.service or one.service == expected.service)
        ]

    if expected.count is not None:
        assert len(found()) == expected.count, f"{len(found())} requests: {running.seen}"
    await until(
        lambda: len(found()) >= (1 if expected.at_least is None and expected.count is None else expected.at_least or 0)
    )
    if expected.at_most is not None:
        assert len(found()) <= expected.at_most, f"{len(found())} requests"
    for one in found():
        for field in ("method", "path", "body"):
            wanted = getattr(expected, field)
            assert wanted is None or getattr(one, field) == wanted, f"{field}: {getattr(one, field)!r}"
        for name, value in expected.headers.items():
            assert one.headers.get(name.lower()) == value, f"{name}: {json.dumps(one.headers)}"


async def _check_logs(running: World, expected: Logged) -> None:
    def found() -> list[str]:
        return [line for line in running.lines(expected.file) if _is_so(line, expected)]

    with contextlib.suppress(AssertionError):  # what is there instead is said below
        await until(lambda: len(found()) >= expected.count, within_s=LOGS_WITHIN_S)
    await running.finish_logs()
    lines = running.lines(expected.file)
    assert len(found()) == expected.count, f"{expected.file} has {len(found())} such lines: {lines}"


def _is_so(line: str, expected: Logged) -> bool:
    fields = json.loads(line) if expected.fields else {}
    return bool(re.fullmatch(expected.matches or ".*", line)) and all(
        fields.get(name) == value for name, value in expected.fields.items()
    )


async def _check_metrics(running: World, expected: dict[str, int | None]) -> None:
    await running.finish_logs()
    deadline = time.monotonic() + 2 * TIMEOUT_FACTOR
    while True:
        lines = await running.metrics()
        try:
            for part, count in expected.items():
                found = [line for line in lines if part in line]
                others = [line for line in lines if "istio" in line]
                assert len(found) == count if count is not None else found, f"{part}: {found or others}"
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def _named(place: str):  # type: ignore[no-untyped-def]
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{place}: {error}") from error
