"""Session persistence by Envoy's filter for stateful sessions. Routes turn it on."""

from typing import Final

from envoy.config.core.v3 import extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.stateful_session.v3 import stateful_session_pb2
from envoy.extensions.http.stateful_session.cookie.v3 import cookie_pb2
from envoy.extensions.http.stateful_session.header.v3 import header_pb2

from controlplane.envoy import names
from controlplane.envoy.packing import duration, extension, packed
from controlplane.routing.ir import Session

_EVERYWHERE: Final = "/"


def apply(
    to: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight, session: Session | None
) -> None:
    """Note in a route, or in one of its clusters, what keeps clients at one endpoint."""
    if session is None:
        return
    config = stateful_session_pb2.StatefulSessionPerRoute()
    config.stateful_session.session_state.CopyFrom(_state(session))
    to.typed_per_filter_config[names.SESSION_FILTER].CopyFrom(packed(config))


def _state(session: Session) -> extension_pb2.TypedExtensionConfig:
    if session.is_header:
        header = header_pb2.HeaderBasedSessionState(name=session.name)
        return extension("envoy.http.stateful_session.header", header)
    result = cookie_pb2.CookieBasedSessionState()
    result.cookie.name, result.cookie.path = session.name, _EVERYWHERE
    if session.lifetime is not None:
        result.cookie.ttl.CopyFrom(duration(session.lifetime))
    return extension("envoy.http.stateful_session.cookie", result)
