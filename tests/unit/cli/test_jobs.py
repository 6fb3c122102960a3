"""`hueshift jobs` against the real API."""

import json
import pathlib

import pytest

from tests.job_builders import PHOTO, PNG, WORKFLOW
from tests.unit.api.test_jobs import finish
from tests.unit.cli.conftest import Cli

KINDS = pathlib.Path(__file__).parents[3] / "deploy" / "kinds.yaml"


@pytest.fixture
def photo(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    return str(path)


def submit(cli: Cli, photo: str, *options: str) -> str:
    ended = cli("jobs", "submit", photo, "--workflow", WORKFLOW, "-o", "json", *options)
    assert ended.code == 0, ended.err
    return str(json.loads(ended.out)["id"])


def test_kinds_are_applied_from_a_file_and_listed(cli: Cli) -> None:
    assert "there are no kinds yet" in cli("jobs", "kinds").out
    assert cli("jobs", "kinds", "apply", "-f", str(KINDS)).out.splitlines() == [
        "person is applied",
        "building is applied",
        "photo is applied",
    ]
    assert "person is unchanged" in cli("jobs", "kinds", "apply", "-f", str(KINDS)).out
    listed = cli("jobs", "kinds").out
    for words in (WORKFLOW, "460-680 px", "/repair x-model-type: building"):
        assert words in listed
    assert [kind["kind"] for kind in json.loads(cli("jobs", "kinds", "-o", "json").out)] == [
        "building",
        "person",
        "photo",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; start it with kind: NAME"),
        ("kind: person", "workflow: is missing"),
        ("kind: a\nworkflow: b\nmodels: [c]\nsizes: {min: 9, max: 1}", "sizes: 9 to 1 px, 1 by default, is no range"),
        ("kind: a\nworkflow: b\nmodels: [c]\nsizes: {min: 64, max: 99}\ntimeuot: 1s", "did you mean timeout?"),
    ],
)
def test_kinds_that_make_no_sense_are_refused_before_any_is_sent(
    cli: Cli, tmp_path: pathlib.Path, text: str, words: str
) -> None:
    file = tmp_path / "kinds.yaml"
    file.write_text(text)
    ended = cli("jobs", "kinds", "apply", "-f", str(file))
    assert ended.code == 2
    assert words in ended.err
    assert cli.bridge.requests == []


def test_a_photo_is_handed_in_watched_and_collected(cli: Cli, photo: str, tmp_path: pathlib.Path) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    job = submit(cli, photo, "--size", "500", "--task-id", "7f3a", "--vip")
    assert f"job {job} (7f3a) is waiting" in cli("jobs", "get", job).out
    out = tmp_path / "out.png"
    early = cli("jobs", "result", job, "--out", str(out))
    assert (early.code, out.exists()) == (4, False)
    assert "is waiting; only one that is done has a result" in early.err
    cli.do(finish, cli.world, job)
    assert cli("jobs", "result", job, "--out", str(out)).code == 0
    assert out.read_bytes() == PNG
    shown = json.loads(cli("jobs", "get", job, "-o", "json").out)
    assert (shown["state"], shown["size"], shown["priority"], shown["version"]) == ("done", 500, "vip", "v2")


def test_jobs_are_listed_cancelled_and_deleted(cli: Cli, photo: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    assert cli("jobs", "list").out == "you have no such jobs\n"
    first, second = submit(cli, photo), submit(cli, photo)
    assert cli("jobs", "cancel", first).out == f"job {first} is cancelled\n"
    listed = cli("jobs", "list").out
    assert listed.index(second) < listed.index(first)
    assert second not in cli("jobs", "list", "--state", "cancelled").out
    assert [job["id"] for job in json.loads(cli("jobs", "list", "--before", second, "-o", "json").out)] == [first]
    assert cli("jobs", "delete", first, "--yes").out == f"job {first} is gone\n"
    assert cli("jobs", "get", first).code == 4


def test_a_photo_is_sent_once_even_if_the_connection_breaks(cli: Cli, photo: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    submit(cli, photo)
    assert cli.bridge.requests[-1].headers["Idempotency-Key"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.jpg", "--workflow", WORKFLOW), "nowhere.jpg cannot be read (No such file or directory)"),
        (("PHOTO", "--workflow", "unknown"), "workflow_type: 'unknown' is not known; use one of: DDColor"),
        (("PHOTO", "--workflow", WORKFLOW, "--size", "9"), "parameters.size: 9 px is outside"),
        (("PHOTO",), "Missing option '--workflow'"),
    ],
)
def test_what_is_wrong_is_one_line_and_2(cli: Cli, photo: str, arguments: tuple[str, ...], words: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    ended = cli("jobs", "submit", *(photo if each == "PHOTO" else each for each in arguments))
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert words in ended.err
