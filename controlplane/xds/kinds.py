"""The resource types that are served, and the order in which a change of all of them is safe."""

import enum
from typing import Final

from controlplane.errors import ControlPlaneError


class Kind(enum.Enum):
    """A resource type, by the short name that rows and logs use. The order is that of safe additions."""

    CDS = "cds"
    EDS = "eds"
    LDS = "lds"
    RDS = "rds"
    SDS = "sds"
    """Certificates and keys. They are served beside a snapshot and never part of one: snapshots are rows."""

    __hash__ = object.__hash__
    """By identity: the members of an enum are single, and its own hash is computed in Python at every look-up."""

    @property
    def type_url(self) -> str:
        """The name of the type on the wire."""
        return _TYPE_URLS[self]

    @property
    def is_full_state(self) -> bool:
        """Whether a state-of-the-world response must hold every resource, since absence deletes it."""
        return self in (Kind.CDS, Kind.LDS)


SNAPSHOT_KINDS: Final[tuple[Kind, ...]] = tuple(kind for kind in Kind if kind is not Kind.SDS)
"""What snapshots consist of, and what the controller waits for."""

_TYPE_URLS = {
    Kind.CDS: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    Kind.EDS: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    Kind.LDS: "type.googleapis.com/envoy.config.listener.v3.Listener",
    Kind.RDS: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    Kind.SDS: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
}
_KINDS = {url: kind for kind, url in _TYPE_URLS.items()}


def find_kind(type_url: str) -> Kind | None:
    """Return the type called *type_url* on the wire, or None for one that is not served."""
    return _KINDS.get(type_url)


class ProtocolError(ControlPlaneError):
    """A client broke the protocol; its stream ends with InvalidArgument and these words."""
