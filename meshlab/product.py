"""Culvert's own image, from a clone: dependencies, the product as a wheel, the CNI plugin; then ``deploy/images``.

Each part is in the cache under the key of what it is made from, so that a change of our Python costs a wheel and one
small layer, and no change costs reading the sources once. The tag is the key of the image: a rollout happens when,
and only when, something has changed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from meshlab import cache, images, programs, run
from meshlab.errors import MissingRequirement
from meshlab.images import Archive, Image
from meshlab.programs import Say

_CLONE = Path(__file__).parent.parent
_ENGINE = _CLONE / "engine"
_RUNTIME = _CLONE / "deploy" / "images" / "runtime"
_CULVERT = _CLONE / "deploy" / "images" / "culvert"
_REQUIREMENTS = _CLONE / "setup" / "requirements.txt"
_PACKAGES = ("meshapi", "meshengine", "meshkit", "nodeagent", "ztunnel", "controlplane", "meshlab", "meshctl")
_PYTHON = "3.11"
"""Python of the base image; the wheels must fit it, whatever runs this."""
_STATIC_TARGET = "x86_64-unknown-linux-gnu"
_KEPT = 3


def image(say: Say) -> Archive:
    """Return Culvert's image, built if it is not there.

    Raises:
        BuildFailed: names the log file.
    """
    wheels = _wheels(say)
    base = images.layer(Image(f"{images.PREFIX}/runtime:1", _RUNTIME / "Dockerfile", wheels), say)
    parts = [_wheel(say) / "culvert.whl", _plugin(say) / "culvert-cni", *wheels.glob("pip-*.whl")]
    inputs = cache.key(base, _CULVERT, *(str(part) for part in parts))

    def gather(draft: Path) -> None:
        for part in parts:
            shutil.copy2(part.resolve(), draft / part.resolve().name)

    context = cache.obtain("culvert-context", inputs, gather)
    cache.prune("culvert-context", keep=_KEPT)
    return images.build(Image(f"{images.PREFIX}/culvert:{inputs}", _CULVERT / "Dockerfile", context, base=base), say)


def _wheels(say: Say) -> Path:
    """Return a folder with every pinned dependency, and pip."""
    lists = [_REQUIREMENTS, _RUNTIME / "pip.txt"]

    def make(draft: Path) -> None:
        say("fetching pinned dependencies")
        pinned = [argument for file in lists for argument in ("-r", str(file))]
        fitting = ["--only-binary=:all:", f"--python-version={_PYTHON}", *_platforms()]
        checked = ["--no-deps", "--require-hashes", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *checked, *fitting, *pinned]
        run.logged([*command, "--dest", str(draft)], log=programs.log("dependencies"))
        shutil.copy2(_REQUIREMENTS, draft / "requirements.txt")

    return cache.obtain("wheels", cache.key(_PYTHON, *lists), make)


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


def _plugin(say: Say) -> Path:
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
        made = _target() / _STATIC_TARGET / "release" / "culvert-cni"
        run.logged(["strip", "-o", str(draft / "culvert-cni"), str(made)], log=programs.log("cni-plugin"))

    return cache.obtain("cni-plugin", inputs, make)


def _cargo(argv: list[str], *, log: str, flags: str = "") -> None:
    environment = {"CARGO_TARGET_DIR": str(_target())} | ({"RUSTFLAGS": flags} if flags else {})
    run.logged(argv, log=programs.log(log), cwd=_CLONE, env=environment)


def _target() -> Path:
    return cache.folder() / "engine-target"


def _engine_key() -> str:
    return cache.key(_ENGINE / "crates", _ENGINE / "Cargo.toml", _ENGINE / "Cargo.lock")


def _rustc() -> str:
    try:
        return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise MissingRequirement(
            "rustc is not installed; the engine is built with it: install Rust 1.90 or newer"
        ) from None
