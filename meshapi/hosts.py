"""Names of hosts: short ones are completed, wildcards are matched. Facts: Istio's ``pilot/pkg/model/config.go``."""

from collections.abc import Iterable


def complete(host: str, namespace: str, domain: str) -> str:
    """Return the complete name of a host that an object of ``namespace`` names.

    Only a name without any dot is completed: ``reviews`` is a service of the namespace, ``reviews.default`` is not
    ``reviews.default.svc``.
    """
    name = host.rstrip(".").lower()
    if "." in name or name == "*" or not name:
        return name
    return f"{name}.{namespace}.svc.{domain}"


def matches(pattern: str, host: str) -> bool:
    """Return whether a host is the pattern or below it; ``*.example.com`` stands for any number of labels."""
    if pattern == "*":
        return True
    return host.endswith(pattern[1:]) and host != pattern[1:] if pattern.startswith("*") else pattern == host


def patterns(host: str) -> Iterable[str]:
    """Yield every pattern that matches a host, the most specific one first."""
    yield host
    rest = host.removeprefix("*.")
    while rest:
        _, _, rest = rest.partition(".")
        if rest:
            yield f"*.{rest}"
    yield "*"
