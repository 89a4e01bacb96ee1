"""From the mesh configuration to ``istio.mesh.v1alpha1.MeshConfig`` for layer 4 proxies."""

from datetime import timedelta
from typing import Final

from google.protobuf import duration_pb2

from meshapi.mesh_config.model import AccessLogEncoding, MeshConfig, OutboundMode
from meshapi.proto import mesh_config_pb2 as pb

_NO_FILE: Final = "/dev/null"
_MODES: Final = {
    OutboundMode.REGISTRY_ONLY: pb.MeshConfig.OutboundTrafficPolicy.REGISTRY_ONLY,
    OutboundMode.ALLOW_ANY: pb.MeshConfig.OutboundTrafficPolicy.ALLOW_ANY,
    OutboundMode.ALLOW_ANY_DYNAMIC_DNS: pb.MeshConfig.OutboundTrafficPolicy.ALLOW_ANY_DYNAMIC_DNS,
}
_ENCODINGS: Final = {
    AccessLogEncoding.TEXT: pb.MeshConfig.TEXT,
    AccessLogEncoding.JSON: pb.MeshConfig.JSON,
}


def translate(config: MeshConfig) -> pb.MeshConfig:
    """Return the settings of proxies. An access log file that is given and empty switches the log off."""
    file = config.access_log_file
    message = pb.MeshConfig(
        access_log_file=_NO_FILE if file == "" else file or "",
        access_log_format=config.access_log_format,
        access_log_encoding=_ENCODINGS[config.access_log_encoding],
        outbound_traffic_policy=pb.MeshConfig.OutboundTrafficPolicy(mode=_MODES[config.outbound_traffic_policy.mode]),
    )
    if config.connect_timeout is not None:
        message.connect_timeout.CopyFrom(_duration(config.connect_timeout))
    if config.tcp_keepalive is not None:
        keepalive = config.tcp_keepalive
        message.tcp_keepalive.probes = keepalive.probes or 0
        if keepalive.time is not None:
            message.tcp_keepalive.time.CopyFrom(_duration(keepalive.time))
        if keepalive.interval is not None:
            message.tcp_keepalive.interval.CopyFrom(_duration(keepalive.interval))
    return message


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
