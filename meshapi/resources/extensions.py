"""Kinds that change proxies themselves: WasmPlugin and ProxyConfig, in full, with Istio's field names.

Source: istio/api, extensions/v1alpha1/wasm.proto and networking/v1beta1/proxy_config.proto. No proxy of ours takes them
yet; their status says so.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from meshapi.resources.base import LenientModel, ModelObject
from meshapi.resources.security import PolicyTargetReference
from meshapi.resources.values import PortSelector, WorkloadSelector

_SCHEMES: Final = frozenset({"", "oci", "file", "http", "https"})
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_IMAGE_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAX_NAME: Final = 256


def _url(value: str) -> str:
    if urlsplit(value).scheme not in _SCHEMES:
        raise ValueError("has a scheme that is not known; write oci://, https://, http:// or file://")
    return value


def _sha256(value: str) -> str:
    if value and not _SHA256.fullmatch(value):
        raise ValueError("is not a SHA-256 checksum; write 64 hexadecimal digits in lower case")
    return value


def _image_type(value: str) -> str:
    if value and not _IMAGE_TYPE.fullmatch(value):
        raise ValueError("is not the type of an image; write as distroless")
    return value


class PluginPhase(StrEnum):
    """Where a plugin stands among the filters."""

    UNSPECIFIED_PHASE = "UNSPECIFIED_PHASE"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class PluginType(StrEnum):
    """What a plugin sees."""

    UNSPECIFIED_PLUGIN_TYPE = "UNSPECIFIED_PLUGIN_TYPE"
    HTTP = "HTTP"
    NETWORK = "NETWORK"


class FailStrategy(StrEnum):
    """What happens to traffic when a plugin fails."""

    FAIL_CLOSE = "FAIL_CLOSE"
    FAIL_OPEN = "FAIL_OPEN"
    FAIL_RELOAD = "FAIL_RELOAD"


class PullPolicy(StrEnum):
    """When a plugin is fetched again."""

    UNSPECIFIED_POLICY = "UNSPECIFIED_POLICY"
    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"


class EnvValueSource(StrEnum):
    """Where a variable's value comes from."""

    INLINE = "INLINE"
    HOST = "HOST"


class EnvVar(LenientModel):
    """A variable of a plugin's environment."""

    name: str = Field(min_length=1, max_length=_MAX_NAME, description="Name.")
    value_from: EnvValueSource = Field(default=EnvValueSource.INLINE, description="INLINE, or HOST: the proxy's own.")
    value: str = Field(default="", description="Value.")

    @model_validator(mode="after")
    def _has_one_source(self) -> "EnvVar":
        if self.value_from is EnvValueSource.HOST and self.value:
            raise ValueError("value has no meaning with valueFrom HOST; remove one of them")
        return self


class VmConfig(LenientModel):
    """The environment of a plugin."""

    env: tuple[EnvVar, ...] = Field(default=(), max_length=256, description="Variables.")


class TrafficSelector(LenientModel):
    """Traffic that a plugin sees."""

    mode: str = Field(default="UNDEFINED", description="CLIENT, SERVER or CLIENT_AND_SERVER.")
    ports: tuple[PortSelector, ...] = Field(default=(), description="Ports.")


class WasmPluginSpec(LenientModel):
    """A WebAssembly module in proxies."""

    selector: WorkloadSelector | None = Field(default=None, description="Pods of the proxies.")
    target_ref: PolicyTargetReference | None = Field(default=None, description="One target; use targetRefs.")
    target_refs: tuple[PolicyTargetReference, ...] = Field(default=(), description="Objects whose proxies are meant.")
    url: Annotated[str, AfterValidator(_url)] = Field(min_length=1, description="Where the module is.")
    sha256: Annotated[str, AfterValidator(_sha256)] = Field(default="", description="Checksum of the module.")
    image_pull_policy: PullPolicy = Field(default=PullPolicy.UNSPECIFIED_POLICY, description="When it is fetched.")
    image_pull_secret: str = Field(default="", max_length=253, description="Secret of the registry.")
    verification_key: str = Field(default="", description="Key of the module's signature.")
    plugin_config: dict[str, Any] = Field(default_factory=dict, description="What the module gets.")
    plugin_name: str = Field(default="", max_length=_MAX_NAME, description="Name that the module gets.")
    phase: PluginPhase = Field(default=PluginPhase.UNSPECIFIED_PHASE, description="Where it is among the filters.")
    priority: int | None = Field(default=None, description="Higher ones come first within a phase.")
    fail_strategy: FailStrategy = Field(default=FailStrategy.FAIL_CLOSE, description="What a failure means.")
    vm_config: VmConfig | None = Field(default=None, description="Environment.")
    match: tuple[TrafficSelector, ...] = Field(default=(), description="Traffic that it sees; all if not given.")
    type: PluginType = Field(default=PluginType.UNSPECIFIED_PLUGIN_TYPE, description="HTTP or NETWORK.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "WasmPluginSpec":
        if self.selector is not None and (self.target_ref is not None or self.target_refs):
            raise ValueError("selector and targetRefs exclude each other; keep one of them")
        names = [variable.name for variable in (self.vm_config.env if self.vm_config is not None else ())]
        if len(set(names)) < len(names):
            raise ValueError("vmConfig.env has a name twice; keep one of them")
        return self


class WasmPlugin(ModelObject):
    """A WebAssembly module in proxies."""

    spec: WasmPluginSpec


class ProxyImage(LenientModel):
    """Variant of the proxy's image."""

    image_type: Annotated[str, AfterValidator(_image_type)] = Field(default="", description="As default, distroless.")


class ProxyConfigSpec(LenientModel):
    """Settings of injected proxies."""

    selector: WorkloadSelector | None = Field(default=None, description="Pods of the proxies.")
    concurrency: int | None = Field(default=None, ge=0, description="Worker threads; 0: one for each CPU.")
    environment_variables: dict[str, str] = Field(default_factory=dict, description="Environment of the proxy.")
    image: ProxyImage | None = Field(default=None, description="Variant of the image.")


class ProxyConfig(ModelObject):
    """Settings of injected proxies."""

    spec: ProxyConfigSpec = ProxyConfigSpec()
