"""Jobs keep photos without what they say of people, and results that say who coloured them; logs have none of it."""

import hashlib
import logging
import struct

import pytest
import structlog.testing

from controlplane.errors import InvalidInputError
from controlplane.jobs.model import Coloured, JobKind, JobState, Order
from controlplane.jobs.photos import ASIDE_BYTES, keep_photo, keep_result
from controlplane.pictures.facts import MAX_PHOTO_BYTES
from controlplane.pictures.inspection import label, strip
from controlplane.pictures.labels import Label
from tests.builders import make_change
from tests.job_builders import PNG, RESULT, WORKFLOW, make_kind, make_picture
from tests.small_pictures import SMALL_JPEG, chunk, make_png, pixels_of
from tests.unit.jobs.conftest import Works

HOME = b"Ada Lovelace, 48.8584 N 2.2945 E"
PERSONAL = SMALL_JPEG[:2] + struct.pack(">HH", 0xFFFE, len(HOME) + 2) + HOME + SMALL_JPEG[2:]
WORKERS_OWN = make_png(b"coloured", channels=3, more=chunk(b"tEXt", b"workflow\x00" + HOME))
URL = "https://photos.example.org/1.jpg?token=opensesame"


async def apply(works: Works, **changes: object) -> JobKind:
    kind = make_kind("person", **changes)
    await works.store.apply_kind(kind, make_change())
    return kind


async def submit(works: Works, photo: bytes, *, key: str | None = None) -> str:
    return (await works.desk.submit(Order(workflow=WORKFLOW), photo, owner="ada", key=key)).id


@pytest.mark.parametrize("is_fetched", [False, True])
@pytest.mark.parametrize(("strip_metadata", "kept"), [(True, SMALL_JPEG), (False, PERSONAL)])
async def test_a_photo_is_stored_without_its_metadata_unless_the_kind_says_so(
    works: Works, kept: bytes, *, strip_metadata: bool, is_fetched: bool
) -> None:
    await apply(works, strip_metadata=strip_metadata)
    works.photos.there[URL] = PERSONAL
    order = Order(workflow=WORKFLOW, image_url=URL if is_fetched else None)
    job = await works.desk.submit(order, None if is_fetched else PERSONAL, owner="ada", key=None)
    await works.dispatcher().work(await works.take())
    photo = (await works.load(job.id)).photo
    assert photo is not None
    assert await works.blobs.get_blob(photo.key) == kept
    assert (photo.size_bytes, photo.sha256) == (len(kept), hashlib.sha256(kept).hexdigest())
    assert photo == make_picture(photo.key, kept)


async def test_a_repetition_is_known_by_what_was_sent_whatever_is_stored_of_it(works: Works) -> None:
    first = await submit(works, PERSONAL, key="ada/k")
    await apply(works, strip_metadata=False)
    assert await submit(works, PERSONAL, key="ada/k") == first
    assert await works.desk.blobs.get_blob(f"photos/{first}") == SMALL_JPEG


@pytest.mark.parametrize(
    ("changes", "answer", "stored"),
    [
        ({}, PNG, RESULT),
        ({}, WORKERS_OWN, RESULT),
        ({"label": False}, WORKERS_OWN, PNG),
        ({"strip_metadata": False}, WORKERS_OWN, label(WORKERS_OWN, Label("ddcolor-imagenet", "v1"))),
        ({"strip_metadata": False, "label": False}, WORKERS_OWN, WORKERS_OWN),
    ],
)
async def test_a_result_says_who_coloured_it_unless_the_kind_says_so(
    works: Works, changes: dict[str, object], answer: bytes, stored: bytes
) -> None:
    await apply(works, **changes)
    works.workers.outcomes = [Coloured(answer, "image/png", "v1")]
    job = await works.submit()
    await works.dispatcher().work(await works.take())
    found, result = await works.desk.result(job.id, owner="ada")
    assert result == stored
    assert found.result == make_picture(found.result.key if found.result else "", stored)
    assert pixels_of(result) == pixels_of(PNG)
    assert (b"coloured by model ddcolor-imagenet, version v1" in result) == changes.get("label", True)


@pytest.mark.parametrize("answer", [b"", b"<html>", SMALL_JPEG[:-2], PNG + b"<?php system('ls');"])
async def test_a_worker_that_answers_nonsense_has_failed(works: Works, answer: bytes) -> None:
    works.workers.outcomes = [Coloured(answer, "image/png", "v2")]
    job = await works.submit()
    await works.dispatcher().work(await works.take())
    failed = await works.load(job.id)
    assert (failed.state, failed.failures) == (JobState.WAITING, 1)
    assert failed.words == "version v2 answered with something that is no picture"


async def test_large_pictures_are_looked_at_in_a_thread_and_come_out_the_same() -> None:
    large = PERSONAL + bytes(2 * ASIDE_BYTES)
    assert (await keep_photo(large, is_stripped=True)).content == strip(large) == SMALL_JPEG
    with pytest.raises(InvalidInputError, match="is a damaged or cut-off JPEG"):
        await keep_photo(large[:100] + bytes(2 * ASIDE_BYTES), is_stripped=True)


async def test_a_result_may_be_larger_than_a_photo() -> None:
    side = 3_400
    rows = bytes(side * side * 3)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    large = struct.pack("<2sIII", b"BM", 54 + len(rows), 0, 54) + header + rows
    with pytest.raises(InvalidInputError, match=f"send at most {MAX_PHOTO_BYTES}"):
        await keep_photo(large, is_stripped=True)
    assert (await keep_result(large, is_stripped=True, words=Label("m"))).content == large


async def test_no_picture_and_no_secret_address_gets_into_the_logs(
    works: Works, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = PERSONAL + b"<?php passthru($_GET[0]);"
    works.photos.there = {URL: PERSONAL}
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(InvalidInputError):
            await submit(works, bad)
        await submit(works, PERSONAL)
        await works.desk.submit(Order(workflow=WORKFLOW, image_url=URL), None, owner="ada", key=None)
        await works.relay.move()
        works.workers.outcomes = [Coloured(bad, "image/png", "v1"), Coloured(WORKERS_OWN, "image/png", "v1")]
        for delivery in await works.queue.take(["photos"], limit=2):
            await works.dispatcher().work(delivery)
        works.photos.there = {URL: bad}
        await works.desk.submit(Order(workflow=WORKFLOW, image_url=URL), None, owner="ada", key=None)
        await works.dispatcher().work(await works.take())
    said = repr(logs) + caplog.text
    assert "job.done" in said
    assert "job.waits_again" in said
    assert "job.died" in said
    for secret in ("opensesame", "token", "Lovelace", "48.8584", "passthru", "JFIF", "\\xff\\xd8", "IDAT"):
        assert secret not in said
