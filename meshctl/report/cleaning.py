"""Takes secrets out of what is about to be handed on. Pure.

Everything passes through here, whatever it is: logs, pages and objects, as text. Two nets, because either alone has
holes: objects are cleaned by what their fields mean, and every text by what secrets look like. Rather too much is
removed than too little.
"""

import re
from typing import Any, Final

from meshkit.kube import Json

REMOVED: Final = "REMOVED"

_SHAPES: Final = (
    # Private keys in PEM, whole or broken off, also where line ends were written as \\n.
    re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    # The same in base64, as in the data of a secret: it begins with "-----BEGIN ".
    re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/=\s]*"),
    # Tokens of service accounts and others: parts in base64url, of which the first begins with '{"'. Not bound to the
    # beginning of a word, and of any number of parts: an escaped newline or another token may touch it.
    re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)*"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?i)(?<=basic )[A-Za-z0-9+/=]{8,}"),
    # User and password in a URL.
    re.compile(r"(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)"),
)
_ASSIGNED: Final = re.compile(
    r"(?i)((?:password|passwd|secret|token|api[_-]?key|private[_-]?key|credential)[\w.-]{0,64}[\"']?[ \t]*[=:][ \t]*)"
    r"(\"(?:[^\"\\\n]|\\.)*\"?|'[^'\n]*'?|[^\s,;}\]\"']+)"
)
"""``password=x`` and the like; names of settings that hold a path or a number are not worth an exception."""
_END_OF_KEY: Final = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_OF_KEYS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \t\r\n")
_NAMES: Final = re.compile(r"(?i)password|passwd|secret|token|api[_-]?key|private[_-]?key|credential")
_HARMLESS: Final = frozenset(
    {"secret", "secretname", "serviceaccounttoken", "automountserviceaccounttoken", "imagepullsecrets", "projected"}
)
"""Fields of pods that name secrets and hold none."""
_COPIES: Final = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})


def clean_text(text: str) -> str:
    """Return a text without what looks like a secret."""
    for shape in _SHAPES:
        text = shape.sub(REMOVED, text)
    text = _without_ends(text)
    return _ASSIGNED.sub(lambda found: found[1] + REMOVED, text)


def clean_object(item: Json) -> Json:
    """Return an object without what its fields say is secret: data of secrets, variables, copies of the object."""
    result: Json = _clean(item)
    if item.get("kind") == "Secret":
        for field in ("data", "stringData"):
            if field in item:
                result[field] = dict.fromkeys(item[field] or {}, REMOVED)
    metadata = result.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
    return result


def _without_ends(text: str) -> str:
    """Remove keys whose beginning is missing, as where a log was cut: back from the end line, as far as base64 goes."""
    pieces, done = [], 0
    for found in _END_OF_KEY.finditer(text):
        begin = found.start()
        while begin > done and text[begin - 1] in _OF_KEYS:
            begin -= 1
        pieces += [text[done:begin], REMOVED]
        done = found.end()
    return "".join([*pieces, text[done:]])


def _clean(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        if "value" in value and _NAMES.search(str(value.get("name", ""))):
            value = {**value, "value": REMOVED}
        return {key: _clean(inner, key) for key, inner in value.items() if key not in _COPIES}
    if isinstance(value, list):
        return [_clean(inner, name) for inner in value]
    if isinstance(value, str):
        is_secret = bool(_NAMES.search(name)) and name.lower() not in _HARMLESS
        return REMOVED if is_secret and value else clean_text(value)
    return value
