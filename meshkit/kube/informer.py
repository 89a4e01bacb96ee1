"""A local copy of one kind of Kubernetes objects, kept fresh by list and watch.

Rules:

1.  A list is paged and replaces the copy: what is missing from it is reported as removed.
2.  A watch goes on from the resource version last seen (events and bookmarks); when it ends, a new watch resumes there.
3.  Only ``410 Gone`` (or an ``ERROR`` event) makes a new list; a broken connection does not.
4.  A kind whose definition is not installed (404) counts as synced and empty; it is looked for again every 30 s.
    When objects of it are held, one 404 is not believed: policies must not vanish with a hiccup. Two in a row are.
5.  An object that cannot be parsed is reported once and its last good form stays: handlers never see half an object.
6.  Handlers are plain functions called in order, one event at a time: ``(None, new)``, ``(old, new)``, ``(old, None)``.
    They must not block and must not raise; an error is logged and the event counts as delivered.

Rejected: delivering events through a queue per handler. Handlers here only note what has changed, which is quicker.
"""

import asyncio
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from meshapi.errors import DataError
from meshkit.kube import errors
from meshkit.kube.client import Client, Json
from meshkit.kube.kinds import Kind
from meshkit.log import logger
from meshkit.tasks import Backoff

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace (empty where there is none) and name."""
Handler = Callable[[T | None, T | None], None]

_log = logger("kube.informer")

_WATCH_S = 300
"""How long one watch lasts, so that a half-dead connection is noticed; the API server's own lower bound."""
_IDLE_S = 330.0
_ABSENT_RETRY_S = 30.0
_RESUMABLE = frozenset({401, 403, 429, 500, 502, 503, 504})
"""Refusals that say nothing about the resource version; after any other one the safe way is a new list."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are watched.

    Attributes:
        namespace: one namespace, or ``None`` for all.
        fields: a field selector, as ``spec.nodeName=node-1``.
        labels: a label selector, as ``app=web``.
    """

    namespace: str | None = None
    fields: str | None = None
    labels: str | None = None

    def query(self) -> dict[str, str]:
        """Return the selectors as query parameters."""
        pairs = {"fieldSelector": self.fields, "labelSelector": self.labels}
        return {name: value for name, value in pairs.items() if value}


class Informer(Generic[T]):
    """Keeps ``parse(object)`` of every selected object. Start ``run`` as a task; read and subscribe on the same loop.

    Args:
        client: an open client.
        kind: what to watch.
        parse: makes our form of one object; may raise ``DataError`` to refuse it.
        selection: which objects.
        backoff: waits between failed attempts.
        on_refused: called with an object's key and the error each time ``parse`` refuses it.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        parse: Callable[[Json], T],
        *,
        selection: Selection | None = None,
        backoff: Backoff | None = None,
        on_refused: Callable[[Key, DataError], None] | None = None,
        absent_retry_s: float = _ABSENT_RETRY_S,
    ) -> None:
        self.kind = kind
        self._client = client
        self._parse = parse
        self._selection = selection or Selection()
        self._backoff = backoff or Backoff(first_s=0.1, cap_s=15.0)
        self._refusal_handlers = [on_refused or self._log_refused]
        self._gone_handlers: list[Callable[[Key], None]] = []
        self._refused: set[Key] = set()
        """Objects whose present form was refused."""
        self._absent_retry_s = absent_retry_s
        self._objects: dict[Key, T] = {}
        self._handlers: list[Handler[T]] = []
        self._version = ""
        self._absences = 0
        self._synced = asyncio.Event()

    def add_handler(self, handler: Handler[T]) -> None:
        """Report changes to ``handler``; what is known already is reported to it at once as new."""
        self._handlers.append(handler)
        for item in list(self._objects.values()):
            self._call(handler, None, item)

    def add_refusal_handler(
        self, handler: Callable[[Key, DataError], None], on_gone: Callable[[Key], None] = lambda _: None
    ) -> None:
        """Call ``handler`` too for objects that ``parse`` refuses, and ``on_gone`` when such an object is removed."""
        self._refusal_handlers.append(handler)
        self._gone_handlers.append(on_gone)

    def find(self, name: str, namespace: str = "") -> T | None:
        """Return one object of the local copy."""
        return self._objects.get((namespace, name))

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def synced(self) -> bool:
        """Whether the first list has been delivered to all handlers."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait until the first list has been delivered."""
        await self._synced.wait()

    async def run(self) -> NoReturn:
        """List and watch until cancelled; failures are logged and waited out."""
        listed = False
        while True:
            try:
                if not listed:
                    await self._list()
                    listed = True
                if await self._watch():
                    continue
            except errors.Gone:
                listed = False
                _log.info("resource version too old, listing again", kind=self.kind.name)
            except errors.NotFound:
                listed = False
                if self._is_absent():
                    await asyncio.sleep(self._absent_retry_s)
                    continue
            except errors.ApiError as error:
                listed = listed and error.status in _RESUMABLE
                _log.warning("watch refused, will retry", kind=self.kind.name, reason=str(error))
            except errors.KubeError as error:
                _log.warning("watch failed, will retry", kind=self.kind.name, reason=str(error))
            await asyncio.sleep(self._backoff.next())

    def _is_absent(self) -> bool:
        """Take a 404 in; return whether the kind is really not there."""
        self._absences += 1
        if self._objects and self._absences < 2:
            _log.warning("kind is suddenly not known, looking again before believing it", kind=self.kind.name)
            return False
        self._complete(set())
        _log.info("kind is not installed, nothing to watch", kind=self.kind.name)
        return True

    async def _list(self) -> None:
        found: set[Key] = set()
        version = ""
        async for page in self._client.pages(self.kind, self._selection.namespace, self._selection.query()):
            # Page by page, so that a large cluster's objects are never held as JSON all at once.
            for item in page.get("items") or []:
                found.add(_key(item))
                self._set(_key(item), item)
            version = page["metadata"]["resourceVersion"]
        self._complete(found)
        self._absences = 0
        self._version = version
        self._backoff.reset()

    async def _watch(self) -> bool:
        """Follow one watch to its end; return whether it delivered anything (an empty one must not spin)."""
        delivered = False
        query = {
            **self._selection.query(),
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_S),
        }
        async for event in self._client.watch(self.kind, self._selection.namespace, query, idle_s=_IDLE_S):
            item = event["object"]
            if event["type"] == "ERROR":
                status = int(item.get("code", 500))
                raise errors.from_status(status, item, f"watch {self.kind.plural}")
            if event["type"] == "DELETED":
                self._set(_key(item), None)
            elif event["type"] != "BOOKMARK":
                self._set(_key(item), item)
            self._version = item["metadata"]["resourceVersion"]
            self._backoff.reset()
            delivered = True
        return delivered

    def _complete(self, found: Set[Key]) -> None:
        """Take ``found`` for all there is."""
        for key in [key for key in {*self._objects, *self._refused} if key not in found]:
            self._set(key, None)
        self._synced.set()

    def _set(self, key: Key, item: Json | None) -> None:
        old = self._objects.get(key)
        if item is None:
            self._objects.pop(key, None)
            new = None
            if key in self._refused:
                self._refused.discard(key)
                for on_gone in self._gone_handlers:
                    on_gone(key)
        else:
            try:
                new = self._parse(item)
            except DataError as error:
                self._refused.add(key)
                for refusal_handler in self._refusal_handlers:
                    refusal_handler(key, error)
                return
            self._refused.discard(key)
            self._objects[key] = new
        if old != new:
            for handler in self._handlers:
                self._call(handler, old, new)

    def _call(self, handler: Handler[T], old: T | None, new: T | None) -> None:
        try:
            handler(old, new)
        except Exception:  # a faulty handler must not stop the copy from being kept
            _log.exception("handler failed", kind=self.kind.name)

    def _log_refused(self, key: Key, error: DataError) -> None:
        _log.warning("object refused, last good form stays", kind=self.kind.name, name="/".join(key), reason=str(error))


def _key(item: dict[str, Any]) -> Key:
    metadata = item["metadata"]
    return (metadata.get("namespace", ""), metadata["name"])
