"""The filters of the policies for a service, for the workloads of a waypoint, or for a gateway."""

from controlplane.envoy import names, tokens
from controlplane.envoy.authorization import custom, filters
from controlplane.envoy.filter_chains import Filters
from controlplane.envoy.upstreams import Upstreams
from controlplane.routing.policies import Policies
from controlplane.routing.services import Service


class PolicyFilters:
    """Computes filters out of policies."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def of(self, service: Service | None, upstreams: Upstreams) -> Filters:
        """Return the filters for a service, or (``None``) for what is of none in particular.

        Tokens are verified before rules look at them.
        """
        fetch = upstreams.fetch
        authentication = self._policies.authentication(service, upstreams.view, fetch)
        authorization = self._policies.authorization(service, upstreams.view, fetch)
        upstreams.sources.update(("RequestAuthentication", policy.key) for policy in authentication)
        upstreams.sources.update(("AuthorizationPolicy", policy.key) for policy in authorization)
        verify = tokens.of_policies(authentication, lambda rule: self._policies.keys(rule, fetch))
        asked = custom.of_requests(
            authorization,
            self._policies.providers(fetch),
            lambda target: upstreams.find(target, target.port, is_http=True).cluster,
        )
        http = (*asked, *([] if verify is None else [verify]), *filters.of_requests(authorization))
        prefix = names.DIRECT_TCP if service is None else service.host
        network = (*custom.of_connections(authorization, prefix), *filters.of_connections(authorization, prefix))
        return Filters(http, network)
