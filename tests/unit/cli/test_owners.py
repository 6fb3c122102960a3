"""`hueshift jobs owners` against the real API."""

import json
import pathlib

import pytest

from tests.job_builders import PHOTO
from tests.unit.api.test_jobs import finish
from tests.unit.api.test_owners import expire
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_jobs import KINDS, photo, submit

__all__ = ["photo"]  # a fixture

EXAMPLE = KINDS.with_name("owners.yaml")
OWNERS = """\
owner: ada
keep: 1d
max_waiting: 1
max_bytes: 20GiB
---
owner: web-shop
max_daily: 500
vip: false
"""


@pytest.fixture
def file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "owners.yaml"
    path.write_text(OWNERS)
    return str(path)


def test_agreements_are_applied_from_a_file_listed_and_deleted(cli: Cli, file: str) -> None:
    assert "nothing is agreed with anybody; apply it" in cli("jobs", "owners").out
    assert cli("jobs", "owners", "apply", "-f", file).out == "ada is applied\nweb-shop is applied\n"
    assert "web-shop is unchanged" in cli("jobs", "owners", "apply", "-f", file).out
    lines = [line.split() for line in cli("jobs", "owners").out.splitlines()]
    assert ["ada", "1d", "1", "default", "20GiB", "yes"] in lines
    assert ["web-shop", "default", "default", "500", "default", "no"] in lines
    listed = json.loads(cli("jobs", "owners", "-o", "json").out)
    assert [(each["owner"], each["max_bytes"], each["keep"]) for each in listed] == [
        ("ada", "20GiB", "1d"),
        ("web-shop", None, None),
    ]
    assert cli("jobs", "owners", "delete", "web-shop", "--yes").out == "web-shop has what the settings say\n"
    again = cli("jobs", "owners", "delete", "web-shop", "--yes")
    assert (again.code, again.lines) == (4, ["hueshift: job owner 'web-shop' does not exist (known: ada)"])


def test_what_is_used_is_shown_beside_what_may_be(cli: Cli, file: str, photo: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    cli("jobs", "owners", "apply", "-f", file)
    submit(cli, photo)
    assert cli("jobs", "owners", "show", "ada").out.splitlines() == [
        "ada: 1 of 1 jobs wait or run",
        "  1 of 100000 were submitted within 24 hours",
        f"  {len(PHOTO)} of {20 << 30} bytes of pictures are stored",
        "  vip is allowed; pictures stay as long as the kind says, at most 1d",
    ]
    assert json.loads(cli("jobs", "owners", "show", "ada", "-o", "json").out)["waiting"] == {"used": 1, "most": 1}
    refused = cli("jobs", "submit", photo, "--workflow", "photo")
    assert (refused.code, len(refused.lines)) == (4, 1)
    assert "max_waiting: ada has 1 jobs that wait or run, and may have 1; wait until" in refused.err


def test_the_example_can_be_applied_as_it_is(cli: Cli) -> None:
    assert cli("jobs", "owners", "apply", "-f", str(EXAMPLE)).out == "web-shop is applied\narchive is applied\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; start it with owner: NAME"),
        ("max_daily: 1", "owner: is missing"),
        ("owner: a\nmax_bytes: 20GB", "max_bytes: '20GB' is not a size; write a whole number and B, KiB"),
        ("owner: a\nmax_daily: -1", "max_daily: -1 is out of range"),
        ("owner: a\nmaxdaily: 1", "did you mean max_daily?"),
        ("owner: a\nkeep: 7", "keep: 7 has no unit"),
        ("- owner: a", "is not a mapping"),
        ("owner: [", "correct the YAML there"),
    ],
)
def test_agreements_that_make_no_sense_are_refused_before_any_is_sent(
    cli: Cli, tmp_path: pathlib.Path, text: str, words: str
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text)
    ended = cli("jobs", "owners", "apply", "-f", str(wrong))
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert words in ended.err
    assert cli.bridge.requests == []


def test_a_result_that_is_over_its_time_is_refused_in_one_line(
    cli: Cli,
    photo: str,
    tmp_path: pathlib.Path,
) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    job = submit(cli, photo)
    cli.do(finish, cli.world, job)
    cli.do(expire, cli.world, job)
    ended = cli("jobs", "result", job, "--out", str(tmp_path / "out.png"))
    assert (ended.code, len(ended.lines)) == (4, 1)
    assert f"job {job} is done, but its pictures were removed on" in ended.err
    assert "its pictures were removed on" in cli("jobs", "get", job).out
