"""What the API knows its callers by."""

import dataclasses

from controlplane.auth.denials import Denials
from controlplane.auth.keys import KeyRing
from controlplane.auth.ports import AuditStore


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuthParts:
    """Everything about who asks."""

    keys: KeyRing
    denials: Denials
    audit: AuditStore
