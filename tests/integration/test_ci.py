"""What pipelines are given, run as it is written: the steps' shell, against a real control plane over HTTP."""

import contextlib
import datetime as dt
import os
import pathlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import anyio.from_thread
import pytest
import uvicorn
import yaml

from controlplane.rollout.model import Promoted
from tests.unit.api.world import World, make_template, open_world

pytestmark = pytest.mark.integration

ROOT = pathlib.Path(__file__).parents[2]
EXPRESSION = re.compile(r"\$\{\{ inputs\.([a-z-]+) \}\}")
SUMMARY, OUTPUT = "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"


class Site:
    """A control plane that listens, a folder with documents, and a shell with the command in its path."""

    def __init__(self, world: World, portal: anyio.from_thread.BlockingPortal, url: str, folder: pathlib.Path) -> None:
        self.world = world
        self.portal = portal
        self.url = url
        self.folder = folder
        (folder / "hueshift").mkdir()
        (folder / "hueshift" / "shop.yaml").write_text((ROOT / "deploy" / "shop.yaml").read_text())

    def shell(self, script: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        here = {
            "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "HUESHIFT_VALIDATE_WITH_ENVOY": "off",
            SUMMARY: str(self.folder / "summary.md"),
            OUTPUT: str(self.folder / "output"),
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env=here | dict(environment),
            capture_output=True,
            text=True,
            check=False,
        )

    def promote(self) -> None:
        """Do what the controller would do with Envoys and traffic at hand."""

        async def move() -> None:
            rollout = await self.world.store.load_latest("shop")
            assert rollout is not None
            self.world.clock.move(dt.timedelta(minutes=5))
            await self.world.move(rollout, Promoted(self.world.clock.now(), "v2 keeps every objective"), words="100 %")

        self.portal.call(move)


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    template = make_template(tmp_path)
    folder = tmp_path / "checkout"
    folder.mkdir()
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_world(template, tmp_path)) as world,
    ):
        server = uvicorn.Server(uvicorn.Config(world.app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
        started = threading.Event()

        async def startup(sockets: Any = None) -> None:
            await uvicorn.Server.startup(server, sockets)
            started.set()

        server.startup = startup  # type: ignore[method-assign] # it tells nobody when it listens
        running = portal.start_task_soon(server.serve)
        try:
            assert started.wait(30)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield Site(world, portal, f"http://127.0.0.1:{port}", folder)
        finally:
            server.should_exit = True
            with contextlib.suppress(Exception):
                running.result(30)


def test_the_github_action_runs_as_it_is_written(site: Site) -> None:
    action = yaml.safe_load((ROOT / "deploy" / "github-action" / "action.yml").read_text())
    inputs = {name: str(one.get("default", "")) for name, one in action["inputs"].items()}
    inputs |= {"url": site.url, "api-key": site.world.key, "owner": "photos", "service": "shop", "version": "v2"}
    inputs["reason"] = '$(touch hacked) `id` "quoted"'
    ran = []
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an expression in a script is code from whoever wrote the input"
        if step["name"] == "Install":
            continue  # there is no package index here; the command is in the path
        environment = {
            name: EXPRESSION.sub(lambda found: inputs[found[1]], value) for name, value in step.get("env", {}).items()
        }
        done = site.shell(step["run"], environment)
        assert done.returncode == 0, (step["name"], done.stderr)
        ran.append(step["name"])
        if step["name"] == "Start":
            site.promote()
    assert ran == ["Lint", "Diff", "Apply", "Start", "Status", "Report"]
    output = (site.folder / "output").read_text()
    assert "+kind: Service" in output
    assert output.splitlines()[-1] == "outcome=promoted"
    summary = (site.folder / "summary.md").read_text()
    assert "## ✅ promoted: shop v1 → v2" in summary
    assert "> v2 keeps every objective" in summary
    assert "\\`id\\`" in summary
    assert not (site.folder / "hacked").exists()


def test_the_gitlab_jobs_run_as_they_are_written(site: Site) -> None:
    jobs = yaml.safe_load((ROOT / "deploy" / "gitlab" / "hueshift.yml").read_text())
    environment = {**jobs["variables"], "HUESHIFT_OWNER": "photos", "CI_COMMIT_SHORT_SHA": "abc123"}
    environment |= {"HUESHIFT_URL": site.url, "HUESHIFT_API_KEY": site.world.key}
    check = site.shell("\n".join(jobs["hueshift-check"]["script"]), environment)
    assert check.returncode == 0, check.stderr
    assert "+kind: Service" in (site.folder / "diff.txt").read_text()
    rollout = jobs["hueshift-rollout"]
    done = site.shell("\n".join(rollout["script"]), environment)
    assert done.returncode == 0, done.stderr
    environment |= {"HUESHIFT_SERVICE": "shop", "HUESHIFT_VERSION": "v2", "HUESHIFT_TIMEOUT": "0s"}
    undecided = site.shell("\n".join(rollout["script"]), environment)
    assert undecided.returncode == 2, undecided.stderr
    assert site.shell("\n".join(rollout["after_script"]), environment).returncode == 0
    assert "## ⏳ not decided: shop v1 → v2" in (site.folder / "report.md").read_text()


def test_the_hook_of_argo_cd_runs_as_it_is_written(site: Site) -> None:
    job = yaml.safe_load((ROOT / "deploy" / "argocd" / "hook.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c"]
    environment = {one["name"]: one.get("value", site.world.key) for one in container["env"]}
    environment |= {"HUESHIFT_URL": site.url, "FILES": str(site.folder / "hueshift")}
    for expected in ("Service shop created", "Service shop unchanged"):
        done = site.shell(container["args"][0], environment)
        assert (done.returncode, expected in done.stdout) == (0, True), done.stderr
    (site.folder / "hueshift" / "other.yaml").write_text(
        "apiVersion: hueshift.dev/v1\nkind: Plan\nmetadata: {name: extra}\nspec: {}\n"
    )
    assert "Plan extra created" in site.shell(container["args"][0], environment).stdout
    (site.folder / "hueshift" / "other.yaml").unlink()
    assert "Plan extra deleted" in site.shell(container["args"][0], environment).stdout
