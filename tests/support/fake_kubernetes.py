"""The Kubernetes API on HTTP, as far as informers and small writes see it. Only for tests of the client's side.

Keeps objects by path, a log of events with resource versions, and answers list, watch, create, replace, patch, delete,
TokenReview, TokenRequest and port forwarding; writes with an old ``resourceVersion`` are conflicts.
``expire`` forgets the log, so that the next watch from an old version gets 410. Schemas and rights are not imitated:
the tests against a real API server are for those.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support import port_forwarding

Json = dict[str, Any]


class FakeKubernetes:
    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], Json]] = {}
        self.log: list[tuple[int, str, str, Json]] = []
        self.version = 100
        self.oldest = 0
        self.absent: set[str] = set()
        self.tokens: dict[str, Json] = {}
        self.logs: dict[str, bytes] = {}
        self.sockets: dict[str, Path] = {}
        """Unix sockets behind ports of pods, by ``POD:PORT``."""
        self.requests: list[str] = []
        self.refuse: dict[str, int] = {}
        """Status to answer with, by the beginning of ``METHOD /path``; 0 lets the request wait for ever."""
        self._applied: dict[tuple[str, ...], Json] = {}
        """What each field manager has applied last, by its name and the object's path."""
        self.lists = 0
        self.page_size = 2
        self._pages: dict[str, tuple[int, int, list[Json]]] = {}
        """Lists of which pages are left, by token: resource version, next item, items."""
        self._changed = asyncio.Event()
        self._watches: set[web.StreamResponse] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> "FakeKubernetes":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self.break_watches()
        await self._runner.cleanup()

    def put(self, plural: str, item: Json, namespace: str = "") -> Json:
        metadata = item.setdefault("metadata", {})
        if namespace:
            metadata["namespace"] = namespace
        key = (metadata.get("namespace", ""), metadata["name"])
        held = self.objects.setdefault(plural, {})
        self._event("MODIFIED" if key in held else "ADDED", plural, item)
        held[key] = item
        return item

    def remove(self, plural: str, name: str, namespace: str = "") -> None:
        item = json.loads(json.dumps(self.objects[plural].pop((namespace, name))))
        self._event("DELETED", plural, item)

    def get(self, plural: str, name: str, namespace: str = "") -> Json | None:
        return self.objects.get(plural, {}).get((namespace, name))

    def expire(self) -> None:
        """Forget the events so far and end all watches."""
        self.log.clear()
        self.oldest = self.version
        self.break_watches()

    def break_watches(self) -> None:
        for response in list(self._watches):
            transport = response._req.transport if response._req else None  # type: ignore[attr-defined]
            if transport is not None:
                transport.close()
        self._watches.clear()

    def _event(self, kind: str, plural: str, item: Json) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, kind, plural, json.loads(json.dumps(item))))
        self._changed.set()
        self._changed = asyncio.Event()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        self.requests.append(f"{request.method} {request.path}")
        for start, code in self.refuse.items():
            if self.requests[-1].startswith(start):
                await asyncio.sleep(0 if code else 3600)
                return _status(code, "Refused", "as configured")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        plural, *rest = parts
        if plural in self.absent:
            return _status(404, "NotFound", "no such kind")
        if plural == "tokenreviews":
            return self._review(await request.json())
        if request.method == "GET" and not rest:
            if request.query.get("watch"):
                return await self._watch(request, plural, namespace)
            return self._list(request, plural, namespace)
        if rest[1:] == ["portforward"]:
            return await port_forwarding.bridged(request, self.sockets[f"{rest[0]}:{request.query['ports']}"])
        if rest[1:] == ["log"]:
            return web.Response(body=self.logs[rest[0]])
        if rest[1:] == ["token"]:
            return self._issue(f"system:serviceaccount:{namespace}:{rest[0]}")
        return await self._single(request, plural, namespace, rest[0] if rest else "")

    async def _single(self, request: web.Request, plural: str, namespace: str, name: str) -> web.Response:
        if request.method == "POST":
            item = await request.json()
            if self.get(plural, item["metadata"]["name"], namespace) is not None:
                return _status(409, "AlreadyExists", "exists")
            return web.json_response(self.put(plural, item, namespace), status=201)
        held = self.get(plural, name, namespace)
        is_apply = request.content_type == "application/apply-patch+yaml"
        if held is None and is_apply and request.path.endswith(f"/{name}"):
            held = {"metadata": {"name": name, "namespace": namespace, "resourceVersion": ""}}
        if held is None:
            return _status(404, "NotFound", f"{plural} {name} not found")
        if request.method == "DELETE":
            self.remove(plural, name, namespace)
            return web.json_response({})
        if request.method in ("PUT", "PATCH"):
            patch = json.loads(await request.text())
            version = patch.get("metadata", {}).pop("resourceVersion", None)
            if version not in (None, held["metadata"]["resourceVersion"]):
                return _status(409, "Conflict", "the object has been modified")
            if request.method == "PUT":
                return web.json_response(self.put(plural, patch, namespace))
            held = json.loads(json.dumps(held))
            if is_apply:
                manager = (request.query["fieldManager"], request.path)
                held = _without(held, self._applied.get(manager, {}), patch)
                self._applied[manager] = patch
            merged = _merge(held, patch)
            return web.json_response(self.put(plural, merged, namespace))
        return web.json_response(held)

    def _list(self, request: web.Request, plural: str, namespace: str) -> web.Response:
        self.lists += 1
        # Further pages are of the first one's moment, as with a real API.
        token = request.query.get("continue", "")
        version, start, items = self._pages.pop(token, None) or (
            self.version,
            0,
            self._selected(request, plural, namespace),
        )
        page, rest = items[start : start + self.page_size], start + self.page_size
        metadata: Json = {"resourceVersion": str(version)}
        if rest < len(items):
            metadata["continue"] = str(self.lists)
            self._pages[str(self.lists)] = (version, rest, items)
        return web.json_response({"metadata": metadata, "items": page})

    def _selected(self, request: web.Request, plural: str, namespace: str) -> list[Json]:
        return [
            item
            for (held_namespace, _), item in sorted(self.objects.get(plural, {}).items())
            if (not namespace or held_namespace == namespace) and _matches(request, item)
        ]

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            return _status(422, "Invalid", "lists are not streamed")
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            return _status(410, "Expired", "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._watches.add(response)
        try:
            while True:
                changed = self._changed
                for version, kind, logged, item in list(self.log):
                    if version <= since:
                        continue
                    since = version
                    wanted = logged == plural and _matches(request, item)
                    if wanted and namespace in ("", item["metadata"].get("namespace", "")):
                        line = json.dumps({"type": kind, "object": item}).encode() + b"\n"
                        await response.write(line[:7])
                        await response.write(line[7:])
                if response not in self._watches:
                    return response
                await changed.wait()
        except ConnectionError:
            return response
        finally:
            self._watches.discard(response)

    def _issue(self, username: str) -> web.Response:
        token = next(token for token, user in self.tokens.items() if user["username"] == username)
        status = {"token": token, "expirationTimestamp": "2999-12-31T23:59:59Z"}
        return web.json_response({"status": status}, status=201)

    def _review(self, review: Json) -> web.Response:
        user = self.tokens.get(review["spec"]["token"])
        status: Json = {"authenticated": False}
        if user is not None:
            status = {"authenticated": True, "audiences": review["spec"]["audiences"], "user": user}
        return web.json_response({"status": status})


def token_user(namespace: str, account: str, pod: str = "", uid: str = "") -> Json:
    extra = {"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]}
    return {"username": f"system:serviceaccount:{namespace}:{account}", "extra": extra if pod else {}}


def _matches(request: web.Request, item: Json) -> bool:
    selector = request.query.get("fieldSelector", "")
    name, _, value = selector.partition("=")
    if name == "metadata.name":
        return bool(item["metadata"]["name"] == value)
    if name == "spec.nodeName":
        return bool(item["spec"].get("nodeName") == value)
    return True


def _without(held: Json, owned: Json, wanted: Json) -> Json:
    """Return an object without the fields that a manager has applied and applies no more (server-side apply)."""
    result = dict(held)
    for key, value in owned.items():
        if key not in wanted:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _without(result[key], value, wanted[key])
    return result


def _merge(target: Json, patch: Json) -> Json:
    for key, value in patch.items():
        if isinstance(value, dict):
            target[key] = _merge(target.get(key) or {}, value)
        elif value is None:
            target.pop(key, None)
        else:
            target[key] = value
    return target


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)
