"""What the API knows its callers by."""

import dataclasses

from controlplane.auth.attempts import Attempts
from controlplane.auth.denials import Denials
from controlplane.auth.keys import KeyRing
from controlplane.auth.logins import LoginDesk
from controlplane.auth.ports import AuditStore
from controlplane.auth.sessions import SessionDesk
from controlplane.auth.shares import ShareDesk


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuthParts:
    """Everything about who asks."""

    keys: KeyRing
    denials: Denials
    audit: AuditStore
    sessions: SessionDesk
    shares: ShareDesk
    attempts: Attempts
    logins: LoginDesk | None = None
    """None where no OIDC provider is set."""
    public_url: str = ""
    """Where browsers reach us, without a slash at its end; "" where that is how they call us themselves."""
