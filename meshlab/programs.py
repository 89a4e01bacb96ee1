"""Programs that are built from source: Kubernetes' components, CoreDNS, Helm, Prometheus, pause, and tests' tools.

Each function returns the folder of the built program in the cache and builds it only if it is not there. Versions are
pinned by the Go modules beside this file, and everything but Zipkin (Maven) comes by the Go module proxy.
"""

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from meshlab import cache, run
from meshlab.errors import MissingRequirement

Say = Callable[[str], None]

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")

_HERE = Path(__file__).parent
_KUBERNETES = _HERE / "kubernetes"
_TOOLS = _HERE / "tools"
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
_FLAGS = ("-trimpath", "-ldflags")
_STRIP = "-s -w"
_ZIPKIN = "3.4.4"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"


def kubernetes(say: Say) -> Path:
    """Return the folder with one program and its six names (``kube-apiserver`` and so on)."""
    version = _required_version(_KUBERNETES / "go.mod", "k8s.io/kubernetes")
    flags = f"{_STRIP} {_version_flags(version)}"

    def make(draft: Path) -> None:
        _go_build(draft / "kubernetes", module=_KUBERNETES, package=".", flags=flags)
        for name in COMPONENTS:
            (draft / name).symlink_to("kubernetes")

    inputs = cache.key(_KUBERNETES / "main.go", _KUBERNETES / "go.mod", _KUBERNETES / "go.sum", flags, _go_version())
    return _obtain("kubernetes", inputs, make, say, f"Kubernetes {version}, about 5 minutes on two cores")


def coredns(say: Say) -> Path:
    """Return the folder with the program ``coredns``."""
    return _tool("coredns", "github.com/coredns/coredns", say, "about 2 minutes")


def helm(say: Say) -> Path:
    """Return the folder with the program ``helm``."""
    module = _TOOLS / "helm"
    version = _required_version(module / "go.mod", "helm.sh/helm/v3")
    version_flag = f"-X helm.sh/helm/v3/internal/version.version={version}"
    return _tool("helm", "helm.sh/helm/v3/cmd/helm", say, "about 1 minute", version_flag)


def prometheus(say: Say) -> Path:
    """Return the folder with the program ``prometheus``, which an addon runs."""
    module = "github.com/prometheus/prometheus"
    _, minor, patch = _required_version(_TOOLS / "prometheus" / "go.mod", module).split(".")
    # As a module, release 3.9.1 is v0.309.1.
    release = f"{int(minor) // 100}.{int(minor) % 100}.{patch}"
    version_flag = f"-X github.com/prometheus/common/version.Version={release}"
    return _tool("prometheus", f"{module}/cmd/prometheus", say, "3 to 6 minutes on two cores", version_flag)


def kube_router(say: Say) -> Path:
    """Return the folder with the program ``kube-router``, which an addon runs."""
    package = "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
    return _tool("kube-router", package, say, "about 2 minutes")


def metallb(say: Say) -> Path:
    """Return the folder with the programs ``controller`` and ``speaker``, which an addon runs."""
    parts = ("controller", "speaker")
    return _tools("metallb", "go.universe.tf/metallb", parts, say, "3 to 5 minutes on two cores")


def h2spec(say: Say) -> Path:
    """Return the folder with the program ``h2spec``, which tests use."""
    return _tool("h2spec", "github.com/summerwind/h2spec/cmd/h2spec", say, "some seconds")


def grpc_interop(say: Say) -> Path:
    """Return the folder with the programs ``client`` and ``server`` of gRPC's interoperability tests."""
    return _tools("grpc-interop", "google.golang.org/grpc/interop", ("client", "server"), say, "about 1 minute")


def opentelemetry_collector(say: Say) -> Path:
    """Return the folder with the program ``otelcol``, which tests use."""
    return _tool("otelcol", ".", say, "about 1 minute")


def fortio(say: Say) -> Path:
    """Return the folder with the program ``fortio``, the load generator of a bench."""
    return _tool("fortio", "fortio.org/fortio", say, "about 1 minute")


def opa(say: Say) -> Path:
    """Return the folder with the program ``opa``, an external authorizer that tests use."""
    return _tool("opa", ".", say, "about 2 minutes")


def zipkin(say: Say) -> Path:
    """Return the folder with ``zipkin.jar``, which tests run with Java. It is fetched by Maven, built already."""
    artifact = f"io.zipkin:zipkin-server:{_ZIPKIN}:jar:exec"

    def make(draft: Path) -> None:
        options = [f"-Dartifact={artifact}", f"-DoutputDirectory={draft}", "-Dmdep.stripVersion=true"]
        try:
            run.logged(["mvn", "--quiet", "--batch-mode", f"{_COPY}:copy", *options], log=log("zipkin"))
        except FileNotFoundError:
            raise MissingRequirement("mvn is not installed; Zipkin is fetched with it: run setup/system") from None
        (draft / "zipkin-server-exec.jar").rename(draft / "zipkin.jar")

    return _obtain("zipkin", cache.key(artifact), make, say, "some seconds")


def gateway_conformance(say: Say) -> Path:
    """Return the folder with the program ``conformance``: the tests of the Gateway API's suite."""
    module = _TOOLS / "gateway-conformance"

    def make(draft: Path) -> None:
        argv = ["go", "test", "-c", "-trimpath", "-o", str(draft / "conformance"), "."]
        run.logged(argv, log=log("conformance"), cwd=module, env=_ENVIRONMENT)

    inputs = cache.key(*sorted(module.iterdir()), _go_version())
    return _obtain("conformance", inputs, make, say, "about 4 minutes on two cores")


def gateway_echo(say: Say) -> Path:
    """Return the folder with the program ``echo-basic``, the application of the suite's tests of gateways."""
    module, package = _TOOLS / "gateway-conformance", "sigs.k8s.io/gateway-api/conformance/echo-basic"

    def make(draft: Path) -> None:
        _go_build(draft / "echo-basic", module=module, package=package, flags=_STRIP)

    inputs = cache.key(module / "go.mod", module / "go.sum", _STRIP, _go_version())
    return _obtain("echo-basic", inputs, make, say, "about 1 minute")


def gateway_conformance_sources() -> Path:
    """Return the folder of the suite's sources, with the manifests that it applies."""
    module = _TOOLS / "gateway-conformance"
    run.logged(["go", "mod", "download"], log=log("conformance"), cwd=module, env=_ENVIRONMENT)
    find = ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api/conformance"]
    return Path(subprocess.run(find, cwd=module, capture_output=True, text=True, check=True).stdout.strip())


def pause(say: Say, source: Path) -> Path:
    """Return the folder with the static program ``pause``, compiled from ``source``."""

    def make(draft: Path) -> None:
        compiler = [
            "gcc",
            "-static",
            "-Os",
            "-s",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            str(draft / "pause"),
            str(source),
        ]
        run.logged(compiler, log=log("pause"))

    return _obtain("pause", cache.key(source), make, say, "a second")


def log(what: str) -> Path:
    """Return the log file of a build."""
    return cache.folder() / "logs" / f"build-{what}.log"


def _tool(name: str, package: str, say: Say, effort: str, version_flag: str = "") -> Path:
    module = _TOOLS / name
    flags = f"{_STRIP} {version_flag}".strip()

    def make(draft: Path) -> None:
        _go_build(draft / name, module=module, package=package, flags=flags)

    sources = (*sorted(module.glob("*.go")), module / "go.mod", module / "go.sum")
    inputs = cache.key(*sources, package, flags, _go_version())
    return _obtain(name, inputs, make, say, effort)


def _tools(name: str, package: str, parts: Sequence[str], say: Say, effort: str) -> Path:
    """Return the folder with several programs of one module: the packages ``parts`` below ``package``."""
    module = _TOOLS / name

    def make(draft: Path) -> None:
        for part in parts:
            _go_build(draft / part, module=module, package=f"{package}/{part}", flags=_STRIP)

    inputs = cache.key(module / "go.mod", module / "go.sum", _STRIP, _go_version())
    return _obtain(name, inputs, make, say, effort)


def _go_build(output: Path, *, module: Path, package: str, flags: str) -> None:
    argv = ["go", "build", *_FLAGS, flags, "-o", str(output), package]
    run.logged(argv, log=log(output.name), cwd=module, env=_ENVIRONMENT)


def _obtain(what: str, inputs: str, make: Callable[[Path], None], say: Say, effort: str) -> Path:
    def announce(draft: Path) -> None:
        say(f"building {what} ({effort}; log: {log(what)})")
        make(draft)

    return cache.obtain(what, inputs, announce)


def _required_version(go_mod: Path, module: str) -> str:
    found = re.search(rf"^(?:require)?\s+{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    if found is None:
        raise MissingRequirement(f"{go_mod} requires no {module}: run `go get {module}` there")
    return found[1]


def _version_flags(version: str) -> str:
    """Without these the components call themselves v0.0.0, and checks of version skew misbehave."""
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


def _go_version() -> str:
    try:
        return subprocess.run(["go", "env", "GOVERSION", "GOARCH"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise MissingRequirement("go is not installed; Kubernetes is built with it: install Go 1.24 or newer") from None
