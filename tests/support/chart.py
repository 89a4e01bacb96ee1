"""The chart, as Helm renders it."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from meshapi import names
from meshctl import chart

CHART = chart.folder()
Objects = dict[tuple[str, str], dict[str, Any]]
"""By kind and name."""


def run(helm: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False)


def template(helm: Path, *sets: str, namespace: str = names.DEFAULT_NAMESPACE) -> Objects:
    options = [f"--set={value}" for value in sets]
    done = run(helm, "template", "culvert", str(CHART), "--kube-version=1.34", f"--namespace={namespace}", *options)
    assert done.returncode == 0, done.stderr
    documents = [one for one in yaml.safe_load_all(done.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def pod(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = objects[kind, name]["spec"]["template"]["spec"]
    return spec
