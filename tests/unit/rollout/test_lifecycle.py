"""The lifecycle: its whole table as a golden file, and its promises under any order of events."""

import dataclasses
import datetime as dt
import os
import pathlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.rollout.lifecycle import IllegalTransitionError, adds_traffic, advance, carries_traffic, weight_bp
from controlplane.rollout.model import (
    EVENTS,
    NO_STEP,
    PROBE_WEIGHT_BP,
    STATES,
    Abort,
    Acked,
    Advance,
    Baking,
    Breach,
    DeadlinePassed,
    Event,
    Nacked,
    Pause,
    PauseCause,
    Paused,
    Plan,
    PrepareTimedOut,
    Preparing,
    Promote,
    Promoted,
    Question,
    Ready,
    Resume,
    RollbackCause,
    RolledBack,
    RollingBack,
    Shifting,
    State,
    Step,
    Supersede,
    Suspicion,
    TelemetryLost,
    Undo,
    is_final,
)
from controlplane.rollout.past import plan_back

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(seconds=1)
PLAN = Plan((Step(500), Step(2500, pause=True), Step(10_000)))
DIRECT = plan_back(PLAN)
LAST = 2
GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "lifecycle.txt"

SAMPLE_STATES: tuple[State, ...] = (
    Preparing(NOW),
    Shifting(0, NOW, came_from=NO_STEP),
    Shifting(1, NOW, came_from=0),
    Shifting(LAST, NOW, came_from=1),
    Shifting(LAST, NOW, came_from=LAST, probing=True),
    Shifting(LAST, NOW, came_from=LAST, came_probing=True),
    Baking(0, NOW),
    Baking(1, NOW),
    Baking(LAST, NOW),
    Baking(LAST, NOW, probing=True),
    Paused(NO_STEP, NOW, PauseCause.NACK, "words", next_step=0),
    Paused(0, NOW, PauseCause.OPERATOR, "words", next_step=0),
    Paused(1, NOW, PauseCause.GATE, "words", next_step=2),
    Paused(LAST, NOW, PauseCause.OPERATOR, "words", next_step=LAST),
    Paused(LAST, NOW, PauseCause.INCONCLUSIVE, "words", next_step=LAST, probing=True),
    RollingBack(NOW, RollbackCause.SLO_BREACH, "words"),
    Promoted(NOW, "words"),
    RolledBack(NOW, RollbackCause.SLO_BREACH, "words"),
)
SAMPLE_EVENTS: tuple[Event, ...] = (
    Ready(),
    PrepareTimedOut("no worker"),
    Acked(),
    Nacked("bad regex"),
    Advance("enough"),
    Breach("too many errors"),
    Suspicion("errors at 100 %"),
    Question("too much memory"),
    DeadlinePassed(),
    TelemetryLost("silence"),
    Pause("eve", ""),
    Resume("eve", ""),
    Promote("eve", ""),
    Promote("eve", "", full=True),
    Abort("eve", ""),
    Undo("eve", ""),
    Supersede("eve", "", "colorize-8"),
)
DIRECT_STATES: tuple[State, ...] = (
    Preparing(NOW),
    Shifting(0, NOW, came_from=NO_STEP),
    Paused(NO_STEP, NOW, PauseCause.NACK, "words", next_step=0),
    RollingBack(NOW, RollbackCause.ABORTED, "words"),
    Promoted(NOW, "words"),
)
"""All that a direct rollout, the way back of an undo, is ever in."""


def test_the_samples_cover_every_state_and_event() -> None:
    assert {type(state) for state in SAMPLE_STATES} == set(STATES)
    assert {type(event) for event in SAMPLE_EVENTS} == set(EVENTS)


def cell(state: State) -> str:
    """Print a state without its moments and words."""
    fields = {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if field.name not in {"since", "at", "words"}
    }
    shown = " ".join(
        f"{name}={value.value if isinstance(value, PauseCause | RollbackCause) else value}"
        for name, value in fields.items()
        if value is not False
    )
    return f"{type(state).__name__}({shown})"


def table() -> str:
    lines = [
        "What each event makes of each state of a rollout with steps 5 %, 25 % (gate), 100 %. Pairs that are left out",
        "are refused. Regenerate with HUESHIFT_REGENERATE=1 and read the difference.",
    ]
    lines += cells(PLAN, SAMPLE_STATES)
    lines.append(
        "\n\nThe same for a direct rollout, the way back of an undo: 100 % at once, without a bake and a judge."
    )
    lines += cells(DIRECT, DIRECT_STATES)
    return "\n".join(lines) + "\n"


def cells(plan: Plan, states: tuple[State, ...]) -> list[str]:
    lines = []
    for state in states:
        weight = weight_bp(plan, state)
        lines.append(f"\n{cell(state)}   weight {'of the split' if weight is None else weight}")
        for event in SAMPLE_EVENTS:
            name = type(event).__name__ + (" full" if isinstance(event, Promote) and event.full else "")
            try:
                after = advance(plan, state, event, now=LATER)
            except IllegalTransitionError:
                continue
            lines.append(f"  {name:<16} -> {cell(after)}")
    return lines


def test_the_table_is_the_golden_one() -> None:
    if os.environ.get("HUESHIFT_REGENERATE"):
        GOLDEN.write_text(table())
    assert table() == GOLDEN.read_text()


@pytest.mark.parametrize("event", SAMPLE_EVENTS, ids=lambda event: type(event).__name__)
def test_a_final_state_refuses_everything_in_one_line_that_names_it(event: Event) -> None:
    state = Promoted(NOW, "words")
    with pytest.raises(IllegalTransitionError, match=r"^cannot .* a rollout that is promoted$"):
        advance(PLAN, state, event, now=LATER)


@pytest.mark.parametrize("state", SAMPLE_STATES, ids=cell)
@pytest.mark.parametrize("event", SAMPLE_EVENTS, ids=lambda event: type(event).__name__)
def test_only_evidence_or_a_person_adds_traffic(state: State, event: Event) -> None:
    try:
        after = advance(PLAN, state, event, now=LATER)
    except IllegalTransitionError:
        return
    check_weights(state, event, after)


def check_weights(before: State, event: Event, after: State) -> None:
    """Only evidence or a person adds traffic; a refused shift keeps what the fleet ran, which may be more."""
    was, becomes = weight_bp(PLAN, before) or 0, weight_bp(PLAN, after) or 0
    if isinstance(before, Shifting) and isinstance(event, Nacked):
        assert becomes == (0 if before.came_from == NO_STEP else ran_before(before))
    elif becomes > was:
        assert isinstance(event, Ready | Advance | Resume | Promote)
    if isinstance(event, Breach | Abort | Undo | Supersede | PrepareTimedOut):
        assert becomes == 0


def ran_before(state: Shifting) -> int:
    return PROBE_WEIGHT_BP if state.came_probing else PLAN.steps[state.came_from].weight_bp


def test_every_state_can_be_left_by_abort_unless_it_is_final() -> None:
    for state in SAMPLE_STATES:
        if not is_final(state):
            assert isinstance(advance(PLAN, state, Abort("eve", ""), now=LATER), RollingBack | RolledBack)


def test_a_newer_version_takes_the_place_of_any_rollout_that_has_not_ended() -> None:
    for state in SAMPLE_STATES:
        if not is_final(state):
            after = advance(PLAN, state, Supersede("eve", "", "colorize-8"), now=LATER)
            assert isinstance(after, RollingBack | RolledBack)
            if not isinstance(state, RollingBack):
                assert after.cause is RollbackCause.SUPERSEDED
                assert "colorize-8" in after.words


def test_where_nothing_was_moved_there_is_nothing_to_undo() -> None:
    for state in (Preparing(NOW), Paused(NO_STEP, NOW, PauseCause.NACK, "words", next_step=0)):
        with pytest.raises(IllegalTransitionError, match=r"^cannot undo a rollout that is (preparing|paused)"):
            advance(PLAN, state, Undo("eve", ""), now=LATER)


def test_a_freeze_forbids_what_adds_traffic_and_nothing_else() -> None:
    for state in SAMPLE_STATES:
        for event in SAMPLE_EVENTS:
            try:
                after = advance(PLAN, state, event, now=LATER)
            except IllegalTransitionError:
                continue
            if isinstance(event, Breach | Abort | Undo | Supersede | Pause | PrepareTimedOut):
                assert not adds_traffic(PLAN, state, after)
    assert adds_traffic(PLAN, Preparing(NOW), Shifting(0, NOW, came_from=NO_STEP))
    assert not adds_traffic(PLAN, Baking(LAST, NOW), Promoted(NOW, ""))


def test_a_refused_step_leaves_traffic_where_it_was() -> None:
    shifting = Shifting(LAST, NOW, came_from=0)
    paused = advance(PLAN, shifting, Nacked("no"), now=LATER)
    assert weight_bp(PLAN, paused) == PLAN.steps[0].weight_bp
    assert advance(PLAN, paused, Resume("eve", ""), now=LATER) == Shifting(LAST, LATER, came_from=0)


def test_a_probe_gives_half_back_and_a_cleared_one_returns_to_all() -> None:
    probing = advance(PLAN, Baking(LAST, NOW), Suspicion("errors"), now=LATER)
    assert weight_bp(PLAN, probing) == PROBE_WEIGHT_BP
    live = advance(PLAN, probing, Acked(), now=LATER)
    assert weight_bp(PLAN, advance(PLAN, live, Advance("cleared"), now=LATER)) == 10_000


class Lifecycle(RuleBasedStateMachine):
    """Any order of events: final states are final, and only proof or a person may add traffic."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State = Preparing(NOW)
        self.acked_weight = 0

    @rule(event=st.sampled_from(SAMPLE_EVENTS))
    def observe(self, event: Event) -> None:
        before = self.state
        try:
            self.state = advance(PLAN, before, event, now=LATER)
        except IllegalTransitionError:
            assert self.state == before
            return
        assert not is_final(before), "final states are final"
        check_weights(before, event, self.state)

    @invariant()
    def a_step_exists(self) -> None:
        if isinstance(self.state, Shifting | Baking):
            assert 0 <= self.state.step <= LAST
        if isinstance(self.state, Paused):
            assert NO_STEP <= self.state.step <= LAST
            assert 0 <= self.state.next_step <= LAST + 1

    @invariant()
    def the_judge_watches_whoever_has_traffic(self) -> None:
        if isinstance(self.state, Baking):
            assert carries_traffic(self.state)
        if isinstance(self.state, Paused) and weight_bp(PLAN, self.state):
            assert carries_traffic(self.state)


class WayBack(RuleBasedStateMachine):
    """Any order of events around an undo: it is never judged, and ends where all traffic is on one side."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State = Preparing(NOW)

    @rule(event=st.sampled_from(SAMPLE_EVENTS))
    def observe(self, event: Event) -> None:
        before = self.state
        try:
            self.state = advance(DIRECT, before, event, now=LATER)
        except IllegalTransitionError:
            return
        assert not is_final(before), "final states are final"

    @invariant()
    def no_judge_ever_watches_it(self) -> None:
        assert not carries_traffic(self.state)

    @invariant()
    def it_is_all_or_nothing(self) -> None:
        assert weight_bp(DIRECT, self.state) in {None, 0, 10_000}

    @invariant()
    def the_table_has_its_state(self) -> None:
        assert type(self.state) in {*map(type, DIRECT_STATES), RolledBack}


WayBack.TestCase.settings = settings(max_examples=50, stateful_step_count=20, deadline=None, derandomize=True)
TestWayBack = WayBack.TestCase
Lifecycle.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
TestLifecycle = Lifecycle.TestCase
