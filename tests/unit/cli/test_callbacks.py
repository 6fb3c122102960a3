"""`hueshift jobs callbacks` against the real API."""

import json
import pathlib

import pytest

from controlplane.jobs.callbacks import Unheard
from tests.job_builders import PHOTO, WORKFLOW
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_jobs import KINDS

SHOP = "https://shop.example.org/hooks?token=s3cret"
CALLBACKS = f"callback: shop\naddress: {SHOP}\n---\ncallback: task\nevents: [done]\n"


def apply(cli: Cli, folder: pathlib.Path, text: str = CALLBACKS) -> list[str]:
    file = folder / "callbacks.yaml"
    file.write_text(text)
    ended = cli("jobs", "callbacks", "apply", "-f", str(file))
    assert ended.code == 0, ended.err
    return ended.out.splitlines()


def test_callbacks_are_applied_listed_tested_and_deleted(cli: Cli, tmp_path: pathlib.Path) -> None:
    assert "you have no callbacks" in cli("jobs", "callbacks").out
    shop, first, task, second = apply(cli, tmp_path)
    assert (shop, task) == ("shop is applied", "task is applied")
    assert first.startswith("  its secret, shown this once: whsec_")
    assert second.startswith("  its secret, shown this once: whsec_")
    assert apply(cli, tmp_path) == ["shop is unchanged", "task is unchanged"]
    listed = cli("jobs", "callbacks").out
    assert "s3cret" not in listed
    for words in ("https://shop.example.org/…", "what a task names", "done, dead, cancelled"):
        assert words in listed
    assert [each["callback"] for each in json.loads(cli("jobs", "callbacks", "-o", "json").out)] == ["shop", "task"]
    assert cli("jobs", "callbacks", "test", "shop").out == "shop: delivered\n"
    cli.world.app.state.parts.callbacks.senders.webhooks.answers[SHOP] = [Unheard("answered 401")]
    ended = cli("jobs", "callbacks", "test", "shop")
    assert (ended.code, ended.out) == (1, "shop: answered 401\n")
    assert cli("jobs", "callbacks", "secret", "shop").out.startswith("whsec_")
    assert cli("jobs", "callbacks", "delete", "shop", "--yes").out == "callback shop is gone\n"
    ended = cli("jobs", "callbacks", "delete", "shop", "--yes")
    assert (ended.code, ended.lines) == (4, ["hueshift: callback 'shop' does not exist (known: task)"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; start it with callback: NAME"),
        ("address: x", "callback: is missing"),
        ("callback: shop", "address: is missing; name a URL"),
        ("callback: shop\naddress: x\nevents: [ended]", "events: 'ended' is not known; use some of: done, dead, canc"),
        ("callback: shop\naddress: x\nadress: x", "did you mean address?"),
    ],
)
def test_callbacks_that_make_no_sense_are_refused_before_any_is_sent(
    cli: Cli, tmp_path: pathlib.Path, text: str, words: str
) -> None:
    file = tmp_path / "callbacks.yaml"
    file.write_text(text)
    ended = cli("jobs", "callbacks", "apply", "-f", str(file))
    assert ended.code == 2
    assert words in ended.err
    assert cli.bridge.requests == []


def test_a_job_names_who_is_told_and_shows_how_far_that_is(cli: Cli, tmp_path: pathlib.Path) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    apply(cli, tmp_path, "callback: task")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(PHOTO)
    options = ("--workflow", WORKFLOW, "--callback-url", "https://own.example.net/s3cret", "-o", "json")
    ended = cli("jobs", "submit", str(photo), *options)
    job = json.loads(ended.out)["id"]
    cli("jobs", "cancel", job)
    shown = cli("jobs", "get", job).out.splitlines()
    assert shown[1:] == ["  task (own.example.net): cancelled waits, 0 tries"]
