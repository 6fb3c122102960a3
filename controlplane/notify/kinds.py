"""Pure: what a message is about, read off the history's entry that it tells of."""

import enum
from typing import Final

from controlplane.ports import LoggedEntry


class NotifyKind(enum.StrEnum):
    """What a message is about; a target may want some of them."""

    STARTED = "started"
    """A rollout was started."""
    STEP = "step"
    """Every Envoy acknowledged a step's weight: it is live."""
    GATE = "gate"
    """The plan wants a person's approval before the rollout goes on."""
    HELD = "held"
    """A gate webhook let the rollout through, keeps it waiting, ended it, or does not answer."""
    QUESTION = "question"
    """An objective is broken whose breach a person decides about."""
    PAUSED = "paused"
    """The rollout stands still: somebody paused it, evidence or telemetry did not come in time."""
    RESUMED = "resumed"
    """Somebody let a paused rollout go on."""
    NACKED = "nacked"
    """An Envoy refused the configuration; its words are in the message."""
    ROLLING_BACK = "rolling_back"
    """All traffic goes back to the old version."""
    ROLLED_BACK = "rolled_back"
    """The old version has all traffic again."""
    PROMOTED = "promoted"
    """The new version has all traffic."""
    QUALITY = "quality"
    """The verdict on the candidate's pictures is another one than before."""
    FROZEN = "frozen"
    """A service, or everything, was frozen, or is not any more."""
    DECLARED = "declared"
    """A service was declared or deleted, or its weights were set by hand."""
    REJECTED = "rejected"
    """The fleet refused a declaration."""
    REFUSED = "refused"
    """The controller refused what somebody asked for."""


PREFIX: Final = "dev.hueshift"
URGENT: Final = frozenset(
    {NotifyKind.GATE, NotifyKind.QUESTION, NotifyKind.ROLLING_BACK, NotifyKind.ROLLED_BACK, NotifyKind.PROMOTED}
)
"""Told at once, however much was told before."""

_OF_AUDIT: Final = {
    "start": NotifyKind.STARTED,
    "retry": NotifyKind.STARTED,
    "compare": NotifyKind.QUALITY,
    "webhook": NotifyKind.HELD,
    "freeze": NotifyKind.FROZEN,
    "unfreeze": NotifyKind.FROZEN,
    "apply": NotifyKind.DECLARED,
    "delete": NotifyKind.DECLARED,
    "set-split": NotifyKind.DECLARED,
}
_OF_PAUSE: Final = {
    "Advance": NotifyKind.GATE,
    "Nacked": NotifyKind.NACKED,
    "Question": NotifyKind.QUESTION,
}
_OF_STATE: Final = {
    "Baking": NotifyKind.STEP,
    "RollingBack": NotifyKind.ROLLING_BACK,
    "RolledBack": NotifyKind.ROLLED_BACK,
    "Promoted": NotifyKind.PROMOTED,
}


def kind_of(logged: LoggedEntry) -> NotifyKind | None:
    """Say what an entry of the history is about; None for what nobody is told: it says nothing new."""
    entry = logged.entry
    match entry.kind:
        case "refused":
            return NotifyKind.REFUSED
        case "audit":
            return _OF_AUDIT.get(entry.what)
        case _ if entry.rollout is None:
            return NotifyKind.REJECTED if entry.after == "Rejected" else None
        case _ if entry.before == entry.after and entry.what not in _OF_PAUSE:
            return None
        case _ if entry.after == "Paused":
            if entry.before == "Paused" and entry.what == "Advance":
                return None  # a probe is over; what it stands at is not news
            return _OF_PAUSE.get(entry.what, NotifyKind.PAUSED)
        case _ if entry.what == "Resume" and entry.after != "Promoted":
            return NotifyKind.RESUMED
        case _ if entry.after == "RollingBack" and entry.before == "RollingBack":
            return NotifyKind.NACKED if entry.what == "Nacked" else None
        case _:
            return _OF_STATE.get(entry.after)


def type_of(kind: NotifyKind, *, of_rollout: bool) -> str:
    """Return the CloudEvent's type: ``dev.hueshift.rollout.rolled_back``."""
    return f"{PREFIX}.{'rollout' if of_rollout else 'service'}.{kind.value}"
