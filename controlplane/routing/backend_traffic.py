"""XBackendTrafficPolicies: sessions and limits of retries of a service. Pure. Source: Gateway API, apisx/v1alpha1."""

from dataclasses import dataclass

from controlplane.inputs.verdicts import Verdict
from controlplane.routing import sessions
from controlplane.routing.ir import Session
from controlplane.routing.route_filters import Unsupported
from meshapi.resources.backend_policies import PolicyTarget, RetryConstraint, RetryRate, XBackendTrafficPolicy
from meshapi.resources.destination_rule import RetryBudget
from meshapi.resources.values import Percent
from meshkit.kube import Key


@dataclass(frozen=True, slots=True)
class TrafficReading:
    """What a policy says.

    Attributes:
        key: of the policy.
        created: when; the older of two policies counts.
        targets: the services, or ports of services, that the policy names.
        session: ``None``: no session.
        retries: ``None``: no limit of its own.
        accepted: condition ``Accepted``.
        resolved: nothing is referred to.
    """

    key: Key
    created: str
    targets: tuple[PolicyTarget, ...]
    session: Session | None
    retries: RetryBudget | None
    accepted: Verdict
    resolved: None = None


def read(item: XBackendTrafficPolicy) -> TrafficReading:
    """Return what a policy says."""
    accepted = Verdict(True, "Accepted", "the policy is accepted")
    given, session = item.spec.session_persistence, None
    if given is not None:
        try:
            session = sessions.of_persistence(given, f"XBackendTrafficPolicy/{'/'.join(item.key)}")
        except Unsupported as error:
            accepted = Verdict(False, "Invalid", f"spec.{error}; there are no sessions")
    constraint = item.spec.retry_constraint
    limit = None if constraint is None else _limit(constraint)
    if accepted.is_true and constraint is not None and constraint.min_retry_rate.interval != RetryRate().interval:
        hint = "spec.retryConstraint.minRetryRate.interval has no effect: count is of retries at one time"
        accepted = Verdict(True, accepted.reason, f"{accepted.message}; {hint}")
    created = item.metadata.creation_timestamp
    return TrafficReading(item.key, created, item.spec.target_refs, session, limit, accepted)


def _limit(given: RetryConstraint) -> RetryBudget:
    return RetryBudget(
        percent=Percent(value=given.budget.percent),
        min_retry_concurrency=given.min_retry_rate.count,
        budget_interval=given.budget.interval,
    )
