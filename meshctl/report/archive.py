"""The archive: every entry is cleaned and bounded on its way in, and what failed is an entry too."""

import io
import json
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from meshctl.report import cleaning

MAX_ENTRY: Final = 8 * 1024 * 1024
MAX_TOTAL: Final = 128 * 1024 * 1024
"""Bytes before compression."""


@dataclass(slots=True)
class Report:
    """What has been collected. Nothing gets in but through these methods."""

    _entries: dict[str, bytes] = field(default_factory=dict)
    _total: int = 0
    failures: list[str] = field(default_factory=list)

    def text(self, name: str, text: str) -> None:
        """Add a text; of one that is too long the end is kept."""
        cleaned = cleaning.clean_text(text).encode()
        if len(cleaned) > MAX_ENTRY:
            cleaned = b"(the beginning was left out)\n" + cleaned[-MAX_ENTRY:]
        if self._total + len(cleaned) > MAX_TOTAL:
            self.failed(name, "left out: the report is large already")
            return
        self._entries[name] = cleaned
        self._total += len(cleaned)

    def object(self, name: str, item: Any) -> None:
        """Add an object, or a list of them, as YAML."""
        found = [cleaning.clean_object(one) for one in item] if isinstance(item, list) else cleaning.clean_object(item)
        self.text(name, yaml.safe_dump(found, sort_keys=False, allow_unicode=True))

    def document(self, name: str, document: Any) -> None:
        """Add something of ours as JSON."""
        self.text(name, json.dumps(document, indent=2))

    def failed(self, what: str, reason: str) -> None:
        """Note that something could not be collected."""
        self.failures.append(f"{what}: {cleaning.clean_text(' '.join(reason.split()))}")

    def write(self, path: Path) -> None:
        """Write the archive, readable by its owner only. Raises ``OSError``."""
        entries = {**self._entries, "failures.txt": "\n".join([*self.failures, ""]).encode()}
        path.touch(mode=0o600, exist_ok=False)
        root = path.name.partition(".")[0]
        with tarfile.open(path, "w:gz") as archive:
            for name, content in sorted(entries.items()):
                entry = tarfile.TarInfo(f"{root}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(content))
