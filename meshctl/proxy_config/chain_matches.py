"""What leads to a filter chain, out of a listener's tree of matchers. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from meshctl.proxy_config.dump import Item


@dataclass(frozen=True, slots=True)
class _Path:
    """What has been asked on the way to a chain.

    Attributes:
        addresses: of the destination; none: any.
        port: of the destination; empty: any.
        protocol: that the client speaks; empty: any.
    """

    addresses: tuple[str, ...] = ()
    port: str = ""
    protocol: str = ""


def by_chain(matcher: Item) -> dict[str, str]:
    """Return what leads to each chain that a tree names, in the words for chains that say it themselves."""
    found: dict[str, list[_Path]] = {}
    for name, path in _walk(matcher, _Path()):
        found.setdefault(name, []).append(path)
    return {name: _text(paths) for name, paths in found.items()}


def _walk(matcher: Item, path: _Path) -> Iterator[tuple[str, _Path]]:
    tree = matcher.get("matcher_tree") or {}
    kind = _type((tree.get("input") or {}).get("typed_config") or {})
    for value, chosen in ((tree.get("exact_match_map") or {}).get("map") or {}).items():
        yield from _chosen(chosen, _more(path, kind, str(value)))
    addresses = (tree.get("custom_match") or {}).get("typed_config") or {}
    for one in addresses.get("range_matchers") or ():
        ranges = tuple(f"{item['address_prefix']}/{item.get('prefix_len', 0)}" for item in one.get("ranges") or ())
        yield from _chosen(one.get("on_match") or {}, replace(path, addresses=ranges))
    yield from _chosen(matcher.get("on_no_match") or {}, path)


def _chosen(chosen: Item, path: _Path) -> Iterator[tuple[str, _Path]]:
    if "matcher" in chosen:
        yield from _walk(chosen["matcher"], path)
    elif "action" in chosen:
        yield str(((chosen["action"] or {}).get("typed_config") or {}).get("value", "")), path


def _more(path: _Path, kind: str, value: str) -> _Path:
    if kind == _PORT:
        return replace(path, port=value)
    return replace(path, protocol=value.strip("'")) if kind == _PROTOCOL else path


_PORT: Final = "DestinationPortInput"
_PROTOCOL: Final = "ApplicationProtocolInput"


def _type(config: Item) -> str:
    return str(config.get("@type", "")).rpartition(".")[2]


def _text(paths: list[_Path]) -> str:
    places: dict[str, None] = {}
    for path in paths:
        if path.addresses or path.port:
            port = f":{path.port}" if path.port else ""
            places[f"{','.join(path.addresses) or '*'}{port}"] = None
    protocols = dict.fromkeys(path.protocol for path in paths if path.protocol)
    parts = [f"App: {','.join(sorted(protocols))}"] if protocols else []
    return "; ".join([*parts, *([f"Addr: {','.join(places)}"] if places else [])]) or "ALL"
