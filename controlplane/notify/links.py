"""Pure: links of one message, of which one may be used once, to approve or reject what a rollout waits for at a gate.

Context: whoever has such a link may move traffic, and mail scanners, chat previews and logs see links. Choice: a link
holds 256 random bits, of which only the digest is stored; looking at it changes nothing, a person sends a form. It is
bound to the target it was sent to, to the rollout, and to the moment at which the rollout came to this gate.
Consequence: neither the database nor the log gives a link away, and one of an earlier gate, of an earlier step or of
another rollout opens nothing.
"""

import dataclasses
import datetime as dt
import enum
import hashlib
import re
import secrets
from typing import Final

from controlplane.errors import ConflictError
from controlplane.ports import Rollout
from controlplane.rollout.lifecycle import describe
from controlplane.rollout.model import PauseCause, Paused

PATH: Final = "/links/"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class LinkAction(enum.StrEnum):
    """What a link does."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link as it is stored. *target* is the key of the one it was sent to; *since* is when the gate was reached."""

    digest: str
    target: str
    service: str
    rollout: str
    step: int
    since: dt.datetime
    action: LinkAction
    expires_at: dt.datetime
    used_at: dt.datetime | None = None

    @property
    def by(self) -> str:
        """What the audit calls whoever uses it."""
        return f"link to {self.target}"


class DeadLinkError(ConflictError):
    """A link that can do nothing any more, or never could; the text says why."""


def new_token() -> str:
    """Make what a link ends with."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Return what is stored of a token; "" for what cannot be one."""
    return hashlib.sha256(token.encode()).hexdigest() if _TOKEN.fullmatch(token) else ""


def gate_of(rollout: Rollout) -> Paused | None:
    """Return the state of a rollout that waits for a person at a gate of its plan; None for any other."""
    state = rollout.state
    return state if isinstance(state, Paused) and state.cause is PauseCause.GATE else None


def check_link(link: Link, rollout: Rollout, *, now: dt.datetime) -> None:
    """Refuse a link that opens nothing now.

    Raises:
        DeadLinkError: It was used, has expired, or the rollout does not stand at the gate that the link is of.
    """
    if link.used_at is not None:
        raise DeadLinkError(
            "this link was used already, or the other one of its message was; each gate is decided once"
        )
    if now >= link.expires_at:
        raise DeadLinkError("this link has expired; use the page, or the command line")
    gate = gate_of(rollout)
    if gate is None:
        raise DeadLinkError(f"{link.rollout} does not wait at a gate any more: it is {describe(rollout.state)}")
    if gate.step != link.step or gate.since != link.since:
        raise DeadLinkError(f"this link is of an earlier gate of {link.rollout}; use the newest message's")
