"""The tutorial's commands, as a newcomer would paste them: verbatim, in one shell, against everything real.

They use the documented ports, so they run in a network of their own; and in a folder whose `var/` is its own.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = pathlib.Path(__file__).parents[2]
OWN = {"var", ".git"}
AT_MOST_S = 420
CLOSED = ("HUESHIFT_", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "MAKEFLAGS", "MAKELEVEL")


def commands_of(document: str) -> str:
    """Return what its blocks of shell commands say, in order."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", document, re.DOTALL))


def make_clone(folder: pathlib.Path) -> pathlib.Path:
    """Lay out what a clone has, with a place of its own for what the commands write."""
    clone = folder / "clone"
    clone.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in OWN:
            (clone / entry.name).symlink_to(entry)
    return clone


def isolation() -> list[str]:
    """Return what runs a command in a network with nothing but loopback.

    Skips where the machine does not allow it.
    """
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("networks of one's own are missing: install util-linux and iproute2")
    words = ["unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    if subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no networks of one's own: run as root, or allow user namespaces (unshare)")
    return words


def test_the_tutorial_does_what_it_says(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "tutorial.sh"
    script.write_text("set -e\nip link set lo up\n" + commands_of((ROOT / "docs/tutorial.md").read_text("utf-8")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(CLOSED)}
    with subprocess.Popen(
        [*isolation(), "bash", str(script)],
        cwd=make_clone(tmp_path),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=AT_MOST_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # whatever the last commands did not end
    assert shell.returncode == 0, said
    assert re.search(r"v1 → v2 ✔ promoted", said), said
    assert re.search(r"v2 → v3 .*rolled back", said), said
    assert "exit code 1: rolled back" in said, said
    picture = tmp_path / "clone/var/tutorial/coloured.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
