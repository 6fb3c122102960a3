"""Completion: what may come next, names that the control plane knows, and silence whenever it does not answer."""

import pathlib
import shutil
import subprocess
import sys

import httpx
import pytest

from controlplane.cli.completion import Shell
from tests.unit.cli.conftest import Cli


def completed(cli: Cli, *words: str) -> list[str]:
    ended = cli("__complete", "--", *words)
    assert (ended.code, ended.said) == (0, "")
    return ended.out.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("pro",), ["promote", "proxies", "proxy"]),
        (("jobs", "kinds", ""), ["apply"]),
        (("get", "x", "--wa"), ["--watch"]),
        (("get", "x", "-o", ""), ["table", "wide", "json", "yaml"]),
        (("get", "x", "--output=j"), ["--output=json"]),
        (("--url", "http://x", "lis"), ["list"]),
        (("proxies", "--state", "n"), ["nacked", "not-sent"]),
        (("proxy", "edge-1", "r"), ["routes"]),
        (("codes", "HS000"), [f"HS000{number}" for number in range(1, 10)]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("apply", "-f", "dep"), []),
        (("list", "more"), []),
        (("explode", ""), None),
        (("",), None),
    ],
)
def test_words_that_the_command_line_knows(cli: Cli, words: tuple[str, ...], expected: list[str] | None) -> None:
    found = completed(cli, *words)
    assert found == expected if expected is not None else "get" in found
    assert "__complete" not in found
    assert cli.bridge.requests == []


def test_names_that_the_control_plane_knows(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.declare, name="style", port=9090)
    cli.do(cli.world.connect, "edge-1", "edge-2")
    assert completed(cli, "get", "") == ["colorize", "style"]
    assert completed(cli, "start", "col") == ["colorize"]
    assert completed(cli, "start", "colorize", "--to", "") == ["v1", "v2"]
    assert completed(cli, "start", "colorize", "--from", "v2") == ["v2"]
    assert completed(cli, "start", "--to", "") == []
    assert completed(cli, "proxy", "") == ["edge-1", "edge-2"]
    assert completed(cli, "quality", "compare", "--service", "st") == ["style"]
    assert completed(cli, "keys", "create", "") == []


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        RuntimeError("a bug"),
        httpx.Response(200, text="<html>"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_whatever_goes_wrong_completes_to_nothing(cli: Cli, failure: Exception | httpx.Response) -> None:
    class Failing(httpx.BaseTransport):
        """Fails."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert max(request.extensions["timeout"].values()) <= 1
            if isinstance(failure, Exception):
                raise failure
            return failure

    cli.transport = Failing()
    assert completed(cli, "get", "") == []
    cli.environment["HUESHIFT_URL"] = "nonsense"
    assert completed(cli, "get", "") == []


def test_other_shells_are_told_what_a_word_is(cli: Cli) -> None:
    assert "colorize\tpreparing" in _with_form(cli, "tab")
    assert "colorize:preparing" in _with_form(cli, "colon")


def _with_form(cli: Cli, form: str) -> list[str]:
    if not cli.do(cli.world.store.list_services):
        cli.do(cli.world.declare)
        cli.do(cli.world.roll)
    return cli("__complete", "--form", form, "--", "get", "").out.splitlines()


@pytest.mark.parametrize("shell", Shell)
def test_a_script_is_printed_for_each_shell(cli: Cli, shell: Shell) -> None:
    script = cli("completion", shell.value).out
    assert "hueshift __complete" in script
    assert f"hueshift completion {shell.value}" in script


def test_bash_completes_by_the_script(cli: Cli, tmp_path: pathlib.Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None, "install the package bash"
    program = tmp_path / "hueshift"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m controlplane "$@"\n')
    program.chmod(0o755)
    script = cli("completion", "bash").out + (
        "COMP_WORDS=(hueshift proxies --state n); COMP_CWORD=3; _hueshift_complete; echo ${COMPREPLY[@]}\n"
    )
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HUESHIFT_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [bash, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=pathlib.Path(__file__).parents[3],
    )
    assert (done.stdout, done.stderr) == ("nacked not-sent\n", "")
