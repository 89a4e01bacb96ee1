"""Container images made on this computer: a base from Debian packages, and ordinary Dockerfiles on top of it.

Names are ``localhost/culvert/<name>:<tag>``: no registry answers to ``localhost``, so a node can only use what was
loaded into it, and ``imagePullPolicy: IfNotPresent`` does the right thing. A Dockerfile that needs Python starts with
``ARG BASE`` and ``FROM ${BASE}``. Each image is an archive in the cache, keyed by Dockerfile, context and base.

buildah runs in a mount namespace of its own, because its overlay driver leaves a bind mount of its storage behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshlab import cache, programs, run
from meshlab.errors import MissingRequirement
from meshlab.programs import Say

PREFIX = "localhost/culvert"
PAUSE = f"{PREFIX}/pause:1"
COREDNS = f"{PREFIX}/coredns:1"
PROMETHEUS = f"{PREFIX}/prometheus:1"
KUBE_ROUTER = f"{PREFIX}/kube-router:1"
METALLB = f"{PREFIX}/metallb:1"
SAMPLES = f"{PREFIX}/samples:1"
FORTIO = f"{PREFIX}/fortio:1"

_SUITE = "bookworm"
_PACKAGES = (
    "python3",
    "ca-certificates",
    "iproute2",
    "ipset",
    "iptables",
    "nftables",
    "curl",
    "netcat-openbsd",
    "procps",
    "netbase",
)
_BASE_TAG = f"{PREFIX}/base:{_SUITE}"
_TRIM = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
_APT = Path("/etc/apt")
_KEPT = 3
"""Versions of an image that stay in the cache: enough to switch between branches."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image is made from.

    Attributes:
        name: full name with tag.
        dockerfile: the Dockerfile.
        context: folder that ``COPY`` copies from.
        arguments: build arguments besides ``BASE``.
        base: name, in buildah's storage, of the image for ``BASE``; without it, plain Debian with Python.
    """

    name: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    base: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """An image as a file that containerd can import."""

    name: str
    path: Path


def build(image: Image, say: Say) -> Archive:
    """Build an image, or find it in the cache.

    Raises:
        BuildFailed: names the log file of buildah.
    """
    arguments, inputs = _inputs(image, say)
    short = image.name.rsplit("/", 1)[-1]

    def make(draft: Path) -> None:
        say(f"building image {image.name}")
        tag = f"{image.name}-{inputs}"  # two contexts with the same name must not take each other's image
        _buildah(
            short,
            _bud(image, arguments, tag),
            ["push", tag, f"docker-archive:{draft / 'image.tar'}:{image.name}"],
            ["rmi", tag],
        )

    what = "image-" + short.split(":")[0]
    archive = Archive(name=image.name, path=cache.obtain(what, inputs, make) / "image.tar")
    cache.prune(what, keep=_KEPT)
    return archive


def layer(image: Image, say: Say) -> str:
    """Build an image that others start from, or find it; return its name in buildah's storage.

    Raises:
        BuildFailed: names the log file of buildah.
    """
    arguments, inputs = _inputs(image, say)
    tag = f"{image.name}-{inputs}"

    def make(_: Path) -> None:
        say(f"building image {image.name}")
        _buildah(image.name.rsplit("/", 1)[-1], _bud(image, arguments, tag))

    cache.obtain("layer-" + image.name.rsplit("/", 1)[-1].replace(":", "-"), inputs, make)
    return tag


def _inputs(image: Image, say: Say) -> tuple[dict[str, str], str]:
    """Return the build arguments, and the key of everything that the image depends on."""
    wants_base = "${BASE}" in image.dockerfile.read_text()
    base = (image.base or _base(say)) if wants_base else None
    arguments = dict(image.arguments) | ({"BASE": base} if base else {})
    return arguments, cache.key(image.name, image.dockerfile, image.context, repr(sorted(arguments.items())))


def _bud(image: Image, arguments: Mapping[str, str], tag: str) -> list[str]:
    options = [f"--build-arg={name}={value}" for name, value in sorted(arguments.items())]
    files = ["-t", tag, "-f", str(image.dockerfile), str(image.context)]
    return ["bud", "--layers=false", "--pull=never", *options, *files]


def pause(say: Say) -> Archive:
    """Return the image of every pod's first process."""
    folder = _definitions() / "pause"
    return build(Image(PAUSE, folder / "Dockerfile", programs.pause(say, folder / "pause.c")), say)


def coredns(say: Say) -> Archive:
    """Return the image of the cluster's name server."""
    return build(Image(COREDNS, _definitions() / "coredns" / "Dockerfile", programs.coredns(say)), say)


def prometheus(say: Say) -> Archive:
    """Return the image of the addon that collects metrics."""
    return build(Image(PROMETHEUS, _definitions() / "prometheus" / "Dockerfile", programs.prometheus(say)), say)


def kube_router(say: Say) -> Archive:
    """Return the image of the addon that enforces NetworkPolicies."""
    definition = _definitions() / "kube-router" / "Dockerfile"
    return build(Image(KUBE_ROUTER, definition, programs.kube_router(say), base=_base(say)), say)


def metallb(say: Say) -> Archive:
    """Return the image of the addon that gives Services of type LoadBalancer addresses."""
    return build(Image(METALLB, _definitions() / "metallb" / "Dockerfile", programs.metallb(say)), say)


def fortio(say: Say) -> Archive:
    """Return the image of the client that sends load."""
    return build(Image(FORTIO, _definitions() / "fortio" / "Dockerfile", programs.fortio(say)), say)


def samples(say: Say) -> Archive:
    """Return the image with every sample application."""
    folder = _clone() / "samples" / "app"
    return build(Image(SAMPLES, folder / "Dockerfile", folder), say)


def _base(say: Say) -> str:
    """Return the name, in buildah's storage, of the base image; its files come from Debian packages."""
    inputs = cache.key(_SUITE, *_PACKAGES, *_TRIM)
    tag = f"{_BASE_TAG}-{inputs}"

    def make(draft: Path) -> None:
        say(f"building the base image from Debian {_SUITE} packages (about 1 minute; log: {programs.log('base')})")
        tar = draft / "base.tar"
        run.logged(["mmdebstrap", *_mmdebstrap_options(), _SUITE, str(tar), *_mirrors()], log=programs.log("base"))
        _buildah_script(
            "base",
            f'c=$(buildah from scratch) && buildah add "$c" {tar} / && buildah config --env LANG=C.UTF-8 "$c" '
            f'&& buildah commit --rm "$c" {tag}',
        )
        tar.unlink()

    cache.obtain("base", inputs, make)
    return tag


def _mmdebstrap_options() -> list[str]:
    return [
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        '--aptopt=Acquire::Languages "none"',
        *[f"--dpkgopt=path-exclude={pattern}" for pattern in _TRIM],
        # Where the packages came from is this computer's matter, not the image's.
        '--customize-hook=rm -rf "$1"/etc/apt/sources.list* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*',
        '--customize-hook=rm -f "$1"/etc/resolv.conf "$1"/etc/hostname',
    ]


def _mirrors() -> list[str]:
    """Return this computer's own package sources if they have the suite, else nothing: the tool's default."""
    files = [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]
    return [str(path) for path in files if path.is_file() and f" {_SUITE}" in path.read_text()]


def _buildah(what: str, *commands: list[str]) -> None:
    for command in commands:
        run.logged(_isolated(["buildah", *_storage(), *command]), log=programs.log(f"image-{what}"), env=_ENVIRONMENT)


def _buildah_script(what: str, script: str) -> None:
    function = f'buildah() {{ command buildah {" ".join(_storage())} "$@"; }}; set -e; {script}'
    run.logged(_isolated(["sh", "-c", function]), log=programs.log(f"image-{what}"), env=_ENVIRONMENT)


def _isolated(argv: list[str]) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", *argv]


def _storage() -> list[str]:
    home = cache.folder() / "buildah"
    return ["--storage-driver", "overlay", "--root", str(home / "root"), "--runroot", str(home / "run")]


_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}


def _definitions() -> Path:
    return _clone() / "deploy" / "images"


def _clone() -> Path:
    clone = Path(__file__).parent.parent
    if not (clone / "deploy" / "images").is_dir():
        raise MissingRequirement("images are built from a clone of the repository: run `make lab` there")
    return clone
