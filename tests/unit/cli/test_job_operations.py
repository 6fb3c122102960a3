"""`hueshift jobs` for whoever runs them, against the real API; pages as they are printed on 80 columns."""

import datetime as dt
import json

import httpx
import pytest
from rich.console import Console, RenderableType

from controlplane.api.job_figures import AttemptView, FiguresView, LettersView, QueuesView
from controlplane.api.job_schemas import JobView
from controlplane.cli import job_pages
from controlplane.jobs.model import JobId, photo_key
from tests.builders import NOW
from tests.job_builders import WORKFLOW
from tests.unit.api.test_job_operations import add_attempt, bury
from tests.unit.api.test_jobs import KIND, finish
from tests.unit.api.world import World
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_jobs import KINDS, photo, submit

__all__ = ["photo"]  # a fixture

ID = "0123456789abcdef0123456789abcdef"


def on_80_columns(page: RenderableType) -> str:
    console = Console(width=80, highlight=False, markup=False, emoji=False, no_color=True)
    with console.capture() as captured:
        console.print(page)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@pytest.fixture
def dead(cli: Cli, photo: str) -> list[str]:
    """Three dead jobs, of two reasons."""
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    made = [submit(cli, photo) for _ in range(3)]
    for job, words in zip(made, ("422: in colour", "500 (failed 3 times)", "422: in colour"), strict=True):
        cli.do(bury, cli.world, job, words)
    return made


# -- one job -----------------------------------------------------------------------------------------------------------


def test_show_has_everything_and_get_stays_one_line(cli: Cli, photo: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    job = submit(cli, photo, "--task-id", "7f3a")
    assert "0 attempts, none of which has ended" in cli("jobs", "show", job).out
    cli.do(finish, cli.world, job)
    cli.do(add_attempt, cli.world, job, version="v2", outcome="done", words="")
    shown = cli("jobs", "show", job).out
    for words in (f"job {job} is done", "Task:", "7f3a", "v2", "2.50", "image/png", "Waited:", "0.00 s"):
        assert words in shown
    found = json.loads(cli("jobs", "show", job, "-o", "json").out)
    assert (found["state"], found["attempts_made"][0]["outcome"]) == ("done", "done")
    assert cli("jobs", "get", job).out == f"job {job} (7f3a) is done\n"
    assert cli("jobs", "show", "0" * 32).code == 4


def test_a_jobs_page_on_80_columns() -> None:
    job = JobView(
        id=ID,
        task_id="7f3a",
        kind="person",
        workflow_type=WORKFLOW,
        model="ddcolor-imagenet",
        size=640,
        priority="normal",
        state="dead",
        attempts=2,
        words="422: in\x1b[2J colour",
        version="",
        photo={"media_type": "image/jpeg", "size_bytes": 123456, "sha256": "ab" * 32},
        result=None,
        submitted_at=NOW,
        started_at=NOW + dt.timedelta(seconds=7),
        finished_at=NOW + dt.timedelta(seconds=9.25),
        wait_s=2.5,
        run_s=2.25,
        expires_at=None,
    )
    attempts = [
        AttemptView(
            attempt=number,
            version=version,
            outcome=outcome,
            words=words,
            started_at=NOW + dt.timedelta(seconds=5 * number - 2.5),
            ended_at=NOW,
            seconds=1.5 * number,
        )
        for number, version, outcome, words in ((1, "", "away", "503: no room"), (2, "v2", "refused", "422: in colour"))
    ]
    assert (
        on_80_columns(job_pages.job_page(job, attempts))
        == f"""\
job {ID} is dead: 422: in [2J colour
Task:       7f3a
Kind:       person ({WORKFLOW})
Asked for:  ddcolor-imagenet, 640 px, priority normal
Submitted:  2026-11-22 12:30:15
Waited:     2.50 s
Started:    2026-11-22 12:30:22
Ended:      2026-11-22 12:30:24
Ran:        2.25 s
Photo:      image/jpeg, 123456 bytes, sha256 abababababab…
Result:     -

ATTEMPT  STARTED   SECONDS  VERSION  OUTCOME  WORDS
1        12:30:17  1.50     -        away     503: no room
2        12:30:22  3.00     v2       refused  422: in colour"""
    )


# -- another chance ----------------------------------------------------------------------------------------------------


def test_dead_jobs_run_again_by_name_however_often(cli: Cli, dead: list[str]) -> None:
    for _ in range(2):
        ended = cli("jobs", "retry", dead[0], dead[1])
        assert (ended.code, ended.out.splitlines()) == (
            0,
            [f"job {dead[0]} is waiting", f"job {dead[1]} is waiting", "2 run again, 0 cannot"],
        )
    assert f"job {dead[0]} " in cli("jobs", "get", dead[0]).out


def test_all_dead_ones_of_a_kind_and_a_while_run_again_and_what_cannot_is_said(cli: Cli, dead: list[str]) -> None:
    cli.world.clock.move(dt.timedelta(hours=3))
    assert cli("jobs", "retry", "--state", "dead", "--since", "2h").out == "you have no such jobs\n"
    assert cli("jobs", "retry", "--state", "dead", "--kind", "building").out == "you have no such jobs\n"
    cli.do(cli.world.blobs.delete_blob, photo_key(JobId(dead[2])))
    ended = cli("jobs", "retry", "--state", "dead", "--kind", "person", "--since", "4h")
    assert ended.code == 4
    assert ended.out.splitlines() == [
        f"job {dead[2]} cannot be run again: its photo is gone; hand the photo in anew",
        f"job {dead[1]} is waiting",
        f"job {dead[0]} is waiting",
        "2 run again, 1 cannot",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "ID: or --state is needed, one of them"),
        ((ID, "--state", "dead"), "ID: or --state is needed, one of them"),
        (("--state", "done"), "--state: 'done' cannot be run again; use dead or cancelled"),
        ((ID, "--kind", "person"), "--kind and --since: choose among all jobs of a --state"),
        (("--state", "dead", "--since", "2"), "--since: 2 has no unit; write 2s or 2ms"),
    ],
)
def test_a_retry_that_makes_no_sense_asks_nobody(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    ended = cli("jobs", "retry", *arguments)
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert words in ended.err
    assert cli.bridge.requests == []


def test_dead_letters_are_listed_by_reason(cli: Cli, dead: list[str]) -> None:
    lines = cli("jobs", "dead-letters").out.splitlines()
    assert lines[0] == "3 dead, 2 reasons"
    assert lines[1] == "2 x 422: in colour"
    assert lines[2].startswith(f"  {dead[2]}  person")
    assert lines[4] == "1 x 500 (failed 3 times)"
    assert len(json.loads(cli("jobs", "dead-letters", "-o", "json").out)) == 3
    assert cli("jobs", "dead-letters", "--kind", "building").out == "you have no such jobs\n"


def test_more_dead_jobs_than_a_page_are_all_found(cli: Cli, dead: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.cli.job_operations.PAGE", 2)
    assert len(json.loads(cli("jobs", "dead-letters", "-o", "json").out)) == len(dead)


# -- queues and drains -------------------------------------------------------------------------------------------------


def test_a_drain_waits_until_none_runs_and_is_seen_wherever_kinds_are(cli: Cli, photo: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    running, waiting = submit(cli, photo), submit(cli, photo)
    claim(cli, running)
    cli.later(cli.world.store.cancel_job, JobId(running), owner="ada", now=NOW)
    ended = cli("jobs", "drain", "--kind", "person", "--reason", "new disks")
    assert (ended.code, ended.out.splitlines()) == (
        0,
        ["no jobs of person are started now", "1 still run", "none runs any more"],
    )
    listed = [line.split()[-1] for line in cli("jobs", "kinds").out.splitlines()[1:]]
    assert listed == ["yes", "drained", "yes"]
    queues = cli("jobs", "queues").out
    assert "drained: person since" in queues
    assert "by ada: new disks" in queues
    assert submit(cli, photo), "what is submitted waits"
    assert cli("jobs", "drain", "--no-wait").out == "no jobs of any kind are started now\n"
    refused = cli("jobs", "drain", "--kind", "person", "--off")
    assert (refused.code, "all kinds are drained" in refused.err) == (4, True)
    assert cli("jobs", "drain", "--off").out == "jobs of any kind are started\n"
    claim(cli, waiting)
    assert cli("jobs", "drain", "--kind", "nothing").code == 4


def claim(cli: Cli, job: str) -> None:
    assert cli.do(cli.world.store.claim_job, JobId(job), holder="test", until=NOW, now=NOW) is not None


def test_a_restart_does_not_end_the_wait(cli: Cli, photo: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    running = submit(cli, photo)
    claim(cli, running)
    bridge = cli.bridge

    class Away(httpx.BaseTransport):
        turns = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.turns += 1
            if self.turns in {3, 4}:
                raise httpx.ConnectError("refused")
            return bridge.handle_request(request)

    cli.transport = Away()
    cli.later(lambda: cli.world.store.load_job(JobId(running)))
    cli.later(lambda: cli.world.store.load_job(JobId(running)))
    cli.later(cli.world.store.cancel_job, JobId(running), owner="ada", now=NOW)
    ended = cli("jobs", "drain")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "none runs any more")


def test_queues_are_for_operators(cli: Cli, photo: str) -> None:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    submit(cli, photo)
    assert json.loads(cli("jobs", "queues", "-o", "json").out)["outbox"] == 1
    cli.environment["HUESHIFT_API_KEY"] = cli.do(make_key, cli.world)
    for command in (("queues",), ("drain",)):
        ended = cli("jobs", *command)
        assert (ended.code, len(ended.lines)) == (4, 1)
        assert "hueshift keys grant bob --role operator" in ended.err


async def make_key(world: World) -> str:
    from controlplane.auth.keys import KeyRing  # noqa: PLC0415 - of this one
    from controlplane.auth.roles import READS_ALL  # noqa: PLC0415

    return await KeyRing(store=world.store, clock=world.clock).create("bob", (READS_ALL,))


def test_queues_on_80_columns() -> None:
    found = QueuesView.model_validate(
        {
            "queues": [
                {
                    "queue": "photos",
                    "kinds": ["building", "person"],
                    "drained": ["person"],
                    "waiting": 12345,
                    "running": 4,
                    "dead": 3,
                    "oldest_s": 7300.0,
                }
            ],
            "outbox": 2,
            "drains": [
                {
                    "kind": "person",
                    "began_at": NOW,
                    "began_by": "ops",
                    "began_why": "new disks",
                    "ended_at": None,
                    "ended_by": "",
                    "ended_why": "",
                }
            ],
            "dead_letters": {"count": 100, "more": True, "reasons": [{"words": "422: in colour", "count": 100}]},
            "dead_tasks": {"count": 1, "more": False, "reasons": [{"words": "body: is not JSON", "count": 1}]},
            "trouble": "",
        }
    )
    assert (
        on_80_columns(job_pages.queues_page(found))
        == """\
QUEUE   KINDS             WAITING  OLDEST  RUNNING  DEAD  STARTS
photos  building, person  12345    2h      4        3     not person
outbox: 2 due and not in the queue yet
drained: person since 2026-11-22 12:30:15 by ops: new disks
dead letters: 100 or more
  100 x 422: in colour
refused tasks: 1
  1 x body: is not JSON"""
    )
    nothing = LettersView(count=0, more=False, reasons=[])
    away = found.model_copy(update={"trouble": "the broker is away", "dead_letters": nothing})
    assert on_80_columns(job_pages.queues_page(away)).splitlines()[-1] == "dead letters: the broker is away"


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_shown_by_version_and_to_programs(cli: Cli, photo: str) -> None:
    assert cli("jobs", "figures").out == "there are no kinds yet\n"
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    job = submit(cli, photo)
    cli.do(finish, cli.world, job)
    cli.do(add_attempt, cli.world, job, version="v2", outcome="done")
    cli.world.clock.move(dt.timedelta(minutes=1))
    shown = cli("jobs", "figures", "--since", "10m", "--kind", "person").out
    assert shown.splitlines()[0] == "person, last 10m: 1 came in, 1 done, 0 dead, 0 cancelled"
    assert "  v2       1     0     100%     1         100%" in shown
    assert json.loads(cli("jobs", "figures", "-o", "json").out)["kinds"][1]["versions"][0]["version"] == "v2"
    assert cli("jobs", "figures", "--since", "1y").code == 2
    assert cli("jobs", "figures", "--kind", "nothing").code == 4


def test_figures_on_80_columns() -> None:
    def line(done: int, dead: int, failed: int, run: float) -> dict[str, object]:
        return {
            "done": done,
            "dead": dead,
            "job_share": done / (done + dead),
            "attempts": {"done": done, "failed": failed},
            "attempt_share": done / (done + failed),
            "wait": {"count": done, "p50_s": 1.25, "p95_s": 75.0},
            "run": {"count": done, "p50_s": run, "p95_s": 4 * run},
        }

    nobody = {
        **line(0, 1, 2, 1),
        "run": {"count": 0, "p50_s": None, "p95_s": None},
        "wait": {"count": 0, "p50_s": None, "p95_s": None},
        "version": "",
    }
    person = {
        **line(19995, 5, 30, 0.45),
        "kind": KIND["kind"],
        "enqueued": 20500,
        "cancelled": 3,
        "now": {"waiting": 497, "running": 4, "oldest_s": 93.0},
        "versions": [
            {**line(15000, 2, 10, 0.42), "version": "v1"},
            {**line(4995, 2, 18, 250.0), "version": "v2-rc.11"},
            nobody,
        ],
    }
    found = FiguresView.model_validate({"since": NOW, "until": NOW, "kinds": [person]})
    assert (
        on_80_columns(job_pages.figures_page(found, "1h"))
        == """\
person, last 1h: 20500 came in, 19995 done, 5 dead, 3 cancelled
now: 497 wait (the oldest 93s), 4 run
  VERSION   DONE   DEAD  JOBS OK  ATTEMPTS  OK     WAIT p50/p95  RUN p50/p95
  v1        15000  2     99.9%    15010     99.9%  1.2s/75s      0.42s/1.7s
  v2-rc.11  4995   2     99.9%    5013      99.6%  1.2s/75s      250s/16m
  (nobody)  0      1     0%       2         0%     -             -
  all       19995  5     99.9%    20025     99.8%  1.2s/75s      0.45s/1.8s"""
    )
