"""The labels of a connection's time series that a setting can leave out.

That is all but ``reporter``, without which both reports of a connection would be counted as one.
"""

from enum import StrEnum


class MetricLabel(StrEnum):
    """A label of ``istio_tcp_*``, in the order of Istio's ztunnel."""

    SOURCE_WORKLOAD = "source_workload"
    SOURCE_CANONICAL_SERVICE = "source_canonical_service"
    SOURCE_CANONICAL_REVISION = "source_canonical_revision"
    SOURCE_WORKLOAD_NAMESPACE = "source_workload_namespace"
    SOURCE_PRINCIPAL = "source_principal"
    SOURCE_APP = "source_app"
    SOURCE_VERSION = "source_version"
    SOURCE_CLUSTER = "source_cluster"
    DESTINATION_SERVICE = "destination_service"
    DESTINATION_SERVICE_NAMESPACE = "destination_service_namespace"
    DESTINATION_SERVICE_NAME = "destination_service_name"
    DESTINATION_WORKLOAD = "destination_workload"
    DESTINATION_CANONICAL_SERVICE = "destination_canonical_service"
    DESTINATION_CANONICAL_REVISION = "destination_canonical_revision"
    DESTINATION_WORKLOAD_NAMESPACE = "destination_workload_namespace"
    DESTINATION_PRINCIPAL = "destination_principal"
    DESTINATION_APP = "destination_app"
    DESTINATION_VERSION = "destination_version"
    DESTINATION_CLUSTER = "destination_cluster"
    REQUEST_PROTOCOL = "request_protocol"
    RESPONSE_FLAGS = "response_flags"
    CONNECTION_SECURITY_POLICY = "connection_security_policy"
    SOURCE_REGION = "source_region"
    SOURCE_ZONE = "source_zone"
    DESTINATION_REGION = "destination_region"
    DESTINATION_ZONE = "destination_zone"
