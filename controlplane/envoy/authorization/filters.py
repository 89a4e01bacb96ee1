"""The filters of the policies for one service, in their order: AUDIT, DENY, ALLOW; a dry run only shadows.

CUSTOM goes before them (``custom``), and tokens are verified between the two.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2

from controlplane.ambient.authorization import is_dry_run
from controlplane.envoy.authorization import rules
from controlplane.envoy.packing import packed
from meshapi.resources.security import Action, AuthorizationPolicy

_HTTP: Final = "envoy.filters.http.rbac"
_NETWORK: Final = "envoy.filters.network.rbac"
_ACTIONS: Final = (
    (Action.AUDIT, rules.RBAC.LOG, "istio_audit_"),
    (Action.DENY, rules.RBAC.DENY, "istio_dry_run_deny_"),
    (Action.ALLOW, rules.RBAC.ALLOW, "istio_dry_run_allow_"),
)
HttpFilter: Final = http_connection_manager_pb2.HttpFilter


def of_requests(policies: Sequence[AuthorizationPolicy]) -> Iterator[http_connection_manager_pb2.HttpFilter]:
    """Yield the filters for requests."""
    for action, verb, prefix in _ACTIONS:
        enforced, shadowed = _divided(policies, action)
        if not (enforced or shadowed):
            continue
        config = http_rbac_pb2.RBAC()
        if enforced:
            config.rules.CopyFrom(rules.of_policies(enforced, verb, is_http=True))
        if shadowed:
            config.shadow_rules.CopyFrom(rules.of_policies(shadowed, verb, is_http=True))
            config.shadow_rules_stat_prefix = prefix
        yield HttpFilter(name=_HTTP, typed_config=packed(config))


def of_connections(policies: Sequence[AuthorizationPolicy], prefix: str) -> Iterator[listener_components_pb2.Filter]:
    """Yield the filters for connections that carry no requests; ``prefix`` is of their statistics."""
    for action, verb, shadow_prefix in _ACTIONS:
        enforced, shadowed = _divided(policies, action)
        if not (enforced or shadowed):
            continue
        config = network_rbac_pb2.RBAC(stat_prefix=f"{prefix}.")
        if enforced:
            config.rules.CopyFrom(rules.of_policies(enforced, verb, is_http=False))
        if shadowed:
            config.shadow_rules.CopyFrom(rules.of_policies(shadowed, verb, is_http=False))
            config.shadow_rules_stat_prefix = shadow_prefix
        yield listener_components_pb2.Filter(name=_NETWORK, typed_config=packed(config))


def _divided(
    policies: Iterable[AuthorizationPolicy], action: Action
) -> tuple[list[AuthorizationPolicy], list[AuthorizationPolicy]]:
    """Return two lists of the policies with an action, each in order of name: enforced policies, dry-run policies."""
    chosen = sorted((one for one in policies if one.spec.action is action), key=lambda one: one.key)
    enforced = [one for one in chosen if not is_dry_run(one)]
    return enforced, [one for one in chosen if is_dry_run(one)]
