"""What all transports of streams have in common: how streams end in words of gRPC, and what a taken port is called."""

from collections.abc import Mapping
from typing import Final

import grpc

from controlplane.errors import UnavailableError
from controlplane.xds.streams import Reason

STATUS: Final[Mapping[Reason, grpc.StatusCode]] = {
    Reason.CLIENT: grpc.StatusCode.OK,
    Reason.STALLED: grpc.StatusCode.UNAVAILABLE,
    Reason.STOPPING: grpc.StatusCode.UNAVAILABLE,
    Reason.PROTOCOL: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.IDENTITY: grpc.StatusCode.PERMISSION_DENIED,
    Reason.BUG: grpc.StatusCode.INTERNAL,
}


def taken(setting: str, host: str, port: int, exc: OSError) -> UnavailableError:
    """Return the error that says why *host* and *port*, which *setting* names, cannot be bound."""
    return UnavailableError(
        f"{setting}: {host}:{port} cannot be bound ({exc.strerror or exc}); stop the process that listens there, or "
        f"set {setting} to a free port"
    )
