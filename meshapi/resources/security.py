"""``security.istio.io``: AuthorizationPolicy and PeerAuthentication, in full, with Istio's field names.

Source: istio/api, security/v1beta1/authorization_policy.proto and peer_authentication.proto (v1 is the same).
Values that could never mean anything (an address that is none, an unknown condition key) are refused here, so that
translation need not check again. Unknown fields are kept and named by ``unknown_fields``.
"""

import re
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, model_validator

from meshapi.resources.base import IpBlock, LenientModel, ModelObject, ip_block
from meshapi.resources.values import WorkloadSelector

ItemT = TypeVar("ItemT")
OpenT = TypeVar("OpenT", bound=LenientModel)

_SERVICE_ACCOUNT = re.compile(r"(?:[a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?")

IP_KEYS = frozenset({"source.ip", "destination.ip", "remote.ip"})
PORT_KEY = "destination.port"
PRINCIPAL_KEY = "source.principal"
_PLAIN_KEYS = IP_KEYS | {
    PORT_KEY,
    "source.namespace",
    PRINCIPAL_KEY,
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "connection.sni",
}
LAYER_7_SOURCE = (
    "request_principals",
    "not_request_principals",
    "remote_ip_blocks",
    "not_remote_ip_blocks",
    "trust_domains",
    "not_trust_domains",
)
"""Model of a source that layer 4 cannot decide."""
LAYER_7_OPERATION = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths")
"""Model of an operation that layer 4 cannot decide."""
LAYER_4_KEYS = frozenset(
    {"source.ip", "destination.ip", "source.namespace", PRINCIPAL_KEY, "source.serviceAccount", PORT_KEY}
)
"""Keys of a condition that layer 4 can decide; all others are about requests."""
_KEY_PATTERNS = (
    re.compile(r"request\.headers\[[^\]]+\]"),
    re.compile(r"request\.auth\.claims(\[[^\]]+\])+"),
    re.compile(r"experimental\.envoy\.filters\..+"),
)


def _text(value: str) -> str:
    if not value:
        raise ValueError("is empty; write a value, or * for any")
    return value


def _port(value: str) -> str:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise ValueError("is not a port; write a number from 1 to 65535")
    return value


def _service_account(value: str) -> str:
    if not _SERVICE_ACCOUNT.fullmatch(value):
        raise ValueError("is not a service account; write <namespace>/<name> or <name>, without wildcards")
    return value


def _condition_key(value: str) -> str:
    if value not in _PLAIN_KEYS and not any(pattern.fullmatch(value) for pattern in _KEY_PATTERNS):
        raise ValueError("is not a known attribute; see the AuthorizationPolicy conditions reference")
    return value


Text = Annotated[str, AfterValidator(_text)]
Port = Annotated[str, AfterValidator(_port)]
ServiceAccount = Annotated[str, AfterValidator(_service_account)]


def _not_empty(value: tuple[ItemT, ...]) -> tuple[ItemT, ...]:
    """Refuse an empty list: it would match everything where its author meant nothing (as CVE-2025-64715)."""
    if not value:
        raise ValueError("is an empty list; leave the field out to match everything, or name something")
    return value


def _says_something(value: OpenT) -> OpenT:
    """A match without any field that is known matches nothing: a DENY rule would never fire, without a word."""
    if not any(getattr(value, name) for name in type(value).model_fields):
        raise ValueError("has no field that is known and not empty; check the spelling, or leave it out")
    return value


class PolicyTargetReference(LenientModel):
    """Names the object that a policy is attached to."""

    group: str = Field(default="", description="API group of the target.")
    kind: str = Field(description="Kind of the target.")
    name: str = Field(description="Name of the target.")
    namespace: str = Field(default="", description="Must be empty or the policy's own namespace.")


class Source(LenientModel):
    """Who calls: all given fields must match, in each field one value."""

    principals: tuple[Text, ...] = Field(
        default=(), description="Peer identities without spiffe://; * alone, in front or at the end is a wildcard."
    )
    not_principals: tuple[Text, ...] = Field(default=(), description="None of these peer identities.")
    request_principals: tuple[Text, ...] = Field(default=(), description="Identities from request tokens (layer 7).")
    not_request_principals: tuple[Text, ...] = Field(default=(), description="None of these token identities.")
    namespaces: tuple[Text, ...] = Field(default=(), description="Namespaces of the peer.")
    not_namespaces: tuple[Text, ...] = Field(default=(), description="None of these namespaces of the peer.")
    service_accounts: tuple[ServiceAccount, ...] = Field(
        default=(), description="Service accounts of the peer, as namespace/name, or name in the policy's namespace."
    )
    not_service_accounts: tuple[ServiceAccount, ...] = Field(default=(), description="None of these service accounts.")
    trust_domains: tuple[Text, ...] = Field(default=(), description="Trust domains of the peer (layer 7).")
    not_trust_domains: tuple[Text, ...] = Field(default=(), description="None of these trust domains (layer 7).")
    ip_blocks: tuple[IpBlock, ...] = Field(default=(), description="Addresses of the peer, as IP or CIDR.")
    not_ip_blocks: tuple[IpBlock, ...] = Field(default=(), description="None of these addresses of the peer.")
    remote_ip_blocks: tuple[IpBlock, ...] = Field(default=(), description="Addresses of the original client (layer 7).")
    not_remote_ip_blocks: tuple[IpBlock, ...] = Field(
        default=(), description="None of these original addresses (layer 7)."
    )


class RuleFrom(LenientModel):
    """One alternative for the caller."""

    source: Annotated[Source, AfterValidator(_says_something)] = Field(description="Who calls.")


class Operation(LenientModel):
    """What is called: all given fields must match, in each field one value."""

    hosts: tuple[Text, ...] = Field(default=(), description="Host headers (layer 7).")
    not_hosts: tuple[Text, ...] = Field(default=(), description="None of these host headers (layer 7).")
    ports: tuple[Port, ...] = Field(default=(), description="Destination ports.")
    not_ports: tuple[Port, ...] = Field(default=(), description="None of these destination ports.")
    methods: tuple[Text, ...] = Field(default=(), description="HTTP methods (layer 7).")
    not_methods: tuple[Text, ...] = Field(default=(), description="None of these HTTP methods (layer 7).")
    paths: tuple[Text, ...] = Field(default=(), description="Request paths (layer 7).")
    not_paths: tuple[Text, ...] = Field(default=(), description="None of these request paths (layer 7).")


class RuleTo(LenientModel):
    """One alternative for what is called."""

    operation: Annotated[Operation, AfterValidator(_says_something)] = Field(description="What is called.")


class Condition(LenientModel):
    """One more condition on a named attribute."""

    key: Annotated[str, AfterValidator(_condition_key)] = Field(description="Attribute, as source.ip.")
    values: tuple[Text, ...] = Field(default=(), description="Allowed values.")
    not_values: tuple[Text, ...] = Field(default=(), description="Forbidden values.")

    @model_validator(mode="after")
    def _values_fit_key(self) -> "Condition":
        check = {**dict.fromkeys(IP_KEYS, ip_block), PORT_KEY: _port, "source.serviceAccount": _service_account}
        if not self.values and not self.not_values:
            raise ValueError("has neither values nor notValues; give at least one")
        for value in (*self.values, *self.not_values):
            try:
                check.get(self.key, _text)(value)
            except ValueError as error:
                raise ValueError(f"{value!r} {error}") from None
        return self


class Rule(LenientModel):
    """Matches when one of ``from``, one of ``to`` and all of ``when`` match; what is absent matches everything."""

    from_: Annotated[tuple[RuleFrom, ...], AfterValidator(_not_empty)] = Field(
        default=(), alias="from", description="Alternatives for the caller."
    )
    to: Annotated[tuple[RuleTo, ...], AfterValidator(_not_empty)] = Field(
        default=(), description="Alternatives for what is called."
    )
    when: tuple[Condition, ...] = Field(default=(), description="Further conditions, all of them.")


class Action(StrEnum):
    """What a matching policy does."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class ExtensionProvider(LenientModel):
    """An external authorizer, defined in the mesh configuration."""

    name: str = Field(default="", description="Name in the mesh configuration's extensionProviders.")


class AuthorizationPolicySpec(LenientModel):
    """Who may call whom. Without rules an ALLOW policy allows nothing."""

    selector: WorkloadSelector | None = Field(default=None, description="Pods that the policy is for.")
    target_ref: PolicyTargetReference | None = Field(default=None, description="One target; use targetRefs.")
    target_refs: tuple[PolicyTargetReference, ...] = Field(default=(), description="Objects that the policy is for.")
    rules: tuple[Rule, ...] = Field(default=(), description="The policy matches when one rule does.")
    action: Action = Field(default=Action.ALLOW, description="What happens to a connection or request that matches.")
    provider: ExtensionProvider | None = Field(default=None, description="Who decides, for action CUSTOM.")


class AuthorizationPolicy(ModelObject):
    """Access control for workloads."""

    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()


class MtlsMode(StrEnum):
    """Whether a workload takes plain text."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTls(LenientModel):
    """Mutual TLS settings."""

    mode: MtlsMode = Field(default=MtlsMode.UNSET, description="UNSET inherits from the parent.")


class PeerAuthenticationSpec(LenientModel):
    """Whether mutual TLS is demanded."""

    selector: WorkloadSelector | None = Field(default=None, description="Pods that it is for; else the namespace.")
    mtls: MutualTls = Field(default=MutualTls(), description="For all ports.")
    port_level_mtls: dict[Port, MutualTls] = Field(
        default_factory=dict, description="For single ports of the workload; needs a selector."
    )


class PeerAuthentication(ModelObject):
    """Mutual TLS that workloads demand from their callers."""

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
