"""`hueshift batch` against the real API: what is coloured, what is skipped, and what it says of the rest."""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable

import httpx
import pytest

from controlplane.cli.batch_journal import NAME, PART
from controlplane.jobs.model import JobId, result_key
from tests.job_builders import PHOTO, PNG, WORKFLOW
from tests.small_pictures import make_png
from tests.unit.api.test_job_operations import bury
from tests.unit.api.test_jobs import finish
from tests.unit.cli.conftest import Cli, Ended
from tests.unit.cli.test_jobs import KINDS


@dataclasses.dataclass
class Fleet(httpx.BaseTransport):
    """The way to the API, behind which jobs are coloured as soon as they are handed in, or as a test says."""

    cli: Cli
    inner: httpx.BaseTransport
    work: Callable[[str], object] | None = None
    answers: list[httpx.Response | httpx.HTTPError] = dataclasses.field(default_factory=list)
    """Given instead, to uploads, before anything else."""
    uploads: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        uploads = request.method == "POST" and request.url.path == "/v1/jobs"
        if uploads and self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, httpx.HTTPError):
                raise answer
            return answer
        answer = self.inner.handle_request(request)
        if uploads and answer.status_code == 202:
            job = json.loads(answer.content)
            self.uploads[job["task_id"]] += 1
            if job["state"] == "waiting":
                (self.work or self.colour)(job["id"])
        return answer

    def colour(self, job: str) -> None:
        self.cli.do(finish, self.cli.world, job)


@pytest.fixture
def fleet(cli: Cli) -> Fleet:
    cli("jobs", "kinds", "apply", "-f", str(KINDS))
    fleet = Fleet(cli, cli.bridge)
    cli.transport = fleet
    return fleet


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three photos, a note, and a folder with one more."""
    made = tmp_path / "photos"
    (made / "old").mkdir(parents=True)
    for name in ("a.jpg", "b.JPEG", "c.png", "old/a.jpg"):
        (made / name).write_bytes(make_png(name.encode()))
    (made / "notes.txt").write_text("none")
    (made / ".hidden.jpg").write_bytes(PHOTO)
    return made


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "results" / "coloured"


def batch(cli: Cli, folder: pathlib.Path, out: pathlib.Path, *options: str, workflow: str = WORKFLOW) -> Ended:
    return cli("batch", str(folder), "--out", str(out), "--workflow", workflow, "--parallel", "1", *options)


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_coloured_once_and_the_same_command_again_skips_all(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    ended = batch(cli, folder, out)
    assert (ended.code, ended.err) == (0, "")
    assert sorted(ended.out.splitlines()) == [
        "3 coloured, 0 there already, 0 failed, 1 other files left alone",
        "a.jpg: a.png, by v2",
        "b.JPEG: b.png, by v2",
        "c.png: c.png, by v2",
    ]
    assert names(out) == [NAME, "a.png", "b.png", "c.png"]
    assert (out / "a.png").read_bytes() == PNG
    asked = len(cli.bridge.requests)
    ended = batch(cli, folder, out)
    assert (ended.code, ended.out.splitlines()[-1]) == (
        0,
        "0 coloured, 3 there already, 0 failed, 1 other files left alone",
    )
    assert len(cli.bridge.requests) == asked + 1, "only the kinds were asked for"
    assert max(fleet.uploads.values()) == 1


def test_folders_below_keep_their_place(cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path) -> None:
    del fleet
    assert batch(cli, folder, out, "--recursive").code == 0
    assert names(out) == [NAME, "a.png", "b.png", "c.png", "old/a.png"]


def test_equal_photos_are_one_job_and_other_options_another(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    for path in folder.glob("*.*"):
        path.write_bytes(PHOTO)
    assert batch(cli, folder, out).code == 0
    assert len(fleet.uploads) == 1
    assert batch(cli, folder, out, "--size", "500").out.splitlines()[-1].startswith("3 coloured, 0 there already")
    assert len(fleet.uploads) == 2
    named = cli("batch", str(folder), "--out", str(out.parent / "other"), "--workflow", WORKFLOW, "--size", "500")
    assert named.code == 0
    assert len(fleet.uploads) == 2, "another folder, the same jobs"


def test_a_result_that_is_not_as_it_was_written_is_fetched_again(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    batch(cli, folder, out)
    (out / "a.png").write_bytes(b"half of")
    (out / "b.png").unlink()
    ended = batch(cli, folder, out)
    assert ended.out.splitlines()[-1].startswith("2 coloured, 1 there already, 0 failed")
    assert (out / "a.png").read_bytes() == (out / "b.png").read_bytes() == PNG
    assert max(fleet.uploads.values()) == 1


@pytest.mark.parametrize("torn", [b'{"name": "c.png", "ta', b"", b"\x00\xff"])
def test_whatever_a_kill_left_behind_the_same_command_goes_on(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path, torn: bytes
) -> None:
    batch(cli, folder, out)
    journal = out / NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + torn)
    (out / "c.png").unlink()
    (out / f"{PART}123").write_bytes(b"half of")
    ended = batch(cli, folder, out)
    assert ended.out.splitlines()[-1].startswith("1 coloured, 2 there already, 0 failed")
    assert names(out) == [NAME, "a.png", "b.png", "c.png"]
    assert batch(cli, folder, out).out.splitlines()[-1].startswith("0 coloured, 3 there already")
    assert sum(fleet.uploads.values()) == 4, "one photo was sent again, and known again"


def test_what_fails_is_listed_with_its_reason_and_run_again_when_asked(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    fleet.work = lambda job: cli.do(bury, cli.world, job, "422: in colour")
    (folder / "b.JPEG").write_bytes(b"GIF89a no photo")
    (folder / "c.png").unlink()
    (folder / "c.png").symlink_to(folder / "nowhere")
    ended = batch(cli, folder, out)
    assert ended.code == 1
    assert ended.out.splitlines()[-5:-1] == [
        "0 coloured, 0 there already, 3 failed, 1 other files left alone",
        "  a.jpg: failed: 422: in colour",
        "  b.JPEG: failed: image: is a GIF, not a photo that workers read; send a JPEG, PNG, WebP, TIFF or BMP",
        "  c.png: failed: it cannot be read (No such file or directory); make it readable",
    ]
    assert ended.out.splitlines()[-1] == "run those again that died with: --retry-failed"
    assert batch(cli, folder, out).code == 1, "the same again is the same"
    assert sum(fleet.uploads.values()) == 1
    fleet.work = None
    retried: list[str] = []
    cli.later(lambda: finish_once(cli, retried))
    ended = batch(cli, folder, out, "--retry-failed")
    assert "a.jpg: a.png, by v2" in ended.out
    assert sum(fleet.uploads.values()) == 1


async def finish_once(cli: Cli, retried: list[str]) -> None:
    (job,) = await cli.world.store.list_jobs("ada")
    retried.append(job.id)
    now = cli.world.clock.now()
    claimed = await cli.world.store.claim_job(job.id, holder="test", until=now, now=now)
    assert claimed is not None
    from controlplane.jobs.model import Claim  # noqa: PLC0415 - of this one
    from tests.job_builders import make_picture  # noqa: PLC0415

    key = result_key(job.id, claimed.attempts)
    await cli.world.blobs.put_blob(key, PNG)
    assert await cli.world.store.finish_job(
        Claim(job.id, claimed.attempts), make_picture(key, PNG), version="v2", now=now
    )


def test_a_job_that_is_gone_is_replaced_only_when_asked(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    batch(cli, folder, out)
    (job,) = [job for job in cli.do(cli.world.store.list_jobs, "ada") if job.photo.sha256 == sha256(folder / "a.jpg")]
    cli.do(cli.world.store.delete_job, JobId(job.id), owner="ada", now=cli.world.clock.now())
    (out / "a.png").unlink()
    ended = batch(cli, folder, out)
    assert ended.code == 1
    assert "was used for a job that was deleted" in ended.out
    assert batch(cli, folder, out, "--retry-failed").code == 0
    assert (out / "a.png").read_bytes() == PNG
    assert f"{job.task_id}-2" in fleet.uploads


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- what is in the way ------------------------------------------------------------------------------------------------


def test_quotas_and_restarts_are_waited_for(cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path) -> None:
    over = {"code": "over_quota", "detail": "max_waiting: 10 jobs wait already; wait"}
    begun = cli.world.clock.steady()
    fleet.answers = [
        httpx.Response(429, json=over, headers={"Retry-After": "7"}),
        httpx.Response(429, json=over),
        httpx.ConnectError("refused"),
        httpx.Response(503, json={"code": "x", "detail": "16 photos are being read"}, headers={"Retry-After": "2"}),
        httpx.Response(502, text="<html>"),
    ]
    ended = batch(cli, folder, out)
    assert ended.code == 0
    assert [line for line in ended.out.splitlines() if line.startswith("waits: ")] == [
        "waits: max_waiting: 10 jobs wait already; wait",
        "waits: cannot reach http://127.0.0.1:8000 (refused); start it with `hueshift serve`, or set HUESHIFT_URL",
        "waits: 16 photos are being read",
        "waits: http://127.0.0.1:8000 answered 502 Bad Gateway; check HUESHIFT_URL",
    ]
    assert cli.world.clock.steady() - begun >= 7 + 10 + 1 + 2


def test_a_control_plane_that_stays_away_ends_it_with_3(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    fleet.answers = [httpx.ConnectError("refused")] * 1000
    ended = batch(cli, folder, out)
    assert (ended.code, len(ended.lines)) == (3, 1)
    fleet.answers = []
    assert batch(cli, folder, out).code == 0


def test_a_key_that_is_not_accepted_ends_it_at_once(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    refused = httpx.Response(401, json={"code": "unauthorized", "detail": "the API key is not known or was revoked"})
    fleet.answers = [refused] * 100
    ended = batch(cli, folder, out)
    assert (ended.code, ended.lines) == (4, ["hueshift: the API key is not known or was revoked"])
    assert len(fleet.answers) >= 97


def test_an_interrupt_stops_it_and_the_same_command_goes_on(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del fleet
    first: list[object] = []

    def interrupted(ending: object) -> None:
        if first:
            raise KeyboardInterrupt
        first.append(ending)

    with monkeypatch.context() as patched:
        patched.setattr("controlplane.cli.batch._print_line", interrupted)
        ended = batch(cli, folder, out)
    assert (ended.code, ended.lines) == (130, ["stopped after 2 of 3; the same command goes on"])
    assert batch(cli, folder, out).code == 0


def test_two_batches_do_not_write_to_one_folder(
    cli: Cli, fleet: Fleet, folder: pathlib.Path, out: pathlib.Path
) -> None:
    inner: list[Ended] = []

    def meanwhile(job: str) -> None:
        if not inner:
            inner.append(batch(cli, folder, out))
        fleet.colour(job)

    fleet.work = meanwhile
    assert batch(cli, folder, out).code == 0
    assert (inner[0].code, "another batch writes to" in inner[0].err) == (2, True)


# -- what is refused before anything is done ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda f, _: (f / "b.JPEG").rename(f / "A.tif"), (), "A.tif and a.jpg would have the same result, a.*"),
        (lambda _, o: o.mkdir(parents=True) or (o / "a.png").touch(), (), "a.png is there already, and no batch wrote"),
        (lambda _, o: o.parent.mkdir() or o.touch(), (), "is no folder; name a folder, which is made if need be"),
        (lambda f, o: o.parent.mkdir() or o.symlink_to(f), (), "--out: is the folder of the photos"),
        (lambda f, o: o.parent.mkdir() or o.symlink_to(f / "old"), ("--recursive",), "--out: lies within"),
        (lambda *_: None, ("--size", "9"), "--size: 9 px is outside"),
        (lambda *_: None, ("--model", "gpt"), "--model: 'gpt' is none of"),
        (lambda f, _: [(f / name).unlink() for name in ("a.jpg", "b.JPEG", "c.png")], (), "use --recursive for the"),
        (lambda *_: None, ("--parallel", "0"), "Invalid value for '--parallel'"),
    ],
)
def test_what_makes_no_sense_sends_nothing(
    cli: Cli,
    fleet: Fleet,
    folder: pathlib.Path,
    out: pathlib.Path,
    change: Callable[[pathlib.Path, pathlib.Path], object],
    options: tuple[str, ...],
    words: str,
) -> None:
    change(folder, out)
    ended = batch(cli, folder, out, *options)
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert words.lower() in ended.err.lower()
    assert not fleet.uploads


def test_a_folder_that_is_none_or_empty_is_refused(cli: Cli, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    del fleet
    empty = tmp_path / "empty"
    assert f"DIR: {empty} is no folder" in batch(cli, empty, tmp_path / "out").err
    empty.mkdir()
    assert f"DIR: {empty} has no photos; name one with JPEG" in batch(cli, empty, tmp_path / "out").err
    assert not (tmp_path / "out").exists()


def test_the_workflow_is_named_unless_there_is_one(cli: Cli, folder: pathlib.Path, out: pathlib.Path) -> None:
    def run(*options: str) -> Ended:
        return cli("batch", str(folder), "--out", str(out), *options)

    assert "--workflow: is missing; use one of: none yet: hueshift jobs kinds apply" in run().err
    one = out.parent.parent / "kind.yaml"
    one.write_text("kind: photo\nworkflow: photo\nmodels: [m]\nsizes: {min: 64, max: 512}\n")
    cli("jobs", "kinds", "apply", "-f", str(one))
    fleet = Fleet(cli, cli.bridge)
    cli.transport = fleet
    assert run().code == 0
    assert "--workflow: 'x' is not known; use one of: photo" in run("--workflow", "x").err


def test_a_folder_that_cannot_be_written_is_named(cli: Cli, fleet: Fleet, folder: pathlib.Path) -> None:
    del fleet
    file = folder.parent / "file"
    file.touch()
    ended = batch(cli, folder, file / "out")
    assert (ended.code, "cannot be written (Not a directory)" in ended.err) == (2, True)
