"""The modules of one Rust crate, and which of them names which.

Read from the source text: ``use`` declarations and paths that begin with ``crate``, ``super``, ``self`` or a child
module. A name that a module only re-exports belongs to the module that defines it, so ``mod`` declarations and
re-exports make no module depend on its children. Test modules are left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Name = tuple[str, ...]
"""A module's path below the crate, or any path: () is the crate itself."""


class Use(NamedTuple):
    """One path of a ``use`` declaration, as written, and the name that it gets here."""

    path: Name
    alias: str
    is_public: bool


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_STRING = re.compile(r'b?r?#*"(?:\\.|[^"\\])*"#*', re.S)
_TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*")
_USE = re.compile(r"(\bpub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);")
_PATH = re.compile(r"(?<![\w:])(\w+(?:::\w+)+)")


def _without_tests(source: str) -> str:
    """Return the source without comments, strings and test modules."""
    source = _STRING.sub('""', _COMMENT.sub("", source))
    while found := _TEST_MODULE.search(source):
        end, depth = found.end(), 0
        for position in range(found.end(), len(source)):
            depth += {"{": 1, "}": -1}.get(source[position], 0)
            if depth == 0:
                end = position + 1
                break
        source = source[: found.start()] + source[end:]
    return source


def _leaves(tree: str, prefix: Name = ()) -> Iterator[tuple[Name, str]]:
    """Yield the paths of a ``use`` tree, each with the name that it gets."""
    depth = start = 0
    parts = []
    for position, char in enumerate(tree):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(tree[start:position])
            start = position + 1
    for part in filter(None, (part.strip() for part in [*parts, tree[start:]])):
        head, brace, rest = part.partition("{")
        segments = tuple(filter(None, head.strip().split("::")))
        if brace:
            yield from _leaves(rest.rpartition("}")[0], prefix + segments)
            continue
        path, _, alias = head.partition(" as ")
        full = prefix + tuple(segment.strip() for segment in path.split("::"))
        full = full[:-1] if full[-1] == "self" and len(full) > 1 else full
        yield full, alias.strip() or full[-1]


class Crate:
    """The modules of the crate whose sources are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.sources: dict[Name, str] = {}
        for path in sorted(folder.rglob("*.rs")):
            name = path.relative_to(folder).with_suffix("").parts
            if name[-1] == "tests" or name[-1].endswith("_tests") or name[0] == "bin":
                continue
            name = name[:-1] if name[-1] in ("lib", "main", "mod") else name
            self.sources[name] = _without_tests(path.read_text())
        self._uses = {module: list(self._read_uses(source)) for module, source in self.sources.items()}

    @staticmethod
    def _read_uses(source: str) -> Iterator[Use]:
        for found in _USE.finditer(source):
            for path, alias in _leaves(found[2]):
                yield Use(path, alias, is_public=found[1] is not None)

    def dependencies(self, module: Name) -> set[Name]:
        """The other modules that a module names."""
        rest = _USE.sub("", self.sources[module])
        inline = (tuple(found[1].split("::")) for found in _PATH.finditer(rest))
        private = (
            use.path for use in self._uses[module] if not (use.is_public and self._is_of_child(module, use.path))
        )
        found = {self._defining(module, path) for path in (*inline, *private)}
        return {name for name in found if name is not None} - {module}

    def _is_of_child(self, module: Name, path: Name) -> bool:
        full = self._absolute(module, path)
        return full is not None and len(full) > len(module) and full[: len(module)] == module

    def _absolute(self, module: Name, path: Name) -> Name | None:
        """A path as seen from the crate; ``None`` if it leads out of it."""
        base, rest = module, path
        if rest[0] == "crate":
            base, rest = (), rest[1:]
        elif rest[0] not in ("super", "self"):
            return module + rest if module + rest[:1] in self.sources else None
        while rest and rest[0] in ("super", "self"):
            base, rest = (base[:-1] if rest[0] == "super" else base), rest[1:]
        return base + rest

    def _defining(self, module: Name, path: Name, depth: int = 0) -> Name | None:
        full = self._absolute(module, path)
        if full is None or depth > 8:
            return None
        length = next(length for length in range(len(full), -1, -1) if full[:length] in self.sources)
        owner, item = full[:length], full[length : length + 1]
        for use in self._uses[owner] if item else ():
            if use.alias == item[0] and use.is_public:
                return self._defining(owner, use.path, depth + 1)
        return owner

    def circles(self) -> list[list[str]]:
        """Groups of modules of which each depends on each other one, through others or not."""
        direct = {module: self.dependencies(module) for module in self.sources}
        reach = {module: set(named) for module, named in direct.items()}
        for middle in direct:
            for module in direct:
                if middle in reach[module]:
                    reach[module] |= reach[middle]
        groups = {frozenset({module, *(other for other in reach[module] if module in reach[other])})
                  for module in direct if module in reach[module]}  # fmt: skip
        return sorted(sorted("::".join(("crate", *name)) for name in group) for group in groups)
