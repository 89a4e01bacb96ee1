from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AccessLog(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OFF: _ClassVar[AccessLog]
    TEXT: _ClassVar[AccessLog]
    JSON: _ClassVar[AccessLog]
    MESH: _ClassVar[AccessLog]

class MetricKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COUNTER: _ClassVar[MetricKind]
    GAUGE: _ClassVar[MetricKind]
    HISTOGRAM: _ClassVar[MetricKind]
OFF: AccessLog
TEXT: AccessLog
JSON: AccessLog
MESH: AccessLog
COUNTER: MetricKind
GAUGE: MetricKind
HISTOGRAM: MetricKind

class EngineConfig(_message.Message):
    __slots__ = ("worker_threads", "trust_domain", "network", "cluster_id", "node", "connect_timeout_ms", "handshake_timeout_ms", "workload_wait_ms", "tunnel_idle_ms", "max_streams_per_tunnel", "removal_drain_ms", "removal_accept_ms", "max_connections_per_workload", "max_handshakes_per_workload", "access_log", "connect_attempts", "connect_attempt_delay_ms", "outlier_consecutive_failures", "outlier_base_ejection_ms", "outlier_max_ejection_percent", "dns_proxy", "dns_log", "cluster_domain", "resolv_conf", "max_buffered_bytes_per_workload", "max_bandwidth_per_workload", "access_log_records", "max_worker_threads", "reserved_cpus", "metrics_idle_ms", "direct_connections", "metrics_excluded_labels")
    WORKER_THREADS_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CONNECT_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    HANDSHAKE_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    TUNNEL_IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAMS_PER_TUNNEL_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_DRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_ACCEPT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_PER_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    MAX_HANDSHAKES_PER_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    ACCESS_LOG_FIELD_NUMBER: _ClassVar[int]
    CONNECT_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CONNECT_ATTEMPT_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    OUTLIER_CONSECUTIVE_FAILURES_FIELD_NUMBER: _ClassVar[int]
    OUTLIER_BASE_EJECTION_MS_FIELD_NUMBER: _ClassVar[int]
    OUTLIER_MAX_EJECTION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    DNS_PROXY_FIELD_NUMBER: _ClassVar[int]
    DNS_LOG_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    RESOLV_CONF_FIELD_NUMBER: _ClassVar[int]
    MAX_BUFFERED_BYTES_PER_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    MAX_BANDWIDTH_PER_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    ACCESS_LOG_RECORDS_FIELD_NUMBER: _ClassVar[int]
    MAX_WORKER_THREADS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_CPUS_FIELD_NUMBER: _ClassVar[int]
    METRICS_IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    METRICS_EXCLUDED_LABELS_FIELD_NUMBER: _ClassVar[int]
    worker_threads: int
    trust_domain: str
    network: str
    cluster_id: str
    node: str
    connect_timeout_ms: int
    handshake_timeout_ms: int
    workload_wait_ms: int
    tunnel_idle_ms: int
    max_streams_per_tunnel: int
    removal_drain_ms: int
    removal_accept_ms: int
    max_connections_per_workload: int
    max_handshakes_per_workload: int
    access_log: AccessLog
    connect_attempts: int
    connect_attempt_delay_ms: int
    outlier_consecutive_failures: int
    outlier_base_ejection_ms: int
    outlier_max_ejection_percent: int
    dns_proxy: bool
    dns_log: bool
    cluster_domain: str
    resolv_conf: str
    max_buffered_bytes_per_workload: int
    max_bandwidth_per_workload: int
    access_log_records: bool
    max_worker_threads: int
    reserved_cpus: int
    metrics_idle_ms: int
    direct_connections: bool
    metrics_excluded_labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_threads: _Optional[int] = ..., trust_domain: _Optional[str] = ..., network: _Optional[str] = ..., cluster_id: _Optional[str] = ..., node: _Optional[str] = ..., connect_timeout_ms: _Optional[int] = ..., handshake_timeout_ms: _Optional[int] = ..., workload_wait_ms: _Optional[int] = ..., tunnel_idle_ms: _Optional[int] = ..., max_streams_per_tunnel: _Optional[int] = ..., removal_drain_ms: _Optional[int] = ..., removal_accept_ms: _Optional[int] = ..., max_connections_per_workload: _Optional[int] = ..., max_handshakes_per_workload: _Optional[int] = ..., access_log: _Optional[_Union[AccessLog, str]] = ..., connect_attempts: _Optional[int] = ..., connect_attempt_delay_ms: _Optional[int] = ..., outlier_consecutive_failures: _Optional[int] = ..., outlier_base_ejection_ms: _Optional[int] = ..., outlier_max_ejection_percent: _Optional[int] = ..., dns_proxy: _Optional[bool] = ..., dns_log: _Optional[bool] = ..., cluster_domain: _Optional[str] = ..., resolv_conf: _Optional[str] = ..., max_buffered_bytes_per_workload: _Optional[int] = ..., max_bandwidth_per_workload: _Optional[int] = ..., access_log_records: _Optional[bool] = ..., max_worker_threads: _Optional[int] = ..., reserved_cpus: _Optional[int] = ..., metrics_idle_ms: _Optional[int] = ..., direct_connections: _Optional[bool] = ..., metrics_excluded_labels: _Optional[_Iterable[str]] = ...) -> None: ...

class WorkloadRef(_message.Message):
    __slots__ = ("uid", "name", "namespace", "service_account", "mode")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CAPTURED: _ClassVar[WorkloadRef.Mode]
        NATIVE_TUNNEL: _ClassVar[WorkloadRef.Mode]
    CAPTURED: WorkloadRef.Mode
    NATIVE_TUNNEL: WorkloadRef.Mode
    UID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    uid: str
    name: str
    namespace: str
    service_account: str
    mode: WorkloadRef.Mode
    def __init__(self, uid: _Optional[str] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., service_account: _Optional[str] = ..., mode: _Optional[_Union[WorkloadRef.Mode, str]] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("events", "access_log", "access_log_records", "access_log_records_dropped")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ACCESS_LOG_FIELD_NUMBER: _ClassVar[int]
    ACCESS_LOG_RECORDS_FIELD_NUMBER: _ClassVar[int]
    ACCESS_LOG_RECORDS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    access_log: bytes
    access_log_records: _containers.RepeatedCompositeFieldContainer[LogRecords]
    access_log_records_dropped: int
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., access_log: _Optional[bytes] = ..., access_log_records: _Optional[_Iterable[_Union[LogRecords, _Mapping]]] = ..., access_log_records_dropped: _Optional[int] = ...) -> None: ...

class LogRecords(_message.Message):
    __slots__ = ("records", "count")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    records: bytes
    count: int
    def __init__(self, records: _Optional[bytes] = ..., count: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("certificate_wanted", "certificate_released", "workload_started", "workload_stopped", "fatal")
    CERTIFICATE_WANTED_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_RELEASED_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_STARTED_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_STOPPED_FIELD_NUMBER: _ClassVar[int]
    FATAL_FIELD_NUMBER: _ClassVar[int]
    certificate_wanted: CertificateWanted
    certificate_released: CertificateReleased
    workload_started: WorkloadStarted
    workload_stopped: WorkloadStopped
    fatal: Fatal
    def __init__(self, certificate_wanted: _Optional[_Union[CertificateWanted, _Mapping]] = ..., certificate_released: _Optional[_Union[CertificateReleased, _Mapping]] = ..., workload_started: _Optional[_Union[WorkloadStarted, _Mapping]] = ..., workload_stopped: _Optional[_Union[WorkloadStopped, _Mapping]] = ..., fatal: _Optional[_Union[Fatal, _Mapping]] = ...) -> None: ...

class CertificateWanted(_message.Message):
    __slots__ = ("identity",)
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    identity: str
    def __init__(self, identity: _Optional[str] = ...) -> None: ...

class CertificateReleased(_message.Message):
    __slots__ = ("identity",)
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    identity: str
    def __init__(self, identity: _Optional[str] = ...) -> None: ...

class WorkloadStarted(_message.Message):
    __slots__ = ("uid", "error")
    UID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    uid: str
    error: str
    def __init__(self, uid: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class WorkloadStopped(_message.Message):
    __slots__ = ("uid",)
    UID_FIELD_NUMBER: _ClassVar[int]
    uid: str
    def __init__(self, uid: _Optional[str] = ...) -> None: ...

class Fatal(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class MetricFamilies(_message.Message):
    __slots__ = ("families",)
    FAMILIES_FIELD_NUMBER: _ClassVar[int]
    families: _containers.RepeatedCompositeFieldContainer[MetricFamily]
    def __init__(self, families: _Optional[_Iterable[_Union[MetricFamily, _Mapping]]] = ...) -> None: ...

class MetricFamily(_message.Message):
    __slots__ = ("name", "help", "label_names", "samples", "kind", "bounds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAMES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    help: str
    label_names: _containers.RepeatedScalarFieldContainer[str]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    kind: MetricKind
    bounds: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., help: _Optional[str] = ..., label_names: _Optional[_Iterable[str]] = ..., samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., kind: _Optional[_Union[MetricKind, str]] = ..., bounds: _Optional[_Iterable[float]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("label_values", "value", "buckets", "sum")
    LABEL_VALUES_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    label_values: _containers.RepeatedScalarFieldContainer[str]
    value: int
    buckets: _containers.RepeatedScalarFieldContainer[int]
    sum: float
    def __init__(self, label_values: _Optional[_Iterable[str]] = ..., value: _Optional[int] = ..., buckets: _Optional[_Iterable[int]] = ..., sum: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("allowed", "policy", "reason", "dry_run")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    policy: str
    reason: str
    dry_run: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, allowed: _Optional[bool] = ..., policy: _Optional[str] = ..., reason: _Optional[str] = ..., dry_run: _Optional[_Iterable[str]] = ...) -> None: ...
