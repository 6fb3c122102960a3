"""Message codes: every one of the catalogue is provoked here, by a real command or request; there are no others."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable

import httpx
import pytest

from controlplane.api.refusals import KINDS, OVER_QUOTA
from controlplane.api.sse import MAX_STREAMS_EACH
from controlplane.cli.examples import commands
from controlplane.cli.main import _command, run
from controlplane.codes import CATALOGUE, Level, by_slug, find_slug
from controlplane.errors import ControlPlaneError
from controlplane.ports import ClusterHealth, RevisionStatus
from controlplane.rollout.model import Baking, PauseCause, Paused, RollbackCause, RolledBack
from controlplane.rollout.quality import QualityVerdict
from tests import builders
from tests.contract.test_quality import FINE, ended
from tests.fakes import make_picky_envoy
from tests.job_builders import PHOTO, WORKFLOW
from tests.unit.api.test_jobs import finish
from tests.unit.api.test_owners import expire
from tests.unit.api.test_quality import start
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_pages import NEW, OLD, envoy, publish, queued, refused

NOW = builders.NOW
ROOT = pathlib.Path(__file__).parents[3]


class Answering(httpx.BaseTransport):
    """Gives one answer, or fails in one way."""

    def __init__(self, answer: httpx.Response | httpx.HTTPError) -> None:
        self._answer = answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        del request
        if isinstance(self._answer, httpx.HTTPError):
            raise self._answer
        return self._answer


def said(cli: Cli, *arguments: str) -> str:
    """Return all that a command says."""
    done = cli(*arguments)
    return done.out + done.said


def answered(cli: Cli, method: str, path: str, **more: object) -> str:
    """Return the code of what the API says to a request that no command makes."""
    headers = {"Authorization": f"Bearer {cli.world.key}", "Content-Type": "application/json", "If-Match": '"7"'}
    request = httpx.Request(method, f"http://hueshift.test{path}", headers=headers, **more)  # type: ignore[arg-type]
    answer = cli.bridge.handle_request(request)
    code = find_slug(answer.json()["code"])
    return "" if code is None else f"[{code.id}]"


# -- errors ------------------------------------------------------------------------------------------------------------


def failing(answer: httpx.Response | httpx.HTTPError) -> Callable[[Cli, pathlib.Path], str]:
    def provoke(cli: Cli, _: pathlib.Path) -> str:
        cli.transport = Answering(answer)
        return said(cli, "list")

    return provoke


def without_key(cli: Cli, folder: pathlib.Path) -> str:
    cli.environment.clear()
    cli.environment["HUESHIFT_DATA_DIR"] = str(folder / "none")
    return said(cli, "list")


def wrong_key(cli: Cli, _: pathlib.Path) -> str:
    cli.environment["HUESHIFT_API_KEY"] = "hs_" + "ab" * 32
    return said(cli, "list")


def of_another(cli: Cli, _: pathlib.Path) -> str:
    cli.environment["HUESHIFT_API_KEY"] = cli.do(_make_key, cli, "bob")
    cli.do(cli.world.declare)
    return said(cli, "pause", "colorize")


async def _make_key(cli: Cli, name: str) -> str:
    from controlplane.auth.keys import KeyRing  # noqa: PLC0415 - only here
    from controlplane.auth.roles import EVERY, Grant, Role  # noqa: PLC0415

    return await KeyRing(store=cli.world.store, clock=cli.world.clock).create(name, (Grant(Role.VIEWER, EVERY),))


def second_rollout(cli: Cli, _: pathlib.Path) -> str:
    cli.do(cli.world.declare)
    cli("start", "colorize", "--to", "v2")
    return said(cli, "start", "colorize", "--to", "v2")


def no_database(cli: Cli, folder: pathlib.Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUESHIFT_DATA_DIR", str(folder / "none"))
        patch.delenv("HUESHIFT_DATABASE_URL", raising=False)
        return said(cli, "keys", "list")


def crashed(cli: Cli, _: pathlib.Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.world.clock, "now", lambda: 1 / 0)
        return answered(cli, "GET", "/v1/proxies")


def too_many(cli: Cli, _: pathlib.Path) -> str:
    streams = cli.world.app.state.streams
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(streams._open, "ada", MAX_STREAMS_EACH)
        return answered(cli, "GET", "/v1/jobs/events")


def _photo(folder: pathlib.Path) -> str:
    (folder / "photo.jpg").write_bytes(PHOTO)
    return str(folder / "photo.jpg")


def over_quota(cli: Cli, folder: pathlib.Path) -> str:
    (folder / "owners.yaml").write_text("owner: ada\nmax_waiting: 0\n")
    cli("jobs", "kinds", "apply", "-f", str(ROOT / "deploy" / "kinds.yaml"))
    cli("jobs", "owners", "apply", "-f", str(folder / "owners.yaml"))
    return said(cli, "jobs", "submit", _photo(folder), "--workflow", WORKFLOW)


def expired(cli: Cli, folder: pathlib.Path) -> str:
    cli("jobs", "kinds", "apply", "-f", str(ROOT / "deploy" / "kinds.yaml"))
    job = json.loads(cli("jobs", "submit", _photo(folder), "--workflow", WORKFLOW, "-o", "json").out)["id"]
    cli.do(finish, cli.world, job)
    cli.do(expire, cli.world, job)
    return said(cli, "jobs", "result", job, "--out", str(folder / "out.png"))


def too_large(cli: Cli, _: pathlib.Path) -> str:
    cli.do(cli.world.declare)
    return said(cli, "start", "colorize", "--to", "v2", "--reason", "x" * (2 << 20))


def negative(cli: Cli, folder: pathlib.Path) -> str:
    binary = make_picky_envoy(folder, "x")
    cli.environment["HUESHIFT_ENVOY"] = str(binary)

    def fail(*_: object) -> None:
        raise ControlPlaneError("the bench is out of its bounds")

    code = run(["envoy"], dataclasses.replace(cli.surroundings(), execute=fail))
    assert code == 1
    return cli.capsys.readouterr().err


# -- services ----------------------------------------------------------------------------------------------------------


def paused(cause: PauseCause) -> Callable[[Cli, pathlib.Path], str]:
    def provoke(cli: Cli, _: pathlib.Path) -> str:
        cli.do(cli.world.declare)
        cli.do(cli.world.move, cli.do(cli.world.roll), Paused(1, NOW, cause, "so it is", next_step=1))
        return said(cli, "get", "colorize")

    return provoke


def behind(cli: Cli, _: pathlib.Path) -> str:
    cli.do(cli.world.declare)
    publish(cli, NEW)
    cli.do(cli.world.store.record_nodes, [envoy("edge-1", OLD)])
    cli.world.clock.move(builders.seconds(60))
    return said(cli, "get", "colorize")


def declared(cli: Cli, _: pathlib.Path) -> str:
    cli.do(cli.world.declare)
    return said(cli, "get", "colorize")


def refusing(cli: Cli, _: pathlib.Path) -> str:
    refused(cli)
    return said(cli, "get", "colorize")


def rejected(cli: Cli, _: pathlib.Path) -> str:
    async def reject() -> None:
        await cli.world.declare()
        await cli.world.declare(port=9090)
        await cli.world.store.mark_revisions({"colorize": 2}, RevisionStatus.REJECTED, "no such filter", now=NOW)

    cli.do(reject)
    return said(cli, "get", "colorize")


def health(healthy: int) -> Callable[[Cli, pathlib.Path], str]:
    def provoke(cli: Cli, _: pathlib.Path) -> str:
        cli.do(cli.world.declare)
        cli.do(cli.world.connect, "edge-1")
        cli.do(cli.world.report_health, ClusterHealth("edge-1", "colorize_v1", healthy, 2))
        return said(cli, "get", "colorize")

    return provoke


def other_model(cli: Cli, _: pathlib.Path) -> str:
    async def declare() -> None:
        await cli.world.store.apply(builders.pinned(builders.make_spec()), by="ada", why="", now=NOW)
        await cli.world.store.record_models([builders.make_report(pin=builders.make_pin(digit="b"))])

    cli.do(declare)
    return said(cli, "get", "colorize")


def pictures(verdict: QualityVerdict) -> Callable[[Cli, pathlib.Path], str]:
    async def compare(cli: Cli) -> None:
        rollout = await start(cli.world)
        compared = dataclasses.replace(FINE, verdict=verdict, sentence="hues turned")
        made = ended(await cli.world.store.begin_quality_run(rollout.id, now=NOW), compared)
        await cli.world.store.end_quality_run(rollout.id, made, compared)

    def provoke(cli: Cli, _: pathlib.Path) -> str:
        cli.do(compare, cli)
        return said(cli, "explain", "colorize")

    return provoke


def rolled_back(cli: Cli, _: pathlib.Path) -> str:
    cli.do(cli.world.declare)
    cli.do(cli.world.move, cli.do(cli.world.roll), RolledBack(NOW, RollbackCause.SLO_BREACH, "20 % errors"))
    return said(cli, "get", "colorize")


def waiting(cli: Cli, _: pathlib.Path) -> str:
    cli.do(cli.world.declare)
    cli.do(cli.world.roll)
    cli("pause", "colorize")
    return said(cli, "explain", "colorize")


def no_traffic(cli: Cli, _: pathlib.Path) -> str:
    cli.do(cli.world.declare)
    cli.do(cli.world.connect, "edge-1")
    cli.do(cli.world.move, cli.do(cli.world.roll), Baking(1, NOW))
    for second in range(1, 13):
        batch = builders.make_batch("one", tick=builders.TICK + second, colorize_v1=builders.make_counts(75))
        cli.do(cli.world.store.record, batch)
    cli.world.clock.move(builders.seconds(12))
    return said(cli, "get", "colorize")


def _queued(cli: Cli) -> str:
    queued(cli)
    return said(cli, "get", "colorize")


PROVOKED: dict[str, Callable[[Cli, pathlib.Path], str]] = {
    "HS0001": lambda cli, _: said(cli, "explode"),
    "HS0002": lambda cli, _: said(cli, "set-weight", "colorize", "v1"),
    "HS0003": failing(httpx.ConnectError("[Errno 111] Connection refused")),
    "HS0004": failing(httpx.Response(502, text="<html>Bad Gateway</html>")),
    "HS0005": without_key,
    "HS0006": wrong_key,
    "HS0007": of_another,
    "HS0008": lambda cli, _: said(cli, "get", "nothing"),
    "HS0009": second_rollout,
    "HS0010": no_database,
    "HS0011": crashed,
    "HS0012": too_many,
    "HS0013": over_quota,
    "HS0014": expired,
    "HS0015": too_large,
    "HS0016": failing(httpx.ReadTimeout("slow")),
    "HS0017": negative,
    "HS0018": lambda cli, _: said(cli, "jobs", "delete", "x"),
    "HS0019": lambda cli, _: answered(cli, "POST", "/v1/services/colorize/rollouts", content=b"\xff"),
    "HS0020": lambda cli, _: answered(cli, "DELETE", "/v1/proxies"),
    "HS0021": lambda cli, _: answered(cli, "PUT", "/v1/job-owners/ada", content=b'{"owner": "ada"}'),
    "HS0101": paused(PauseCause.GATE),
    "HS0102": paused(PauseCause.OPERATOR),
    "HS0103": paused(PauseCause.INCONCLUSIVE),
    "HS0104": paused(PauseCause.NACK),
    "HS0105": paused(PauseCause.TELEMETRY_LOST),
    "HS0106": paused(PauseCause.BREACH),
    "HS0107": behind,
    "HS0108": declared,
    "HS0109": refusing,
    "HS0110": rejected,
    "HS0111": health(0),
    "HS0112": health(1),
    "HS0113": other_model,
    "HS0114": pictures(QualityVerdict.BLOCK),
    "HS0115": pictures(QualityVerdict.DRIFT),
    "HS0116": rolled_back,
    "HS0117": waiting,
    "HS0118": no_traffic,
    "HS0119": lambda cli, _: _queued(cli),
    "HS0120": lambda cli, _: _queued(cli),
    "HS0301": lambda cli, _: said(cli, "lint", "-f", str(ROOT / "deploy" / "colorize.yaml")),
}


def test_every_code_is_provoked_and_no_other() -> None:
    assert set(PROVOKED) == set(CATALOGUE)


@pytest.mark.parametrize("code", PROVOKED)
def test_a_code_is_said(cli: Cli, tmp_path: pathlib.Path, code: str) -> None:
    told = PROVOKED[code](cli, tmp_path)
    assert f"[{code}]" in told, told
    assert set(re.findall(r"HS\d{4}", told)) <= set(CATALOGUE)


def test_an_error_ends_with_the_command_that_mends_it_and_its_code(cli: Cli) -> None:
    assert cli("get", "nothing").said == (
        "hueshift: service 'nothing' does not exist (there is none yet); run: hueshift list [HS0008]\n"
    )
    # A message that names a command itself needs no other.
    assert cli("explode").said == "hueshift: No such command 'explode'; see hueshift --help [HS0001]\n"


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_entry_is_whole_and_its_command_can_be_typed(code: str) -> None:
    entry = CATALOGUE[code]
    assert re.fullmatch(r"HS\d{4}", entry.id)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", entry.slug)
    assert by_slug(entry.slug) is entry
    assert entry.title[0].isupper()
    assert not entry.title.endswith(".")
    assert entry.meaning.endswith(".")
    assert entry.id == code
    run_it = entry.run.format(service="colorize", subject="edge-1")
    if run_it.startswith("hueshift "):
        words = run_it.split()[1:]
        assert words[0] == "--help" or words[0] in {name.split()[0] for name, _ in commands(_command())}


def test_every_problem_of_the_api_is_in_the_catalogue() -> None:
    assert [kind.code for kind in (*KINDS.values(), OVER_QUOTA) if find_slug(kind.code) is None] == []


def test_a_code_can_be_looked_up_without_a_server(cli: Cli) -> None:
    page = cli("codes", "hs0107").out
    assert (
        page.splitlines()[0] == "HS0107  An Envoy has not acknowledged the newest configuration  (Warn, fleet_behind)"
    )
    assert "Run:  hueshift proxy NODE diff" in page
    assert cli("codes", "HS0107", "-o", "yaml").out.startswith("code: HS0107\nname: fleet_behind\n")
    assert [each["code"] for each in json.loads(cli("codes", "-o", "json").out)] == list(CATALOGUE)
    assert cli("codes").out.count("\n") == len(CATALOGUE) + 1
    unknown = cli("codes", "HS9107")
    assert (unknown.code, unknown.codes) == (4, ["HS0008"])
    assert "HS0107" in unknown.err
    assert cli.bridge.requests == []


def test_levels_sort_what_is_broken_first(cli: Cli) -> None:
    refused(cli)
    levels = [each["level"] for each in json.loads(cli("get", "colorize", "-o", "json").out)["advice"]]
    assert levels == sorted(levels, key=[level.value for level in Level].index)
    assert levels[0] == "Error"
