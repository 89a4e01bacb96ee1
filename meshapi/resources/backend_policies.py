"""Policies of the Gateway API for the way to backends: BackendTLSPolicy, XBackendTrafficPolicy.

Source: sigs.k8s.io/gateway-api, apis/v1/backendtlspolicy_types.go, apisx/v1alpha1/xbackendtrafficpolicy_types.go. Its
own definitions check values at the API server, so only types are checked here.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import Field

from meshapi.resources.base import Model, ModelObject
from meshapi.resources.gateway_routes import SessionPersistence
from meshapi.resources.values import Duration


class PolicyTarget(Model):
    """What a policy is for: an object of its namespace, or one port of it."""

    group: str = ""
    kind: str
    name: str
    section_name: str = ""


class LocalReference(Model):
    """An object of the same namespace."""

    group: str = ""
    kind: str
    name: str


class SubjectAltNameType(StrEnum):
    """Kinds of names in certificates."""

    HOSTNAME = "Hostname"
    URI = "URI"


class SubjectAltName(Model):
    """A name in a certificate."""

    type: SubjectAltNameType
    hostname: str = ""
    uri: str = ""


class TLSValidation(Model):
    """How a backend's certificate is verified."""

    ca_certificate_refs: tuple[LocalReference, ...] = ()
    well_known_ca_certificates: str = Field(default="", alias="wellKnownCACertificates")
    hostname: str
    subject_alt_names: tuple[SubjectAltName, ...] = ()


class BackendTLSPolicySpec(Model):
    """TLS towards backends."""

    target_refs: tuple[PolicyTarget, ...]
    validation: TLSValidation
    options: dict[str, str] = Field(default_factory=dict)


class BackendTLSPolicy(ModelObject):
    """TLS towards backends."""

    spec: BackendTLSPolicySpec
    status: dict[str, Any] = Field(default_factory=dict)


class RetryBudgetDetails(Model):
    """A share of the requests."""

    percent: int = Field(default=20, ge=0, le=100)
    interval: Duration = timedelta(seconds=10)


class RetryRate(Model):
    """A number of requests in a time."""

    count: int = Field(default=10, ge=1)
    interval: Duration = timedelta(seconds=1)


class RetryConstraint(Model):
    """Limits retries to a share of the requests."""

    budget: RetryBudgetDetails = RetryBudgetDetails()
    min_retry_rate: RetryRate = RetryRate()


class XBackendTrafficPolicySpec(Model):
    """How backends are called."""

    target_refs: tuple[PolicyTarget, ...]
    retry_constraint: RetryConstraint | None = None
    session_persistence: SessionPersistence | None = None


class XBackendTrafficPolicy(ModelObject):
    """How backends are called."""

    spec: XBackendTrafficPolicySpec
    status: dict[str, Any] = Field(default_factory=dict)
