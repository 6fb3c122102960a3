"""`hueshift replay`: what the judge said, what it says now, and what it comes to."""

import json
import pathlib

import pytest

from controlplane.api.answers import ReplayedView, SaidView
from controlplane.cli.replaying import _note, _said_text
from tests import builders
from tests.unit.api.test_replays import BREACH, STRICT
from tests.unit.cli.conftest import Cli

STRICT_YAML = "- {name: slow, kind: latency, threshold: 50ms, quantile: 95%}\n"


@pytest.fixture
def ended(cli: Cli) -> Cli:
    cli.do(cli.world.declare)
    rollout = cli.do(cli.world.roll)
    cli.do(cli.world.judge, rollout, errors=BREACH)
    return cli


@pytest.mark.parametrize("name", ["colorize-1", "colorize"])
def test_a_rollout_or_the_newest_of_a_service_is_replayed(ended: Cli, name: str) -> None:
    result = ended("replay", name)
    assert (result.code, result.err) == (0, "")
    head, columns, *rows = result.out.splitlines()
    objectives = "at most 1% errors; 95% within 400ms; no more client errors than before, above 1%"
    assert head == f"colorize-1: ✖ rolled back, judged again by: {objectives}"
    assert columns.split() == ["TIME", "WEIGHT", "RECORDED", "REPLAYED"]
    assert rows[-2:][0] == "every decision comes out as recorded, and so does every sentence"
    assert rows[-1].startswith("recorded: rolled back at 5 % after ")
    seconds = [row for row in rows[:-2] if row.endswith("the same")]
    assert seconds == rows[:-2]
    assert "hold: 1 of 30 s without a breach at 5 %" in seconds[0]
    assert "rollback: " in seconds[-1]


def test_all_seconds_and_json(ended: Cli) -> None:
    found = json.loads(ended("replay", "colorize", "--all", "-o", "json").out)
    assert len(found["ticks"]) == found["judged"]
    assert len(ended("replay", "colorize", "--all").out.splitlines()) == found["judged"] + 4


@pytest.mark.parametrize("text", [STRICT_YAML, f"slos:\n{STRICT_YAML}", f"service: colorize\nslos:\n{STRICT_YAML}"])
def test_other_objectives_come_from_a_file(ended: Cli, tmp_path: pathlib.Path, text: str) -> None:
    file = tmp_path / "strict.yaml"
    file.write_text(text)
    result = ended("replay", "colorize-1", "--slo", str(file))
    assert (result.code, result.err) == (0, "")
    assert "judged again by: 95% within 50ms" in result.out
    assert "the first different decision comes after " in result.out
    assert "from there on the weights are those of the recording" in result.out
    assert json.loads(ended.bridge.requests[-1].content) == {"all": False, "slos": STRICT}


def test_a_verdict_that_moves_nothing_says_so_and_so_does_an_unfinished_second() -> None:
    dead = SaidView(verdict="rollback", decision="rollback", words="nearly every request fails")
    unheeded = SaidView(verdict="advance", decision="hold", words="all objectives kept")
    second = ReplayedView(
        tick=builders.TICK,
        at=builders.NOW,
        weight="5%",
        weight_bp=500,
        partial=True,
        recorded=dead,
        replayed=unheeded,
        same=False,
    )
    assert _said_text(unheeded).plain == "advance (moves nothing now): all objectives kept"
    assert (
        _said_text(dead, note=_note(second)).plain == "rollback: before the second was over: nearly every request fails"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: slow, kind: latency, quantile: 95%}", "slos.slow.threshold: is missing; add threshold: 400ms"),
        ("- {name: e, kind: error_rate, max: 70%}", "slos.e.max: 70 % is out of range"),
        ("service: colorize", "slos: is missing; add slos: - {name: errors, kind: error_rate, max: 1%}"),
        ("slos: 1%", "slos: is not a list"),
        ("just words", "slos: is not a list"),
        ("[", "slo.yaml:1:2: "),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_sent(
    ended: Cli, tmp_path: pathlib.Path, text: str, words: str
) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text(text)
    before = len(ended.bridge.requests)
    result = ended("replay", "colorize-1", "--slo", str(file))
    assert (result.code, result.out, len(result.lines)) == (2, "", 1)
    assert words in result.err
    assert len(ended.bridge.requests) == before
    assert "--slo: " in ended("replay", "colorize-1", "--slo", str(tmp_path / "none.yaml")).err


def test_what_there_is_no_record_of_is_refused(ended: Cli) -> None:
    assert (ended("replay", "nothing").code, ended("replay", "colorize-9").code) == (4, 4)
    assert "service 'nothing' does not exist (known: colorize)" in ended("replay", "nothing").err
    ended.do(ended.world.declare, name="fresh", port=9090)
    assert "rollout of 'fresh' does not exist" in ended("replay", "fresh").err
    ended.do(ended.world.store.prune_telemetry, before_tick=builders.TICK + 999)
    result = ended("replay", "colorize")
    assert (result.code, len(result.lines)) == (4, 1)
    assert "HUESHIFT_TELEMETRY_RETENTION" in result.err
