"""What holds for every command: help with examples that can be typed, forms of output, codes of exit, the reference."""

import json
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml

from controlplane.cli.examples import EXAMPLES, commands
from controlplane.cli.main import _command, run
from controlplane.cli.surroundings import Surroundings
from tests.unit.cli.conftest import Cli

ROOT = pathlib.Path(__file__).parents[3]
COMMANDS = dict(commands(_command()))
EXAMPLE = re.compile(r"^ +(hueshift .*)$", re.MULTILINE)
DO_NOT_SHOW = {
    "ready",
    *(
        "serve",
        "bootstrap",
        "envoy",
        "demo",
        "soak",
        "simulate",
        "batch",
        "completion",
        "openapi",
        "db upgrade",
        "keys revoke",
        "keys grant",
        "keys ungrant",
    ),
    *("jobs result", "jobs delete", "jobs retry", "jobs drain", "jobs owners delete", "jobs callbacks delete"),
    *("notify remove", "notify replay", "shares revoke"),
}
"""Commands that do something and say so in a line, print a file of their own, or write results with --json."""
DESTROY = {
    "keys revoke",
    "jobs delete",
    "jobs owners delete",
    "jobs callbacks delete",
    "notify remove",
    "shares revoke",
}


def option_names(command: Any) -> set[str]:
    return {name for param in command.params for name in param.opts if name.startswith("-")}


def test_commands_were_found() -> None:
    assert {"get", "jobs kinds", "jobs kinds apply", "keys create"} <= set(COMMANDS)
    assert "__complete" not in COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_how_it_is_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"], Surroundings()) == 0
    text = capsys.readouterr().out
    paragraphs = text.split("\n\n")
    assert paragraphs[0].startswith(f"Usage: hueshift {name}")
    assert paragraphs[1].strip().split("\n")[0].strip()[0].isupper()
    examples = EXAMPLE.findall(text)
    assert examples, f"{name} has no example: add one to controlplane/cli/examples.py"
    assert all(f"{each} ".startswith(f"hueshift {name} ") for each in examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_can_be_typed(name: str) -> None:
    command = COMMANDS[name]
    epilog = command.epilog or ""
    examples = EXAMPLE.findall(epilog)
    assert examples
    for example in examples:
        words = shlex.split(example)[1 + len(name.split()) :]
        # Reading the line without doing it: a wrong option, value or number of arguments raises.
        assert command.make_context(name, words).params is not None


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert set(EXAMPLES) <= set(COMMANDS)


@pytest.mark.parametrize(
    "name",
    sorted(
        set(COMMANDS)
        - DO_NOT_SHOW
        - {"delete", "schema", "report"}
        - {each for each in COMMANDS if each[:5] == "bench"}
    ),
)
def test_what_is_shown_is_shown_in_every_form(name: str) -> None:
    (output,) = (param for param in COMMANDS[name].params if "-o" in param.opts)
    assert [form.value for form in output.type_descriptor.annotation] == ["table", "wide", "json", "yaml"]


@pytest.mark.parametrize("name", sorted(DESTROY))
def test_what_destroys_wants_a_yes(cli: Cli, name: str) -> None:
    assert {"--yes", "-y"} <= option_names(COMMANDS[name])
    ended = cli(*name.split(), "nobody", *(("team",) if name == "notify remove" else ()))
    assert (ended.code, ended.codes) == (2, ["HS0018"])
    assert "add --yes" in ended.err
    assert cli.bridge.requests == []


@pytest.mark.parametrize(
    "name", ["apply", "start", "pause", "resume", "promote", "abort", "set-weight", "jobs drain", "shares create"]
)
def test_what_is_audited_takes_a_reason(name: str) -> None:
    assert {"--reason", "--why"} <= option_names(COMMANDS[name])


def test_no_module_still_prints_json_alone() -> None:
    for file in (ROOT / "controlplane" / "cli").glob("*.py"):
        assert not re.search(r"\b(is_json|print_json)\b", file.read_text()), file.name


@pytest.mark.parametrize(
    "command", [("list",), ("status", "colorize", "--timeout", "0s"), ("explain", "colorize"), ("history", "colorize")]
)
def test_yaml_says_what_json_says(cli: Cli, command: tuple[str, ...]) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.roll)
    as_json, as_yaml = (cli(*command, "-o", form).out for form in ("json", "yaml"))
    assert json.loads(as_json) == json.loads(json.dumps(yaml.safe_load(as_yaml), default=str))


# -- the reference -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("book", ["cli", "codes"])
def test_the_reference_is_what_the_code_says(book: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reference", book], Surroundings()) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / f"{book}.md").read_text(), "run make docs"


def test_the_reference_has_every_command() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert [name for name in COMMANDS if f"\n## `hueshift {name}`\n" not in text] == []


# -- speed -------------------------------------------------------------------------------------------------------------

HEAVY = ("grpc", "torch", "numpy", "sqlalchemy", "fastapi", "alembic", "google.protobuf", "controlplane.wiring")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["get", "colorize"], ["__complete", "--", "get", ""], ["codes"]]
)
def test_looking_loads_no_part_of_a_server(arguments: list[str]) -> None:
    code = f"""
import sys, httpx
from controlplane.cli.main import run
from controlplane.cli.surroundings import Surroundings
answer = httpx.MockTransport(lambda _: httpx.Response(404, json={{"code": "not_found", "detail": "no"}}))
run({arguments!r}, Surroundings(environment={{"HUESHIFT_API_KEY": "x"}}, transport=answer))
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
