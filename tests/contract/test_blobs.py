"""Where photos are kept: a folder, and S3 as moto's server speaks it."""

import os
import pathlib
import stat
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from controlplane.blobs.directory import DirectoryBlobs
from controlplane.blobs.s3 import S3Blobs, open_bucket
from controlplane.errors import NotFoundError, UnavailableError
from controlplane.jobs.ports import BlobStore

ARE_STORES: tuple[type[BlobStore], ...] = (DirectoryBlobs, S3Blobs)  # mypy sits this exam

BUCKET = "photos-of-tests"


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
    boto3.session.Session().client("s3", endpoint_url=s3_address).create_bucket(Bucket=BUCKET)
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
    assert await blobs.has_blob("photos/1")
    assert await blobs.has_blob("photos/2"), "an empty one is there, too"
    assert not await blobs.has_blob("photos/3")
    assert not await blobs.has_blob("never/there")
    assert await blobs.get_blob("photos/2") == b""
    await blobs.put_blob("photos/1", b"replaced")
    assert await blobs.get_blob("photos/1") == b"replaced"
    await blobs.delete_blob("photos/1")
    await blobs.delete_blob("photos/1")
    await blobs.delete_blob("never/there")
    with pytest.raises(NotFoundError, match="photos/1"):
        await blobs.get_blob("photos/1")
    assert await blobs.get_blob("results/1/1") == b"other"


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
    os.unlink(file)  # noqa: PTH108 - as another process would


@pytest.mark.integration
async def test_a_bucket_that_is_not_there_is_named(s3: S3Blobs, s3_address: str) -> None:
    del s3
    blobs = open_bucket("nobodys-bucket", endpoint=s3_address)
    with pytest.raises(UnavailableError, match="HUESHIFT_BLOBS: the bucket nobodys-bucket cannot be used"):
        await blobs.put_blob("photos/1", b"x")
    with pytest.raises(UnavailableError, match="nobodys-bucket"):
        await blobs.get_blob("photos/1")


@pytest.mark.integration
async def test_an_s3_that_does_not_answer_is_unavailable(s3: S3Blobs) -> None:
    del s3
    with pytest.raises(UnavailableError, match="HUESHIFT_BLOBS"):
        await open_bucket(BUCKET, endpoint="http://127.0.0.1:9").put_blob("photos/1", b"x")
