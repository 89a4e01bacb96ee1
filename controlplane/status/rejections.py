"""What proxies refuse of the resources that an object has a part in."""

from collections.abc import Iterable

from controlplane.envoy.placing import Placed
from controlplane.graph.derived import Fetch
from controlplane.inputs.rejections import name_in
from controlplane.inputs.sources import Inputs, Rejection


def first(inputs: Inputs, placed: Iterable[Placed], fetch: Fetch) -> Rejection | None:
    """Return the first rejection of one of some resources; ``None``: all are taken."""
    found = (fetch.find(inputs.rejections, (one.type_url, name_in(one.view, one.resource.name))) for one in placed)
    return next((one for one in found if one is not None), None)
