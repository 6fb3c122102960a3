"""What a rollout did, for the summary of a pipeline's job."""

import datetime as dt
import json

from controlplane.rollout.model import RollbackCause, RolledBack
from tests import builders
from tests.unit.cli.conftest import Cli

SENTENCE = "errors: 20.00 % > 1 % (20 of 100 requests)"


def rolled_back(cli: Cli, *, why: str = "better blues") -> None:
    cli.do(cli.world.declare)
    rollout = cli.do(cli.world.roll, why=why)
    for second in range(builders.TICK + 1, builders.TICK + 11):
        v1, v2 = builders.make_counts(100, errors=1), builders.make_counts(10, errors=2)
        cli.do(cli.world.store.record, builders.make_batch("one", tick=second, colorize_v1=v1, colorize_v2=v2))
    cli.world.clock.move(dt.timedelta(seconds=75))
    state = RolledBack(cli.world.clock.now(), RollbackCause.SLO_BREACH, SENTENCE)
    cli.do(cli.world.move, rollout, state, words=f"rolled back: {SENTENCE}")


def test_a_report_has_outcome_evidence_steps_times_requests_and_links(cli: Cli) -> None:
    rolled_back(cli)
    cli.do(cli.world.roll, candidate="v2")  # a newer one is not this one's business
    told = json.loads(cli("report", "colorize-1", "-o", "json").out)
    assert (told["outcome"], told["evidence"], told["seconds"]) == ("rolled_back", SENTENCE, 75.0)
    assert told["versions"] == [
        {"version": "v1", "requests": 1000, "bad": 10},
        {"version": "v2", "requests": 100, "bad": 20},
    ]
    assert [step["after"] for step in told["steps"]] == ["Preparing", "RolledBack"]
    assert [one["what"] for one in told["by_hand"]] == ["start"]
    assert told["links"]["rollout"] == "http://127.0.0.1:8000/v1/rollouts/colorize-1"
    lines = cli("report", "colorize-1").out.splitlines()
    assert lines[0] == "## ❌ rolled back: colorize v1 → v2"
    assert "> errors: 20.00 % \\> 1 % (20 of 100 requests)" in lines
    assert "| v1 | 1,000 | 10 |" in lines
    assert "| v2 | 100 | 20 |" in lines
    assert "ada: better blues, took 1 min 15 s." in lines


def test_what_people_wrote_is_no_markup(cli: Cli) -> None:
    rolled_back(cli, why="<script>alert(1)</script> | [x](y) **b**")
    out = cli("report", "colorize").out
    assert "<script>" not in out.replace("\\<script\\>", "")
    assert "\\<script\\>alert(1)\\</script\\> \\| \\[x\\](y) \\*\\*b\\*\\*" in out


def test_without_a_rollout_there_is_no_report(cli: Cli) -> None:
    cli.do(cli.world.declare)
    assert cli("report", "colorize").code == 4
    assert cli("report", "colorize-9").code == 4
    assert cli("report", "nothing").code == 4


def test_a_rollout_of_no_length_has_no_counts(cli: Cli) -> None:
    cli.do(cli.world.declare)
    rollout = cli.do(cli.world.roll)
    cli.do(cli.world.move, rollout, RolledBack(cli.world.clock.now(), RollbackCause.ABORTED, "aborted"))
    assert "| v2 | unknown | unknown |" in cli("report", "colorize").out.splitlines()
