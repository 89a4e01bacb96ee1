"""From settings to an exporter."""

from importlib.metadata import version
from pathlib import Path

import grpc

from meshproxy.otlp import settings as reading
from meshproxy.otlp.exporter import Exporter
from meshproxy.otlp.messages import Envelope
from meshproxy.settings import ProxySettings

_CHANNEL_OPTIONS = (
    # A failed call is sent again by the exporter, which knows what must not be; see also meshkit.xds.client.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_COMPRESSION = {
    reading.Compression.NONE: grpc.Compression.NoCompression,
    reading.Compression.GZIP: grpc.Compression.Gzip,
}


def exporter(settings: ProxySettings) -> Exporter | None:
    """Return the exporter that the settings configure."""
    if not settings.otlp_endpoint:
        return None
    endpoint = reading.Endpoint.parse(settings.otlp_endpoint, plain_by_default=settings.otlp_insecure)

    def connect() -> grpc.aio.Channel:
        if endpoint.is_plain:
            return grpc.aio.insecure_channel(endpoint.target, options=_CHANNEL_OPTIONS)
        # Read at every connection, since files may be replaced.
        files = (settings.otlp_certificate, settings.otlp_client_key, settings.otlp_client_certificate)
        credentials = grpc.ssl_channel_credentials(*(_read(file) for file in files))
        return grpc.aio.secure_channel(endpoint.target, credentials, options=_CHANNEL_OPTIONS)

    return Exporter(
        connect=connect,
        envelope=Envelope(resource(settings), version("culvert")),
        metadata=reading.metadata(settings.otlp_headers.get_secret_value(), what="otlp-headers"),
        compression=_COMPRESSION[settings.otlp_compression],
        timeout_s=settings.otlp_timeout / 1000,
        delay_s=settings.otlp_schedule_delay / 1000,
        max_records=settings.otlp_max_queue_size,
    )


def resource(settings: ProxySettings) -> dict[str, str]:
    """Return the resource's attributes: who we are, and what the operator adds or says otherwise."""
    return {
        "service.version": version("culvert"),
        "k8s.cluster.name": settings.cluster_id,
        "k8s.node.name": settings.node_name,
        "k8s.namespace.name": settings.pod_namespace,
        "k8s.pod.name": settings.pod_name,
        **reading.pairs(settings.otlp_resource_attributes, what="otlp-resource-attributes"),
        "service.name": settings.otlp_service_name,
    }


def _read(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()
