"""``security.istio.io``: RequestAuthentication, in full, with Istio's field names.

Source: istio/api, security/v1beta1/request_authentication.proto and jwt.proto (v1 is the same).
"""

import json
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from meshapi.resources.base import LenientModel, ModelObject
from meshapi.resources.security import PolicyTargetReference
from meshapi.resources.values import PositiveDuration, WorkloadSelector


def _keys(value: str) -> str:
    try:
        found = json.loads(value) if value else {"keys": []}
    except ValueError:
        raise ValueError("is not JSON; write a key set as RFC 7517 has it") from None
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError('has no "keys"; write a key set as RFC 7517 has it')
    return value


def _uri(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("is not a URL; write https://host/path")
    return value


class JWTHeader(LenientModel):
    """A header with a token."""

    name: str = Field(min_length=1, description="Name of the header.")
    prefix: str = Field(default="", description='What is in front of the token, as "Bearer ".')


class ClaimToHeader(LenientModel):
    """A header that gets a claim's value."""

    header: str = Field(min_length=1, description="Name of the header.")
    claim: str = Field(min_length=1, description="Name of the claim; parts of a nested one are separated by dots.")


class JWTRule(LenientModel):
    """Tokens of one issuer."""

    issuer: str = Field(min_length=1, description="Who issued the token: its iss.")
    audiences: tuple[str, ...] = Field(default=(), description="Who it may be for: its aud; none: anybody.")
    jwks_uri: Annotated[str, AfterValidator(_uri)] = Field(default="", description="URL of the issuer's keys.")
    jwks: Annotated[str, AfterValidator(_keys)] = Field(default="", description="The issuer's keys.")
    from_headers: tuple[JWTHeader, ...] = Field(default=(), description="Headers with the token.")
    from_params: tuple[str, ...] = Field(default=(), description="Parameters of the query with the token.")
    from_cookies: tuple[str, ...] = Field(default=(), description="Cookies with the token.")
    output_payload_to_header: str = Field(default="", description="Header that gets the payload, in base64url.")
    forward_original_token: bool = Field(default=False, description="Whether the token stays in the request.")
    output_claim_to_headers: tuple[ClaimToHeader, ...] = Field(default=(), description="Headers that get claims.")
    timeout: PositiveDuration | None = Field(default=None, description="Of fetching the keys; 5s if not given.")
    space_delimited_claims: tuple[str, ...] = Field(default=(), description="Claims that are lists of words.")

    @model_validator(mode="after")
    def _has_one_source(self) -> "JWTRule":
        if self.jwks and self.jwks_uri:
            raise ValueError("jwks and jwksUri exclude each other; keep one of them")
        return self


class RequestAuthenticationSpec(LenientModel):
    """Which tokens of requests are valid. A request without a token is let through."""

    selector: WorkloadSelector | None = Field(default=None, description="Pods that it is for.")
    target_ref: PolicyTargetReference | None = Field(default=None, description="One target; use targetRefs.")
    target_refs: tuple[PolicyTargetReference, ...] = Field(default=(), description="Objects that it is for.")
    jwt_rules: tuple[JWTRule, ...] = Field(default=(), description="One for each issuer.")


class RequestAuthentication(ModelObject):
    """Verification of requests' tokens."""

    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
