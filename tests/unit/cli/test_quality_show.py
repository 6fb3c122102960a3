"""`hueshift quality show`, and what `get` and `explain` say of pictures."""

import dataclasses
import json
import pathlib

import pytest

from tests.builders import NOW, seconds
from tests.contract.test_quality import FINE, GREY, ended
from tests.unit.api.test_quality import start
from tests.unit.cli.conftest import Cli

MEASURES = {"delta_e": {"value": 9.123, "low": 8.5, "high": 10.01}}
FINDINGS = [{"verdict": "block", "words": "first"}, {"verdict": "drift", "words": "hues turned"}]
BLOCKED = dataclasses.replace(GREY, report={"measures": MEASURES, "findings": FINDINGS, "notes": ["v1 itself: pale"]})


async def compare_twice(cli: Cli) -> None:
    rollout = await start(cli.world)
    for place, compared in enumerate([FINE, BLOCKED]):
        run = ended(await cli.world.store.begin_quality_run(rollout.id, now=NOW + seconds(60 * place)), compared)
        await cli.world.store.end_quality_run(rollout.id, run, compared)


@pytest.fixture
def compared(cli: Cli) -> Cli:
    cli.do(compare_twice, cli)
    return cli


@pytest.mark.parametrize("name", ["colorize-1", "colorize"])
def test_a_rollouts_comparisons_are_shown_the_newest_whole(compared: Cli, name: str) -> None:
    found = compared("quality", "show", name)
    assert (found.code, found.err) == (0, "")
    head, *rest = found.out.splitlines()
    assert head == "colorize-1: ✖ block (comparison 2): v2 is blocked: 灰"
    assert [line.strip() for line in rest[:2]] == ["drift: hues turned", "v1 itself: pale"]
    assert "delta_e  9.12   8.5 to 10" in found.out
    assert "  1. фото 1: grey" in found.out
    assert "✔ ok" in found.out


def test_an_older_one_is_shown_by_its_number_and_programs_get_all(compared: Cli) -> None:
    assert compared("quality", "show", "colorize", "--number", "1").out.startswith("colorize-1: ✔ ok (comparison 1): ")
    found = json.loads(compared("quality", "show", "colorize", "-o", "json").out)
    assert (found["number"], found["verdict"], found["report"]["measures"]) == (2, "block", MEASURES)


def test_report_and_pictures_are_written_to_a_folder(compared: Cli, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "pictures"
    found = compared("quality", "show", "colorize", "--out", str(out))
    assert found.code == 0
    assert json.loads((out / "report.json").read_text()) == BLOCKED.report
    assert sorted(file.name for file in out.glob("*.jpg")) == ["1-фото 1.jpg", "2-фото 2.jpg", "3-фото 3.jpg"]
    assert (out / "1-фото 1.jpg").read_bytes() == GREY.worst[0].jpeg
    (tmp_path / "file").touch()
    assert compared("quality", "show", "colorize", "--out", str(tmp_path / "file")).code == 2


def test_before_the_first_comparison_that_is_said(cli: Cli) -> None:
    cli.do(start, cli.world)
    found = cli("quality", "show", "colorize-1")
    assert (found.code, len(found.lines)) == (4, 1)
    assert "comparison of pictures of 'colorize-1'" in found.err
    assert cli("quality", "show", "nobody").code == 4


def test_get_and_explain_have_verdict_and_figures(compared: Cli) -> None:
    line = "pictures: ✖ block (comparison 2): v2 is blocked: 灰"
    page = " ".join(compared("get", "colorize").out.split())
    assert "▦ pictures Pictures ✖ block" in page
    assert "comparison 2: v2 is blocked: 灰" in page
    assert "Error [HS0114] (colorize) v2 is blocked: 灰; run: hueshift quality show colorize" in page
    told = compared("explain", "colorize").out
    assert line in told
    assert "delta_e 9.12 (8.5 to 10)" in told
