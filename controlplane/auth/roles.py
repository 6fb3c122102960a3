"""Who may do what: four roles in one order, each granted for one service or for all of them.

A role is everything below it, too, so "may see" is "has any role". Grants are looked up at each request and copied
nowhere: what is taken away is gone at once, from sessions and streams as well.
"""

import dataclasses
import enum
from collections.abc import Iterable
from typing import Final

from controlplane.errors import InvalidInputError
from controlplane.traffic.model import NAME

EVERY: Final = "*"
"""Stands for all services, those to come among them."""

MAX_GRANTS: Final = 100


class Role(enum.IntEnum):
    """What one may do, the greater containing the lesser."""

    VIEWER = 1
    """Read."""
    OPERATOR = 2
    """Start, pause, resume, abort, undo and retry rollouts; with `EVERY`, look at all queues and drain them."""
    APPROVER = 3
    """Promote past gates, promote fully, set weights by hand."""
    ADMIN = 4
    """Apply and delete; with `EVERY`, keys and their grants, kinds and owners of jobs."""

    @property
    def word(self) -> str:
        """Its name as people write it."""
        return self.name.lower()


class PrincipalKind(enum.StrEnum):
    """How somebody is known."""

    PUBLIC = "public"
    """Not at all: reading is open to everybody here."""
    KEY = "key"
    """By an API key."""
    USER = "user"
    """By an OIDC provider."""
    SHARE = "share"
    """By a link that somebody gave them."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One role for one service, or for `EVERY`."""

    role: Role
    service: str = EVERY

    def __str__(self) -> str:
        return f"{self.role.word}:{self.service}"

    def covers(self, role: Role, service: str) -> bool:
        """Whether it is enough for *role* on *service*; on `EVERY` only a grant for all services is."""
        return self.role >= role and self.service in {EVERY, service}


EVERYTHING: Final = (Grant(Role.ADMIN),)
"""What a key may that was made before there were grants."""
READS_ALL: Final = Grant(Role.VIEWER)


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: *name* is what the audit calls them; no two kinds share one."""

    name: str
    kind: PrincipalKind
    grants: tuple[Grant, ...]

    def may(self, role: Role, service: str = EVERY) -> bool:
        """Whether they have *role*, or a greater one, on *service*."""
        return any(grant.covers(role, service) for grant in self.grants)

    def sees(self, service: str) -> bool:
        """Whether they may know of *service* at all."""
        return self.may(Role.VIEWER, service)

    @property
    def sees_all(self) -> bool:
        """Whether no service is hidden from them."""
        return self.may(Role.VIEWER, EVERY)

    def role_on(self, service: str) -> Role | None:
        """Return their greatest role on *service*."""
        return max((grant.role for grant in self.grants if grant.covers(Role.VIEWER, service)), default=None)

    @property
    def title(self) -> str:
        """What a sentence calls them."""
        match self.kind:
            case PrincipalKind.KEY:
                return f"the API key {self.name!r}"
            case PrincipalKind.USER:
                return f"{self.name!r}"
            case PrincipalKind.SHARE:
                return "a share link"
            case PrincipalKind.PUBLIC:
                return "a reader without an API key"


PUBLIC: Final = Principal("", PrincipalKind.PUBLIC, (READS_ALL,))
"""Everybody, where reading is public."""


def read_role(text: str, *, field: str = "role") -> Role:
    """Return the role called *text*.

    Raises:
        InvalidInputError: There is none.
    """
    found = next((role for role in Role if role.word == text.strip().lower()), None)
    if found is None:
        raise InvalidInputError(field, f"{text[:40]!r} is no role", f"use {', '.join(role.word for role in Role)}")
    return found


def check_service(text: str, *, field: str = "service") -> str:
    """Return *text* if a grant may name it: a service, which need not exist yet, or `EVERY`.

    Raises:
        InvalidInputError: It can be no service's name.
    """
    if text != EVERY and not NAME.fullmatch(text):
        raise InvalidInputError(field, f"{text[:80]!r} cannot name a service", "write its name, or * for all of them")
    return text


def read_grant(text: str, *, field: str = "grant") -> Grant:
    """Read ``operator:colorize``; without a service it is for `EVERY`.

    Raises:
        InvalidInputError: The role is unknown, or the name cannot be a service's.
    """
    role, colon, service = text.strip().partition(":")
    return Grant(read_role(role, field=field), check_service(service, field=field) if colon else EVERY)


def settle(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Return *grants* in one order, each once, without those that a greater one for the same service contains.

    Raises:
        InvalidInputError: There are more than `MAX_GRANTS`.
    """
    best: dict[str, Role] = {}
    for grant in grants:
        best[grant.service] = max(grant.role, best.get(grant.service, grant.role))
    if len(best) > MAX_GRANTS:
        raise InvalidInputError("grants", f"are {len(best)}", f"give at most {MAX_GRANTS}, or one for all: viewer:*")
    return tuple(Grant(best[service], service) for service in sorted(best))
