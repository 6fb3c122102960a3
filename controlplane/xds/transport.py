"""What all transports of streams have in common: how a port is bound, and how streams end in words of gRPC."""

import socket
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


def bind_port(host: str, port: int, setting: str) -> socket.socket:
    """Return a TCP socket that is bound, and does not listen yet; for both families where *host* is ``::``.

    Raises:
        UnavailableError: The address cannot be bound; the text names *setting*.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Said by name: asyncio sends small answers at once (TCP_NODELAY) only on sockets that say that they are TCP's. The
    # second of two would otherwise wait 40 ms for the client's delayed acknowledgement of the first.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as exc:
        listening.close()
        raise taken(host, port, setting, exc) from exc
    return listening


def taken(host: str, port: int, setting: str, exc: OSError) -> UnavailableError:
    """Return what to say of an address that *setting* names and that cannot be listened on."""
    return UnavailableError(
        f"{setting}: cannot listen on {host}:{port} ({exc.strerror}); stop what listens there, or set {setting}"
    )
