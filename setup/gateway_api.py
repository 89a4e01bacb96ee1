"""Makes the chart's copies of the Gateway API's definitions (``python -m setup.gateway_api [--check]``).

They come from the Go module that ``setup/gateway-api/go.mod`` pins, one file for each channel. Descriptions are left
out: with them the two files have 2.7 MB, and Helm keeps a chart in a secret of at most 1 MiB. The admission policy that
the project ships beside its definitions (``safe-upgrades``) is no definition and is not taken.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from meshapi import made_files

CHANNELS: Final = ("standard", "experimental")
FOLDER: Final = Path(__file__).parent.parent / "deploy" / "helm" / "culvert" / "files"
_MODULE: Final = "sigs.k8s.io/gateway-api"
_PIN: Final = Path(__file__).parent / "gateway-api"
_HEADER: Final = "# Made by `make crds` from the Go module {module} {version}, without descriptions. Do not edit.\n"
_ALIKE: Final = ("properties", "patternProperties", "definitions")
"""Keys of a schema whose values are schemas by name: a name there may be ``description`` and stays."""


def render(channel: str) -> str:
    """Return the definitions of a channel."""
    folder, version = _module()
    documents = []
    for file in sorted((folder / "config" / "crd" / channel).glob("gateway.networking.*.yaml")):
        documents += [item for item in yaml.safe_load_all(file.read_text()) if _is_definition(item)]
    return _HEADER.format(module=_MODULE, version=version) + "---\n".join(map(_text, documents))


def file(channel: str) -> Path:
    """Return the file of a channel."""
    return FOLDER / f"gateway-api-{channel}.yaml"


def _module() -> tuple[Path, str]:
    version = (_PIN / "go.mod").read_text().rpartition(f"{_MODULE} ")[2].strip()
    argv = ["go", "mod", "download", "-json", f"{_MODULE}@{version}"]  # compared with go.sum
    done = subprocess.run(argv, cwd=_PIN, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"go mod download {_MODULE}@{version}: {done.stderr or done.stdout}")
    return Path(json.loads(done.stdout)["Dir"]), version


def _is_definition(item: Any) -> bool:
    return isinstance(item, dict) and item.get("kind") == "CustomResourceDefinition"


def _text(definition: dict[str, Any]) -> str:
    definition.pop("status", None)
    definition["metadata"].setdefault("annotations", {})["helm.sh/resource-policy"] = "keep"
    definition["metadata"].setdefault("labels", {})["app.kubernetes.io/part-of"] = "culvert"
    for version in definition["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"] = _bare(version["schema"]["openAPIV3Schema"])
    return yaml.dump(definition, sort_keys=False, width=120)


def _bare(schema: Any) -> Any:
    """Return a schema without descriptions."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _bare(item) for name, item in value.items()} if key in _ALIKE else _bare(value)
        for key, value in schema.items()
        if key != "description"
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` only compare; return the exit status."""
    texts = ((file(channel), render(channel)) for channel in CHANNELS)
    return made_files.write_or_check(texts, arguments, "make crds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
