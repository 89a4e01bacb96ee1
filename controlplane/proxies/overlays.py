"""Patches that users write for a waypoint's objects: strategic merge, from config maps. Pure.

Source: Kubernetes, "Update API objects in place using kubectl patch" (strategic merge patch), and for the keys of the
config map Istio's documentation of ``spec.infrastructure.parametersRef``. Lists are merged by the keys that Kubernetes
declares for them; other lists are replaced.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from controlplane.proxies import pods
from controlplane.proxies.objects import Wanted
from meshapi.errors import brief
from meshkit.kube import Json, kinds

KEYS: Final = ("deployment", "service", "serviceAccount", "horizontalPodAutoscaler", "podDisruptionBudget")
_MERGED_BY: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "ownerReferences": "uid",
    "secrets": "name",
}
_PORT_KEYS: Final = ("containerPort", "port")
_DIRECTIVE: Final = "$patch"
_KEPT: Final = ("name", "generateName", "namespace", "uid", "ownerReferences", "finalizers", "resourceVersion")


class BadOverlay(ValueError):
    """An overlay cannot be used; the text says why."""


def apply(wanted: Iterable[Wanted], overlays: Iterable[Mapping[str, str]]) -> list[Wanted]:
    """Return the objects with all overlays applied; an optional object is left out unless an overlay has its key.

    Args:
        wanted: the objects.
        overlays: the data of config maps, in the order in which they are applied.

    Raises:
        BadOverlay: names the key.
    """
    given = list(overlays)
    for one in given:
        unknown = sorted(set(one) - set(KEYS))
        if unknown:
            raise BadOverlay(f"key {unknown[0]} is not known; write {', '.join(KEYS)}")
    found = []
    for item in wanted:
        patches = [_read(item.overlay, one[item.overlay]) for one in given if item.overlay in one]
        if item.is_optional and not patches:
            continue
        found.append(_patched(item, patches))
    return found


def _read(key: str, text: str) -> Json:
    try:
        patch = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadOverlay(f"{key} is not YAML: {brief(' '.join(str(error).split()))}") from None
    if patch is None:
        return {}
    if not isinstance(patch, dict):
        raise BadOverlay(f"{key} is not an object")
    return patch


def _patched(item: Wanted, patches: Iterable[Json]) -> Wanted:
    body = copy.deepcopy(item.body)
    for patch in patches:
        body = merge(body, {key: value for key, value in patch.items() if key not in {"apiVersion", "kind"}})
    before, after = item.body["metadata"], body.get("metadata")
    if not isinstance(after, dict) or any(before.get(key) != after.get(key) for key in _KEPT):
        raise BadOverlay(f"{item.overlay} may change labels and annotations of the metadata, nothing else")
    if item.kind is kinds.DEPLOYMENT:
        _follow_grace_period(body)
    return Wanted(item.kind, item.overlay, body, item.is_optional)


def _follow_grace_period(body: Json) -> None:
    """Tell the container how long its pod may take to end, whichever way that was set."""
    try:
        spec = body["spec"]["template"]["spec"]
        grace = str(spec["terminationGracePeriodSeconds"])
        [proxy] = [one for one in spec["containers"] if one["name"] == pods.CONTAINER]
        proxy["env"] = merge({"env": proxy["env"]}, {"env": [{"name": pods.GRACE_VARIABLE, "value": grace}]})["env"]
    except (KeyError, TypeError, ValueError):
        raise BadOverlay(f"deployment must keep the container {pods.CONTAINER} and its environment") from None


def merge(target: Json, patch: Mapping[str, Any]) -> Json:
    """Return ``target`` with a strategic merge patch applied."""
    if patch.get(_DIRECTIVE) == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    result = dict(target)
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue  # orders of lists, which no field here depends on
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            if value.get(_DIRECTIVE) == "delete":
                result.pop(key)
            else:
                result[key] = merge(result[key], value)
        elif isinstance(value, list) and isinstance(result.get(key), list):
            result[key] = _merged_list(key, result[key], value)
        else:
            result[key] = value
    return result


def _merged_list(field: str, target: list[Any], patch: list[Any]) -> list[Any]:
    if any(isinstance(item, dict) and set(item) == {_DIRECTIVE} and item[_DIRECTIVE] == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and _DIRECTIVE in item)]
    by = _merge_key(field, patch)
    if by is None:
        return list(patch)
    result = list(target)
    for item in patch:
        at = next((place for place, held in enumerate(result) if held.get(by) == item.get(by)), None)
        if item.get(_DIRECTIVE) == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(item)
        else:
            result[at] = merge(result[at], item)
    return result


def _merge_key(field: str, patch: list[Any]) -> str | None:
    if not all(isinstance(item, dict) for item in patch):
        return None
    if field == "ports":
        return next((key for key in _PORT_KEYS if all(key in item for item in patch)), None)
    return _MERGED_BY.get(field)
