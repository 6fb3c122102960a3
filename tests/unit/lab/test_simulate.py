"""The simulator as a command: its table in a file for programs, and one line for a file that is none."""

import json
import pathlib

import pytest

from controlplane.errors import InvalidInputError
from controlplane.lab import simulate

SCENARIOS = pathlib.Path(__file__).parents[2] / "data" / "judge_scenarios.json"
KEYS = "id engine runs rollback promoted inconclusive t_rb_med t_rb_95 t_prom_med t_prom_95 harmed_med"


def test_results_are_written_with_the_agreed_keys(tmp_path: pathlib.Path) -> None:
    document = json.loads(SCENARIOS.read_text())
    document["scenarios"] = [{"id": "dead", "rps": 100, "p2": 1.0, "bad": True, "horizon": 60}]
    chosen, written = tmp_path / "scenarios.json", tmp_path / "out.json"
    chosen.write_text(json.dumps(document))
    assert simulate.main(scenarios=chosen, replications=5, json_file=written) == 0
    (row,) = json.loads(written.read_text())["results"]
    assert list(row) == KEYS.split()
    assert (row["engine"], row["runs"], row["rollback"], row["promoted"]) == ("hueshift", 5, 1.0, 0.0)
    assert 0 < row["t_rb_med"] < 10


def test_a_file_that_holds_no_scenarios_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(InvalidInputError, match=r"--scenarios: .*broken\.json holds no scenarios"):
        simulate.main(scenarios=broken)


def test_engines_stand_side_by_side_and_a_wrong_promotion_is_paid_for(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(SCENARIOS.read_text())
    slow = {"id": "slow", "rps": 100, "lat2": 1.25, "bad": True, "horizon": 600}
    document["scenarios"] = [slow, {"id": "dead", "rps": 100, "p2": 1.0, "bad": True, "horizon": 600}]
    chosen, written = tmp_path / "scenarios.json", tmp_path / "out.json"
    chosen.write_text(json.dumps(document))
    assert simulate.main(scenarios=chosen, replications=4, engines=["all"], json_file=written) == 0
    rows = {(row["id"], row["engine"]): row for row in json.loads(written.read_text())["results"]}
    assert [engine for scenario, engine in rows if scenario == "slow"] == list(simulate.ENGINES)
    assert rows["slow", "hueshift"]["rollback"] == 1
    assert rows["slow", "sre_burn"]["promoted"] == 1
    assert rows["slow", "sre_burn"]["harmed_med"] > 10 * rows["slow", "hueshift"]["harmed_med"]
    assert all(rows["dead", engine]["promoted"] == 0 for engine in simulate.ENGINES if engine != "kayenta")
    assert "flagger60_t5" in capsys.readouterr().out


def test_an_unknown_engine_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="--engine: magic is not known; give one of hueshift, flagger60_t5"):
        simulate.main(scenarios=SCENARIOS, engines=["magic"])
