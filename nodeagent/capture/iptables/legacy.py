"""The kernel's own iptables tables, through python-iptables.

Rules of its use, each of which was learnt from its sources:

- Everything of it and of libxtables below is one global state (the extension that is being parsed, a jump buffer for
  errors), so one lock is held for whatever is done; a pod's tables cost a few milliseconds.
- It works in the namespace of the calling thread. Its tables are kept from one use to the next, so each use begins
  by reading the kernel's and ends by forgetting it, and nothing is committed but by ``_opened``.
- A rule's bytes are the same in every namespace, except for those that name an IP set; they are made once.
- Its lookup of jump targets is disabled, because it would open every table that exists.
- Its check of finished rules, and its reading of options, put a pipe in the place of the whole process's standard
  output for a moment; neither is used.
- It matches IPv6 interfaces by one bit of each byte only; the masks are set here.
- libnftables uses libxtables too, and sets its global state anew with each call. What that could disturb is the search
  for an extension, so ``choice`` has every extension found before there are threads.
- It is loaded when it is needed: its import starts two programs.
"""

import ctypes
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from nodeagent.capture.iptables import nat, rules

_lock: Final = threading.Lock()
"""Module level, because what it protects is the process's."""
_BUSY_RETRIES: Final = 5
"""A commit is refused when another program's came first since the table was read."""
_IFNAMSIZ: Final = 16
_EXTENSION: Final = struct.Struct("=H29sB")
"""Head of a match or target: size with the head, name, revision."""


class IptablesError(OSError):
    """The library or the kernel refused; the text says what."""


class LegacyTables:
    """See ``Tables``."""

    label = "the kernel's own tables, by python-iptables"

    def apply(self, version: int, name: str, table: rules.Table, hooks: tuple[str, ...]) -> None:
        """See ``Tables.apply``."""
        if not table and not _instantiated(version, name):
            return
        for attempt in range(_BUSY_RETRIES):
            try:
                with _opened(version, name) as opened:
                    changed = [_make(opened, version, hook, table.get(hook)) for hook in hooks]
                    if any(changed):
                        opened.commit()
                return
            except IptablesError:
                if attempt == _BUSY_RETRIES - 1:
                    raise

    def observe(self, version: int, name: str, hooks: tuple[str, ...]) -> Mapping[str, object]:
        """See ``Tables.observe``."""
        if not _instantiated(version, name):
            return {}
        found: dict[str, object] = {}
        with _opened(version, name) as opened:
            for hook in hooks:
                chain = rules.CHAINS[hook]
                jumps = _jumps(opened, hook)
                content = tuple(map(_content, _entries(opened, chain))) if opened.is_chain(chain) else None
                if jumps or content is not None:
                    found[hook] = (jumps, content)
        return found


def probe(version: int) -> None:
    """Open a table in the namespace of the calling thread.

    Raises:
        IptablesError: says what is missing and how to get it.
    """
    with _opened(version, "nat"):
        pass


def _make(table: Any, version: int, hook: str, wanted: tuple[rules.Rule, ...] | None) -> bool:
    """Make one of our chains, and the jump to it, as wanted; say whether something had to be changed."""
    chain = rules.CHAINS[hook]
    jumps, exists = _jumps(table, hook), table.is_chain(chain)
    if wanted is None:
        for _ in range(jumps):
            _delete_jump(table, version, hook)
        if exists:
            table.flush_entries(chain)
            table.delete_chain(chain)
        return jumps > 0 or bool(exists)
    if exists:
        table.flush_entries(chain)
    else:
        table.create_chain(chain)
    for rule in wanted:
        table.append_entry(chain, _buffer(version, rule))
    for _ in range(jumps - 1):
        _delete_jump(table, version, hook)
    if jumps == 0:
        if hook == "POSTROUTING":  # before the source address is rewritten by others
            table.insert_entry(hook, _jump(version, hook), 0)
        else:
            table.append_entry(hook, _jump(version, hook))
    return True


def _entries(table: Any, chain: str) -> Iterator[Any]:
    entry = table.first_rule(chain)
    while entry:
        yield entry
        entry = table.next_rule(entry)


def _jumps(table: Any, hook: str) -> int:
    wanted = rules.CHAINS[hook].encode()
    return sum(table.get_target(entry) == wanted for entry in _entries(table, hook))


def _delete_jump(table: Any, version: int, hook: str) -> None:
    jump = _jump(version, hook)
    table.delete_entry(hook, jump, (ctypes.c_ubyte * len(jump))(*[0xFF] * len(jump)))


def _jump(version: int, hook: str) -> Any:
    return _buffer(version, rules.Rule(rules.Extension(rules.CHAINS[hook])))


def _content(entry: Any) -> bytes:
    """Return a rule's bytes without its counters, its place in the table, and what the kernel leaves unwritten."""
    raw = bytearray(ctypes.string_at(ctypes.addressof(entry), entry.next_offset))
    for field in (type(entry).counters, type(entry).comefrom, type(entry).nfcache):
        raw[field.offset : field.offset + field.size] = bytes(field.size)
    offset = type(entry).elems.offset
    while offset < len(raw):
        size, name, _ = _EXTENSION.unpack_from(raw, offset)
        plain = name.partition(b"\0")[0]
        raw[offset + 2 : offset + 2 + len(name)] = plain.ljust(len(name), b"\0")
        if plain == b"set":  # begins with the set's number, which is another in each namespace
            raw[offset + _EXTENSION.size : offset + _EXTENSION.size + 2] = bytes(2)
        offset += size or len(raw)
    return bytes(raw)


def _buffer(version: int, rule: rules.Rule) -> Any:
    if any(match.name == "set" for match in rule.matches):
        return _built(version, rule)
    return _kept(version, rule)


def _built(version: int, rule: rules.Rule) -> Any:
    made: Any = _rule_class(version)()
    for attribute, value in (("src", rule.source), ("dst", rule.destination), ("protocol", rule.protocol)):
        if value:
            setattr(made, attribute, value)
    for attribute, value in (("in", rule.from_interface), ("out", rule.to_interface)):
        if value:
            setattr(made, f"{attribute}_interface", value)
            mask = b"\xff" * (len(value.removeprefix("!")) + 1)
            setattr(made.get_ip(), f"{attribute}iface_mask", mask.ljust(_IFNAMSIZ, b"\0"))
    for match in rule.matches:
        _set_options(made.create_match(match.name), match)
    if rule.target.name in nat.TARGETS:
        made.target = nat.nat_target(version, rule.target)
    elif rule.target.name in rules.CHAINS.values():
        made.create_target("").standard_target = rule.target.name
    else:
        _set_options(made.create_target(rule.target.name), rule.target)
    return made.rule


_kept = lru_cache(maxsize=512)(_built)


def _set_options(made: Any, extension: rules.Extension) -> None:
    for name, values, inverted in extension.options:
        made.set_parameter(name, [*["!"] * inverted, *(values or ("",))])
    # The public function would read all options first, through standard output.
    made._final_check()


@contextmanager
def _opened(version: int, name: str) -> Iterator[Any]:
    """Yield a table as the kernel has it now."""
    with _lock:
        library = _library()
        made: Any = None
        try:
            made = (library.Table if version == 4 else library.Table6)(name, autocommit=False)
            made.refresh()
            yield made
        except (library.IPTCError, library.XTablesError) as error:
            raise IptablesError(f"iptables, IPv{version}, table {name}: {error}") from error
        finally:
            if made is not None:
                made.close()


def _instantiated(version: int, name: str) -> bool:
    """Say whether a table has been used in the namespace; looking into it would make it."""
    listed = Path("/proc/thread-self/net") / ("ip_tables_names" if version == 4 else "ip6_tables_names")
    try:
        return name in listed.read_text().split()
    except FileNotFoundError:
        return False


@cache
def _rule_class(version: int) -> type:
    library = _library()
    base: Any = library.Rule if version == 4 else library.Rule6

    class Rule(base):  # type: ignore[misc]
        tables = ()

    return Rule


@cache
def _library() -> ModuleType:
    try:
        import iptc  # noqa: PLC0415
    except Exception as error:  # the library raises its own and plain ones
        raise IptablesError(f"python-iptables cannot be used: {error}; install the package iptables") from error
    library: ModuleType = iptc
    return library
