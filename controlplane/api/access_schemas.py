"""Keys, grants, share links and the audit, as they are read and answered."""

import datetime as dt
from typing import Annotated

from pydantic import Field

from controlplane.api.answering import View
from controlplane.api.paging import Page
from controlplane.api.requests import Why
from controlplane.api.schemas import Document
from controlplane.api.values import Span
from controlplane.auth.ports import ApiKey, AuditEntry
from controlplane.auth.roles import EVERY, Grant, check_service, read_role, settle


class GrantDocument(Document):
    """A role (viewer, operator, approver or admin) for one service, or for all of them (``*``)."""

    role: str
    service: str = EVERY


class KeyDocument(Document):
    """A key to be made: its *name* is the actor in the audit; without *grants* it may hand in jobs of its own only."""

    name: str
    grants: list[GrantDocument]
    why: Why = ""


class GrantsDocument(Document):
    """Everything that somebody may from now on."""

    grants: list[GrantDocument]
    why: Why = ""


class GrantView(View):
    """A role for one service, or for all of them (``*``)."""

    role: str
    service: str


class KeyView(View):
    """A key, without anything that opens a door."""

    name: str
    prefix: str
    created_at: dt.datetime
    revoked_at: dt.datetime | None
    grants: list[GrantView]


class KeyPage(Page[KeyView]):
    """Keys, newest first."""


class CreatedKeyView(KeyView):
    """A new key, and the only time that it is shown."""

    key: str


class GrantsView(View):
    """What somebody may now, without what is contained in something else."""

    name: str
    grants: list[GrantView]


class ShareDocument(Document):
    """A link to be made to *service*, which opens at *rollout*, and ends after *expires_in* (``7d``, at most 90d)."""

    service: Annotated[str, Field(max_length=63)]
    rollout: Annotated[str | None, Field(max_length=80)] = None
    expires_in: Span
    why: Why = ""


class ShareLinkView(View):
    """A link, without what opens it."""

    id: str
    service: str
    rollout: str | None
    by: str
    why: str
    created_at: dt.datetime
    expires_at: dt.datetime
    revoked_at: dt.datetime | None


class CreatedShareLinkView(ShareLinkView):
    """A new link, and the only time that its *url* is shown."""

    url: str


class ShareLinkPage(Page[ShareLinkView]):
    """Links, newest first."""


class AuditEntryView(View):
    """Somebody changed something, or tried to: *outcome* is done, refused (not possible) or denied (not allowed).

    *count* attempts of one kind, from *at* to *last_at*, are told as one.
    """

    at: dt.datetime
    last_at: dt.datetime
    by: str
    what: str
    service: str
    rollout: str | None
    outcome: str
    words: str
    count: int


class AuditPage(Page[AuditEntryView]):
    """What people did, newest first."""


def grants_from(documents: list[GrantDocument]) -> tuple[Grant, ...]:
    """Build the grants that are meant.

    Raises:
        InvalidInputError: A role is unknown, a name cannot be a service's, or there are too many.
    """
    return settle(
        Grant(
            read_role(each.role, field=f"grants[{place}].role"),
            check_service(each.service, field=f"grants[{place}].service"),
        )
        for place, each in enumerate(documents)
    )


def grant_views(grants: tuple[Grant, ...]) -> list[GrantView]:
    """Show grants."""
    return [GrantView(role=grant.role.word, service=grant.service) for grant in grants]


def key_view(key: ApiKey) -> KeyView:
    """Show a key."""
    return KeyView(
        name=key.name,
        prefix=key.prefix,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        grants=grant_views(key.may),
    )


def audit_view(entry: AuditEntry) -> AuditEntryView:
    """Show an entry."""
    return AuditEntryView(
        at=entry.at,
        last_at=entry.last_at,
        by=entry.by,
        what=entry.what,
        service=entry.service,
        rollout=entry.rollout,
        outcome=entry.outcome.value,
        words=entry.words,
        count=entry.count,
    )
