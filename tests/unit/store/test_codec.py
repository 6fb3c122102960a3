"""What is written to a column is read back, whatever it is; what a newer release wrote is read as far as known."""

import dataclasses
import datetime as dt
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from controlplane.ports import TypeStatus
from controlplane.rollout.model import (
    STATES,
    Abort,
    Baking,
    Command,
    Pause,
    Plan,
    Promote,
    Resume,
    State,
    Step,
    is_final,
)
from controlplane.rollout.slo import ErrorRateSlo, Slo
from controlplane.rollout.windows import BUCKETS
from controlplane.store import codec
from tests.builders import NOW
from tests.unit.api.specs import OTHER_SLOS, REQUEST_SLOS

moments = st.datetimes(min_value=dt.datetime(2000, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - hypothesis adds the zone
spans = st.timedeltas(min_value=dt.timedelta(seconds=1), max_value=dt.timedelta(days=7))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    weights = [*sorted(draw(st.sets(st.integers(1, 9_999), max_size=20))), 10_000]
    steps = tuple(Step(weight, hold=draw(spans), pause=draw(st.booleans())) for weight in weights)
    return Plan(steps, deadline=draw(spans), prepare_timeout=draw(spans))


st.register_type_strategy(dt.datetime, moments)
states: st.SearchStrategy[State] = st.one_of(*(st.from_type(state) for state in STATES))
commands: st.SearchStrategy[Command] = st.one_of(
    *(st.from_type(command) for command in (Pause, Resume, Promote, Abort))
)


@given(plans())
def test_plans(plan: Plan) -> None:
    assert codec.plan_from_json(codec.plan_to_json(plan)) == plan


@given(REQUEST_SLOS | OTHER_SLOS)
def test_objectives(slo: Slo) -> None:
    assert codec.slo_from_json(json.loads(json.dumps(codec.slo_to_json(slo)))) == slo


def test_an_objective_of_an_earlier_release_has_the_terms_that_all_had_then() -> None:
    old = {"name": "errors", "kind": "error_rate", "max_ratio": 0.01}
    assert codec.slo_from_json(old) == ErrorRateSlo("errors", 0.01)


@given(states)
def test_states(state: State) -> None:
    assert codec.state_from_json(codec.state_kind(state), codec.state_to_json(state)) == state


@given(states)
def test_a_state_has_ended_when_it_is_final(state: State) -> None:
    assert (codec.ended_at(state) is not None) == is_final(state)


@given(commands)
def test_commands(command: Command) -> None:
    assert codec.command_from_row(codec.command_to_row(command)) == command


@given(st.dictionaries(st.text(), st.from_type(TypeStatus)))
def test_what_envoys_say(types: dict[str, TypeStatus]) -> None:
    assert codec.types_from_text(codec.types_to_text(tuple(types.items()))) == types


@given(st.lists(st.integers(0, 2**32 - 1), max_size=BUCKETS))
def test_histograms(counts: list[int]) -> None:
    assert codec.histogram_from_bytes(codec.histogram_to_bytes(counts)) == tuple(counts)


def test_a_usual_histogram_is_small() -> None:
    counts = [0] * BUCKETS
    counts[50:80] = range(30)
    assert len(codec.histogram_to_bytes(counts)) < 100


def test_every_state_has_its_word() -> None:
    assert set(codec.KINDS.values()) == set(STATES)


def test_facts_of_a_newer_release_are_left_out_and_missing_ones_take_their_default() -> None:
    baking = Baking(step=1, since=NOW)
    data = codec.state_to_json(baking) | {"mood": "good"}
    del data["probing"]
    assert codec.state_from_json("baking", data) == baking


def test_a_state_of_a_newer_release_is_an_error() -> None:
    with pytest.raises(KeyError, match="dancing"):
        codec.state_from_json("dancing", {})


def test_moments_of_other_zones_are_read_in_utc() -> None:
    shanghai = dt.timezone(dt.timedelta(hours=8))
    local = dataclasses.replace(Baking(step=1, since=NOW), since=NOW.astimezone(shanghai))
    read = codec.state_from_json("baking", codec.state_to_json(local))
    assert isinstance(read, Baking)
    assert (read.since, read.since.tzinfo) == (NOW, dt.UTC)
