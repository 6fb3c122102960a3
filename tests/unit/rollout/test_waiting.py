"""Starts that wait: the whole table of what becomes of them as a golden file, and the order of the line."""

import dataclasses
import datetime as dt
import os
import pathlib

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.rollout.waiting import (
    Begin,
    Drop,
    Move,
    Place,
    Replace,
    Stay,
    WaitingStart,
    ahead_of,
    decide,
    in_line,
)

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "waiting.txt"

QUEUED = WaitingStart(
    id="colorize-8",
    service="colorize",
    candidate="v3",
    baseline="",
    plan=None,
    supersede=False,
    only_after_success=False,
    again=False,
    after="colorize-7",
    not_before=None,
    by="ada",
    why="",
    at=NOW,
)
KINDS = {
    "queue": QUEUED,
    "queue, only after success": dataclasses.replace(QUEUED, only_after_success=True),
    "queue, again": dataclasses.replace(QUEUED, again=True),
    "supersede": dataclasses.replace(QUEUED, supersede=True),
    "at, its hour has come": dataclasses.replace(QUEUED, not_before=NOW - HOUR),
    "at, an hour ahead": dataclasses.replace(QUEUED, not_before=NOW + HOUR, supersede=True),
}
PLACES = {
    "nothing in the way": Place(),
    "another one ahead": Place(ahead="colorize-6", active="colorize-5"),
    "a rollout runs": Place(active="colorize-7"),
    "a rollout leaves": Place(active="colorize-7", leaving=True),
    "frozen": Place(frozen="colorize is frozen"),
    "frozen, a rollout runs": Place(active="colorize-7", frozen="colorize is frozen"),
    "it failed meanwhile": Place(failed="v3 was rolled back in colorize-7"),
    "the one before failed": Place(unsuccessful="colorize-7 was rolled back"),
}


def shown(move: Move) -> str:
    match move:
        case Stay(words=words) | Drop(words=words):
            return f"{type(move).__name__}({words})"
        case Replace(rollout=rollout):
            return f"Replace({rollout})"
        case Begin():
            return "Begin"


def table() -> str:
    lines = [
        "What becomes of each kind of waiting start in each place. Regenerate with HUESHIFT_REGENERATE=1 and read the",
        "difference.",
    ]
    for kind, waiting in KINDS.items():
        lines.append(f"\n{kind}")
        lines += [f"  {name:<24} -> {shown(decide(waiting, place, now=NOW))}" for name, place in PLACES.items()]
    return "\n".join(lines) + "\n"


def test_the_table_is_the_golden_one() -> None:
    if os.environ.get("HUESHIFT_REGENERATE"):
        GOLDEN.write_text(table())
    assert table() == GOLDEN.read_text()


TEXTS = st.sampled_from(["", "something"])
PLACES_OF_ANY_KIND = st.builds(
    Place,
    ahead=TEXTS,
    active=TEXTS,
    leaving=st.booleans(),
    frozen=TEXTS,
    failed=TEXTS,
    unsuccessful=TEXTS,
)


@settings(derandomize=True, max_examples=300)
@given(waiting=st.sampled_from(list(KINDS.values())), place=PLACES_OF_ANY_KIND)
def test_nothing_begins_before_its_hour_beside_a_rollout_or_in_a_freeze(waiting: WaitingStart, place: Place) -> None:
    move = decide(waiting, place, now=NOW)
    if isinstance(move, Begin | Replace):
        assert waiting.is_due(NOW)
        assert not place.ahead
        assert not place.frozen
    if isinstance(move, Begin):
        assert not place.active
        assert waiting.again or not place.failed
    if isinstance(move, Replace):
        assert waiting.supersede
        assert move.rollout == place.active
        assert not place.leaving, "what gives its traffic back is not told so again"
    if isinstance(move, Drop):
        assert place.failed or place.unsuccessful, "nothing is given up without a reason"


def test_the_line_is_in_the_order_in_which_they_came_due() -> None:
    first = dataclasses.replace(QUEUED, id="a-1", at=NOW - HOUR)
    scheduled = dataclasses.replace(QUEUED, id="a-2", at=NOW - 3 * HOUR, not_before=NOW - dt.timedelta(minutes=30))
    later = dataclasses.replace(QUEUED, id="a-3", at=NOW - HOUR, not_before=NOW + HOUR)
    last = dataclasses.replace(QUEUED, id="a-4")
    line = [last, later, scheduled, first]
    assert [each.id for each in in_line(line, now=NOW)] == ["a-1", "a-2", "a-4"]
    assert [ahead_of(each, line, now=NOW) for each in (first, scheduled, last, later)] == ["", "a-1", "a-2", ""]
