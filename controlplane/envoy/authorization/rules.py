"""Policies as Envoy's rules.

What only requests have (methods, paths, tokens) cannot be decided for other connections: an ALLOW rule with such a
field allows none of them, and a DENY rule counts without the field, so it is wider. Both fail closed.
"""

from collections.abc import Iterable
from typing import Final

from envoy.config.rbac.v3 import rbac_pb2

from controlplane.envoy.authorization import permissions, principals
from meshapi.resources.security import LAYER_7_OPERATION, Action, AuthorizationPolicy, Condition, Rule

RBAC: Final = rbac_pb2.RBAC
_REQUEST_SOURCE: Final = ("request_principals", "not_request_principals")
_REQUEST_KEYS: Final = ("request.", "experimental.")


def of_policies(policies: Iterable[AuthorizationPolicy], action: int, *, is_http: bool) -> rbac_pb2.RBAC:
    """Return the rules of policies with one action.

    Args:
        policies: the policies.
        action: of Envoy's.
        is_http: whether they are for requests, else for connections.
    """
    result = RBAC(action=action)
    for policy in policies:
        namespace, name = policy.key
        for index, rule in enumerate(policy.spec.rules):
            if is_http or policy.spec.action is not Action.ALLOW or not _is_of_requests(rule):
                made = _of_rule(rule, namespace, is_http=is_http)
                result.policies[f"ns[{namespace}]-policy[{name}]-rule[{index}]"].CopyFrom(made)
    return result


def _of_rule(rule: Rule, namespace: str, *, is_http: bool) -> rbac_pb2.Policy:
    """A rule holds if one of ``from``, one of ``to`` and all of ``when`` do."""
    who = [principals.either(principals.of_source(one.source, namespace, is_http=is_http) for one in rule.from_)]
    what = [permissions.either(permissions.of_operation(one.operation, is_http=is_http) for one in rule.to)]
    who, what = who if rule.from_ else [], what if rule.to else []
    for condition in rule.when:
        about_call = permissions.of_condition(condition)
        about_caller = principals.of_condition(condition, namespace, is_http=is_http)
        if about_call is not None:
            what.append(about_call)
        elif about_caller is not None:
            who.append(about_caller)
    return rbac_pb2.Policy(permissions=[permissions.both(what)], principals=[principals.both(who)])


def _is_of_requests(rule: Rule) -> bool:
    """Return whether a rule has a field that only requests have."""
    sources = any(getattr(one.source, name) for one in rule.from_ for name in _REQUEST_SOURCE)
    operations = any(getattr(one.operation, name) for one in rule.to for name in LAYER_7_OPERATION)
    return sources or operations or any(_is_about_request(one) for one in rule.when)


def _is_about_request(condition: Condition) -> bool:
    return condition.key.startswith(_REQUEST_KEYS)
