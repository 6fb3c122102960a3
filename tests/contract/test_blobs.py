"""Where photos are kept: a folder, and S3 as moto's server speaks it."""

import asyncio
import datetime as dt
import os
import pathlib
import stat
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from controlplane.blobs.directory import DirectoryBlobs
from controlplane.blobs.s3 import S3Blobs, open_bucket
from controlplane.clock import SystemClock
from controlplane.errors import NotFoundError, UnavailableError
from controlplane.jobs.ports import BlobStore

ARE_STORES: tuple[type[BlobStore], ...] = (DirectoryBlobs, S3Blobs)  # mypy sits this exam

BUCKET = "photos-of-tests"
CLOCKS_DIFFER = dt.timedelta(minutes=10)


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> S3Blobs:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.session.Session().client("s3", endpoint_url=s3_address)
    client.create_bucket(Bucket=BUCKET)
    for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=each["Key"])
    client.put_object(Bucket=BUCKET, Key="photos/not-ours", Body=b"beside our prefix")
    return open_bucket(BUCKET, prefix="hueshift/", endpoint=s3_address)


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.integration)])
def blobs(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> BlobStore:
    if request.param == "directory":
        return DirectoryBlobs(tmp_path / "made" / "when needed")
    found: S3Blobs = request.getfixturevalue("s3")
    return found


async def test_what_was_put_is_got_and_what_was_deleted_is_gone(blobs: BlobStore) -> None:
    content = bytes(range(256)) * 1000
    await blobs.put_blob("photos/1", content)
    await blobs.put_blob("photos/2", b"")
    await blobs.put_blob("results/1/1", b"other")
    assert await blobs.get_blob("photos/1") == content
    assert await blobs.get_blob("photos/2") == b""
    await blobs.put_blob("photos/1", b"replaced")
    assert await blobs.get_blob("photos/1") == b"replaced"
    await blobs.delete_blob("photos/1")
    await blobs.delete_blob("photos/1")
    await blobs.delete_blob("never/there")
    with pytest.raises(NotFoundError, match="photos/1"):
        await blobs.get_blob("photos/1")
    assert await blobs.get_blob("results/1/1") == b"other"


async def keys(blobs: BlobStore, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
    return [blob.key for blob in await blobs.list_blobs(prefix, after=after, limit=limit)]


async def test_blobs_are_listed_by_key_page_by_page(blobs: BlobStore) -> None:
    assert await keys(blobs, "photos/") == []
    made = ["photos/b", "photos/a", "results/a/10", "results/a/9", "results/a-b/1", "results/a.b/1", "results/ab/1"]
    for key in made:
        await blobs.put_blob(key, b"x")
    assert await keys(blobs, "") == sorted(made)
    assert await keys(blobs, "photos/") == ["photos/a", "photos/b"]
    assert await keys(blobs, "results/a/") == ["results/a/10", "results/a/9"]
    assert await keys(blobs, "results/a.") == ["results/a.b/1"]
    assert await keys(blobs, "results/a") == sorted(made[2:])
    assert await keys(blobs, "nothing/") == []
    seen: list[str] = []
    while page := await keys(blobs, "results/", after=seen[-1] if seen else "", limit=2):
        assert len(page) <= 2
        seen += page
    assert seen == sorted(made[2:])
    assert await keys(blobs, "results/", after="results/a/10x") == ["results/a/9", "results/ab/1"]
    for key in made:
        await blobs.delete_blob(key)
    assert await keys(blobs, "") == []


async def test_a_listed_blob_tells_when_it_was_stored(blobs: BlobStore) -> None:
    before = SystemClock().now() - CLOCKS_DIFFER
    await blobs.put_blob("photos/a", b"x")
    (found,) = await blobs.list_blobs("photos/")
    assert before <= found.stored_at <= SystemClock().now() + CLOCKS_DIFFER
    assert found.stored_at.utcoffset() == dt.timedelta(0)


async def test_what_a_kill_left_half_written_is_listed_and_can_be_deleted(tmp_path: pathlib.Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    for folder in ("photos", "results/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / ".part-x1").write_bytes(b"ha")
    found = [*await keys(blobs, "photos/"), *await keys(blobs, "results/")]
    assert found == ["photos/.part-x1", "results/a/.part-x1"]
    for key in found:
        await blobs.delete_blob(key)
    assert await keys(blobs, "") == []
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["photos", "results"]  # noqa: ASYNC240 - a test's own


async def test_a_folder_that_is_emptied_while_it_is_written_to_is_made_again(tmp_path: pathlib.Path) -> None:
    blobs = DirectoryBlobs(tmp_path)

    async def write_and_delete(number: int) -> None:
        for _ in range(50):
            await blobs.put_blob(f"results/a/{number}", b"x")
            await blobs.delete_blob(f"results/a/{number}")

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(write_and_delete(number))
    assert not (tmp_path / "results" / "a").exists()


async def test_files_are_whole_and_their_owners_only(tmp_path: pathlib.Path) -> None:
    await DirectoryBlobs(tmp_path).put_blob("photos/1", b"x")
    (file,) = (tmp_path / "photos").iterdir()
    assert file.name == "1"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("key", ["", "../x", "photos/../../x", "/etc/passwd"])
async def test_a_key_cannot_leave_the_folder(tmp_path: pathlib.Path, key: str) -> None:
    with pytest.raises(ValueError, match="leads out of the folder"):
        await DirectoryBlobs(tmp_path).get_blob(key)


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    blobs = DirectoryBlobs(file / "below")
    with pytest.raises(UnavailableError, match=r"HUESHIFT_BLOBS: .* cannot be used"):
        await blobs.put_blob("photos/1", b"x")
    with pytest.raises(UnavailableError, match=r"HUESHIFT_BLOBS: .* cannot be used"):
        await blobs.list_blobs("photos/")
    os.unlink(file)  # noqa: PTH108 - as another process would


@pytest.mark.integration
async def test_a_bucket_that_is_not_there_is_named(s3: S3Blobs, s3_address: str) -> None:
    del s3
    blobs = open_bucket("nobodys-bucket", endpoint=s3_address)
    with pytest.raises(UnavailableError, match="HUESHIFT_BLOBS: the bucket nobodys-bucket cannot be used"):
        await blobs.put_blob("photos/1", b"x")
    with pytest.raises(UnavailableError, match="nobodys-bucket"):
        await blobs.get_blob("photos/1")
    with pytest.raises(UnavailableError, match="nobodys-bucket"):
        await blobs.list_blobs("photos/")


@pytest.mark.integration
async def test_an_s3_that_does_not_answer_is_unavailable(s3: S3Blobs) -> None:
    del s3
    with pytest.raises(UnavailableError, match="HUESHIFT_BLOBS"):
        await open_bucket(BUCKET, endpoint="http://127.0.0.1:9").put_blob("photos/1", b"x")
