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
