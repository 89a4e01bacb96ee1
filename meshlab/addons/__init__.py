"""What can be added to a lab that is up. None of it knows what else runs there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from meshlab import images
from meshlab.addons import kube_router, metallb, prometheus
from meshlab.api import Resource
from meshlab.cluster import Workload
from meshlab.errors import LabError
from meshlab.images import Archive
from meshlab.plan import LabPlan
from meshlab.programs import Say


@dataclass(frozen=True, slots=True)
class Addon:
    """Something that is added.

    Attributes:
        about: what it is, for the list.
        image: builds its image.
        resources: yields what is applied to a lab, in that order.
        namespace: of its workloads.
        workloads: what runs it, by name; without any, only its image is loaded.
        port: of its Service, which has the addon's name; 0 where there is none.
    """

    about: str
    image: Callable[[Say], Archive]
    resources: Callable[[LabPlan], Iterator[Resource]]
    namespace: str
    workloads: Mapping[str, Workload]
    port: int = 0


ADDONS: Mapping[str, Addon] = {
    prometheus.NAME: Addon(
        prometheus.ABOUT,
        images.prometheus,
        lambda _: prometheus.resources(),
        prometheus.NAMESPACE,
        {prometheus.NAME: Workload.DEPLOYMENT},
        prometheus.PORT,
    ),
    kube_router.NAME: Addon(
        kube_router.ABOUT,
        images.kube_router,
        lambda _: kube_router.resources(),
        kube_router.NAMESPACE,
        {kube_router.NAME: Workload.DAEMON_SET},
    ),
    metallb.NAME: Addon(
        metallb.ABOUT,
        images.metallb,
        metallb.resources,
        metallb.NAMESPACE,
        {metallb.NAME: Workload.DEPLOYMENT, metallb.SPEAKER: Workload.DAEMON_SET},
    ),
    "fortio": Addon(
        "the image of fortio, which sends load, for samples/httpbin/sample-client",
        images.fortio,
        lambda _: iter(()),
        "",
        {},
    ),
}


def named(name: str) -> Addon:
    """Return an addon.

    Raises:
        LabError: there is none of this name.
    """
    if name not in ADDONS:
        raise LabError(f"there is no addon {name}; there are: {', '.join(ADDONS)}")
    return ADDONS[name]
