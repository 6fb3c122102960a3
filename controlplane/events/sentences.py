"""One sentence per entry of the history, for people who follow everything: verb, object, measured value, sign, bound.

``rolled back v2: error rate 4.7 % (47/1000) > 1 %, v1 at 0 % in the same seconds (odds 310:1)``. Pure: it is made of
what the entry says, so that every replica, today and in a year, makes the same.
"""

import dataclasses
import re
from typing import Final

from controlplane.ports import EnvoyAnswer, LoggedEntry

MAX_NAMED: Final = 3
SHOWN_VERSION: Final = 12
"""Digits of a version that tell two apart for people."""

_EVIDENCE: Final = re.compile(r"; evidence (at least )?1:(\d+)")
_MEASURED: Final = re.compile(
    r"(?P<what>[^;:]+?) (?P<value>\d[\d.]* %) \((?P<bad>\d+)/(?P<total>\d+)\) > (?:SLO )?(?P<bound>\d[\d.]* %)"
)
_ODDS: Final = re.compile(r"1:(\d+)")
_STEP: Final = re.compile(r"shifting to step (\d+ of \d+), (.+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What a sentence rests on: *what* was *value*, which is *sign* than *bound*, with *odds* : 1 behind it."""

    what: str
    value: str
    sign: str
    bound: str
    bad: int
    total: int
    odds: int | None


def sentence(logged: LoggedEntry) -> str:
    """Say what happened."""
    entry = logged.entry
    match entry.kind:
        case "refused":
            return f"refused {entry.by} to {entry.what.lower()} {logged.candidate or entry.service}: {entry.words}"
        case "audit":
            return _deed(logged)
        case _:
            if entry.after == "Dropped":
                return entry.words  # a start that waited: there is no rollout of it
            return _move(logged) if entry.rollout else f"{_verb(entry.after)} {_lower(entry.words)}"


def answer_sentence(answer: EnvoyAnswer) -> str:
    """Say what Envoys answered: ``edge-1, edge-2 and 3 more acknowledged RDS 1a2b3c4d5e6f``."""
    names = ", ".join(answer.nodes[:MAX_NAMED])
    more = answer.count - len(answer.nodes[:MAX_NAMED])
    who = f"{names} and {more} more" if more else names
    what = f"{answer.kind.upper()} {answer.version[:SHOWN_VERSION]}"
    return f"{who} acknowledged {what}" if answer.acked else f"{who} refused {what}: {answer.words}"


def measured(words: str) -> Measured | None:
    """Read the measured value, its bound and the odds out of the judge's sentence; None where it names none."""
    found = _MEASURED.search(words)
    if found is None:
        return None
    odds = _ODDS.search(words)
    return Measured(
        what=found["what"].strip(),
        value=found["value"],
        sign=">",
        bound=found["bound"],
        bad=int(found["bad"]),
        total=int(found["total"]),
        odds=int(odds[1]) if odds else None,
    )


def for_people(words: str) -> str:
    """Write the judge's words as they are told: evidence as odds against the candidate's being healthy."""
    told = _EVIDENCE.sub(lambda found: f" (odds {found[1] or ''}{found[2]}:1)", words)
    return told.replace(" > SLO ", " > ")


def _deed(logged: LoggedEntry) -> str:
    entry, subject = logged.entry, logged.candidate or logged.entry.service
    asked, is_request, why = entry.words.partition(" asked for")
    if is_request:
        return f"{entry.by} asked to {asked} {subject}{_because(why.removeprefix(': '))}"
    match entry.what:
        case "compare":
            return f"compared the pictures of {subject}: {entry.words}"
        case "apply":
            return f"{entry.by} declared {entry.service}: {entry.words}"
        case "delete":
            return f"{entry.by} deleted {entry.service}{entry.words.removeprefix('deleted')}"
        case "set-split":
            return f"{entry.by} set the weights of {entry.service}: {entry.words.removeprefix('the split is now ')}"
        case "start":
            return f"{entry.by} started {logged.baseline} -> {logged.candidate}: {entry.words}"
        case _:
            return f"{entry.by}: {entry.words}"


def _move(logged: LoggedEntry) -> str:
    entry, candidate = logged.entry, logged.candidate
    before_last, _, last = entry.words.rpartition("; ")
    cause, effect = (before_last, last) if before_last else (entry.words, "")
    cause = for_people(cause)
    match entry.after:
        case "Preparing":
            return f"preparing {candidate}: {entry.words}"
        case "Shifting":
            step = _STEP.fullmatch(effect)
            return f"shifting {candidate} to {step[2]} (step {step[1]}): {cause}" if step else f"{cause}; {effect}"
        case "Baking":
            return f"{candidate} at {effect}: {cause}" if effect else cause
        case "Paused":
            _, _, weight = effect.rpartition(" at ")
            return f"paused {candidate}{f' at {weight}' if weight else ''}: {cause}"
        case "RollingBack":
            return f"rolling back {candidate}: {cause}"
        case "RolledBack":
            return f"rolled back {candidate}: {for_people(logged.outcome) or cause}"
        case "Promoted":
            return f"promoted {candidate}: {for_people(logged.outcome) or cause}"
        case _:
            return f"{candidate}: {for_people(entry.words)}"


def _verb(after: str) -> str:
    return {"Rejected": "rejected:", "Tried": "tried:"}.get(after, after.lower() or "changed:")


def _because(why: str) -> str:
    return f" ({why})" if why else ""


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
