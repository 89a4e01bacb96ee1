"""What can be added to a lab that is up. None of it knows what else runs there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from meshlab import images
from meshlab.addons import kube_router, prometheus
from meshlab.api import Resource
from meshlab.cluster import Workload
from meshlab.errors import LabError
from meshlab.images import Archive
from meshlab.programs import Say


@dataclass(frozen=True, slots=True)
class Addon:
    """Something that is added.

    Attributes:
        about: what it is, for the list.
        image: builds its image.
        resources: yields what is applied, in that order.
        namespace: of its workload, which has the addon's name.
        port: of its Service, which has that name too; 0 where there is none.
        workload: what runs it.
    """

    about: str
    image: Callable[[Say], Archive]
    resources: Callable[[], Iterator[Resource]]
    namespace: str
    port: int = 0
    workload: Workload = Workload.DEPLOYMENT


ADDONS: Mapping[str, Addon] = {
    prometheus.NAME: Addon(
        prometheus.ABOUT, images.prometheus, prometheus.resources, prometheus.NAMESPACE, prometheus.PORT
    ),
    kube_router.NAME: Addon(
        kube_router.ABOUT,
        images.kube_router,
        kube_router.resources,
        kube_router.NAMESPACE,
        workload=Workload.DAEMON_SET,
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
