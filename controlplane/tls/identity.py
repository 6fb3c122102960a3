"""Whether a client is the node it says it is: its own words against the names in its certificate. Pure.

Any certificate of the right authority opens a connection; without this check one stolen Envoy certificate could speak,
acknowledge and report for the whole fleet.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from controlplane.errors import ControlPlaneError

Identities: TypeAlias = Sequence[str]
"""The SPIFFE and DNS names in a verified client certificate; the SPIFFE ones begin with ``spiffe://``."""

SPIFFE: Final = "spiffe://"

MAX_SHOWN: Final = 5
"""Names of a certificate that an error lists."""


class IdentityError(ControlPlaneError):
    """A client says that it is a node which its certificate does not name."""

    def __init__(self, node_id: str, identities: Identities) -> None:
        named = ", ".join(identities[:MAX_SHOWN]) or "nobody: it has neither a SPIFFE nor a DNS name"
        super().__init__(
            f"node.id: {node_id!r} is not whom the client certificate names ({named}); set node.id to that, or give "
            "this client a certificate of its own"
        )
        self.node_id = node_id
        self.identities = tuple(identities)


def check_identity(node_id: str, identities: Identities | None) -> None:
    """Refuse a node that its certificate does not name; None says that the channel is plaintext, where all may speak.

    Raises:
        IdentityError: Neither a SPIFFE path ends with the node's id, nor is a DNS name equal to it.
    """
    if identities is not None and not any(_names(identity, node_id) for identity in identities):
        raise IdentityError(node_id, identities)


def identities_of(auth_context: Mapping[str, Iterable[bytes]]) -> Identities:
    """Return the names in the verified certificate of a gRPC call's peer."""
    uris = [name for name in _decoded(auth_context.get("peer_uri", ())) if name.startswith(SPIFFE)]
    hosts = [name for name in _decoded(auth_context.get("peer_dns", ())) if not name.startswith(SPIFFE)]
    return (*uris, *hosts)


def identities_in(certificate: Mapping[str, Any]) -> Identities:
    """Return the names in a verified certificate, as `ssl` shows it."""
    names = certificate.get("subjectAltName", ())
    uris = [name for kind, name in names if kind == "URI" and name.startswith(SPIFFE)]
    hosts = [name for kind, name in names if kind == "DNS" and not name.startswith(SPIFFE)]
    return (*uris, *hosts)


def _decoded(names: Iterable[bytes]) -> list[str]:
    return [name.decode("ascii", "replace") for name in names]


def _names(identity: str, node_id: str) -> bool:
    if not node_id:
        return False
    if identity.startswith(SPIFFE):
        _, _, path = identity.removeprefix(SPIFFE).partition("/")
        # Whole segments: envoy-1 is not xenvoy-1. The trust domain is no part of the path, and names no node.
        return f"/{path}".endswith(f"/{node_id}")
    return identity == node_id
