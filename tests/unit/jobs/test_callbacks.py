"""Whom callbacks may name, how they are signed, what they say, and when a notice is tried again."""

import base64
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import pathlib
import re
from typing import Any

import pytest

from controlplane.clock import SystemClock
from controlplane.errors import InvalidInputError
from controlplane.jobs.callbacks import (
    EVENTS,
    TEST,
    Callback,
    GivenUp,
    Later,
    Message,
    Notice,
    Unheard,
    after_try,
    check_secret,
    facts_of,
    host_of,
    new_secret,
    shown,
    signature,
)
from controlplane.jobs.model import JobId, JobState
from tests.builders import NOW
from tests.unit.jobs.test_model import make_job

HOW_TO = pathlib.Path(__file__).parents[3] / "docs/jobs.md"
HOUR = dt.timedelta(hours=1)
SECOND = dt.timedelta(seconds=1)
DAY = dt.timedelta(days=1)

FACTS = {
    "id": "0" * 32,
    "task_id": "7f3a",
    "kind": "person",
    "state": "dead",
    "words": "422: a colour photo <b>",
    "version": "",
    "attempts": 1,
    "wait_s": 1.5,
    "run_s": 2.0,
    "result": None,
}


def make_notice(tries: int = 1) -> Notice:
    message = Message(event="evt_1", type="dev.hueshift.job.done", subject="1", at=NOW, facts={})
    return Notice(
        number=1,
        job=JobId("1"),
        callback="shop",
        host="shop.example.org",
        tries=tries,
        made_at=NOW,
        message=message,
        address="https://shop.example.org/",
        secrets=("whsec_" + "A" * 32,),
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Shop"}, "callback"),
        ({"name": "a/b"}, "callback"),
        ({"address": ""}, "address"),
        ({"name": "task"}, "address"),
        ({"address": "https://shop.example.org/" + "x" * 2000}, "address"),
        ({"events": frozenset()}, "events"),
        ({"events": frozenset({JobState.WAITING})}, "events"),
    ],
)
def test_callbacks_that_make_no_sense_are_refused(changes: dict[str, object], field: str) -> None:
    callback = Callback(owner="ada", name="shop", address="https://shop.example.org/", events=frozenset(EVENTS))
    with pytest.raises(InvalidInputError) as refused:
        dataclasses.replace(callback, **changes)  # type: ignore[arg-type] # passed through
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("address", "host", "to_owner"),
    [
        ("https://shop.example.org/hooks/s3cret?token=s3cret", "shop.example.org", "https://shop.example.org/…"),
        ("http://Shop.example.org:8080/s3cret", "shop.example.org:8080", "http://shop.example.org:8080/…"),
        ("slack://s3cret/B/C/#photos", "slack", "slack://…"),
        ("wecombot://s3cret", "wecombot", "wecombot://…"),
        ("mailto://ada:s3cret@example.org?to=s3cret@example.org", "example.org", "mailto://example.org/…"),
        ("mailtos://a:s3cret@example.org?smtp=mail.example.net", "mail.example.net", "mailtos://mail.example.net/…"),
        ("json://u:s3cret@h.example.org:81/s3cret", "h.example.org:81", "json://h.example.org:81/…"),
        ("http://[s3cret", "unknown", "http://unknown/…"),
        ("", "", ""),
    ],
)
def test_what_is_shown_and_logged_of_an_address_holds_no_secret(address: str, host: str, to_owner: str) -> None:
    assert (host_of(address), shown(address)) == (host, to_owner)
    assert "s3cret" not in repr(Callback(owner="a", name="shop", address=address or "x", events=frozenset(EVENTS)))


def test_a_signature_is_what_the_specification_says() -> None:
    """Worked out here by its words: HMAC-SHA256 over id.timestamp.body, with the decoded secret, in base64."""
    key = bytes(range(32))
    secret = "whsec_" + base64.b64encode(key).decode()
    body = b'{"type":"contact.created"}'
    at = dt.datetime(2023, 1, 19, 0, 13, 51, 900_000, tzinfo=dt.UTC)
    expected = hmac.new(key, b"msg_1.1674087231." + body, hashlib.sha256).digest()
    assert signature([secret], "msg_1", at, body) == f"v1,{base64.b64encode(expected).decode()}"
    both = signature([new_secret(), secret], "msg_1", at, body).split(" ")
    assert len(both) == 2
    assert both[1] == f"v1,{base64.b64encode(expected).decode()}"


def test_the_lines_of_the_readme_verify_it() -> None:
    (lines,) = re.findall(r"```python\n(import base64.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(lines, names)  # noqa: S102 - our own words
    secret, body, now = new_secret(), b'{"id":"evt_1"}', SystemClock().now()
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(int(now.timestamp()))}
    signed = {**headers, "webhook-signature": signature([new_secret(), secret], "evt_1", now, body)}
    assert names["is_genuine"](secret, signed, body)
    assert not names["is_genuine"](secret, signed, body + b" ")
    assert not names["is_genuine"](secret, {**signed, "webhook-id": "evt_2"}, body)
    assert not names["is_genuine"](new_secret(), signed, body)
    before = now - dt.timedelta(minutes=10)
    stale = {**headers, "webhook-timestamp": str(int(before.timestamp()))}
    stale |= {"webhook-signature": signature([secret], "evt_1", before, body)}
    assert not names["is_genuine"](secret, stale, body)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "secret", "whsec_not base64", "whsec_" + base64.b64encode(b"short").decode()]
)
def test_what_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^secret: is none; write whsec_"):
        check_secret(secret)


def test_secrets_that_are_made_are_good_and_differ() -> None:
    check_secret(new_secret())
    assert new_secret() != new_secret()


def test_a_message_is_a_cloudevent_and_the_same_bytes_each_time() -> None:
    job = dataclasses.replace(
        make_job(),
        state=JobState.DONE,
        version="v2",
        submitted_at=NOW,
        first_started_at=NOW + SECOND,
        started_at=NOW + SECOND,
        finished_at=NOW + 3 * SECOND,
        image_url="https://photos.example.org/s3cret",
    )
    message = Message(event="evt_1", type="dev.hueshift.job.done", subject=job.id, at=NOW, facts=facts_of(job))
    event = json.loads(message.body)
    assert {name: event[name] for name in ("specversion", "id", "source", "type", "subject")} == {
        "specversion": "1.0",
        "id": "evt_1",
        "source": "/v1/jobs",
        "type": "dev.hueshift.job.done",
        "subject": job.id,
    }
    assert dt.datetime.fromisoformat(event["time"]) == NOW
    assert (event["data"]["state"], event["data"]["version"]) == ("done", "v2")
    assert (event["data"]["wait_s"], event["data"]["run_s"]) == (1.0, 2.0)
    assert event["data"]["result"] == f"/v1/jobs/{job.id}/result"
    assert b"s3cret" not in message.body
    reread = dataclasses.replace(message, facts=dict(reversed(json.loads(json.dumps(message.facts)).items())))
    assert reread.body == message.body
    assert message.title == f"Job {job.task_id} is done"
    assert "coloured by version v2\nwaited 1 s\nran 2 s" in message.text
    dead = dataclasses.replace(job, state=JobState.DEAD, words="422: in colour", version="")
    told = dataclasses.replace(message, facts=facts_of(dead))
    assert json.loads(told.body)["data"]["result"] is None
    assert told.text.endswith("422: in colour")
    assert "can reach you" in dataclasses.replace(message, type=TEST, facts={"callback": "shop"}).title


def test_pauses_double_from_five_seconds_to_an_hour_with_jitter() -> None:
    def pause(tries: int, luck: float, asked: dt.timedelta | None = None) -> dt.timedelta:
        outcome = after_try(make_notice(tries), Unheard("503", asked), patience=DAY, now=NOW, luck=luck)
        assert isinstance(outcome, Later)
        return outcome.due - NOW

    assert [pause(tries, 0.5).total_seconds() for tries in (1, 2, 3, 10, 11, 99)] == [5, 10, 20, 2560, 3600, 3600]
    assert (pause(1, 0.0), pause(1, 1.0)) == (0.75 * 5 * SECOND, 1.25 * 5 * SECOND)
    assert pause(1, 0.5, 7 * SECOND) == 7 * SECOND
    assert pause(1, 0.5, 9 * HOUR) == HOUR


def test_a_notice_is_given_up_when_the_patience_is_over_or_the_receiver_wants_no_more() -> None:
    almost = after_try(make_notice(30), Unheard("503"), patience=DAY, now=NOW + DAY - HOUR, luck=0.5)
    assert isinstance(almost, Later)
    over = after_try(make_notice(30), Unheard("503"), patience=DAY, now=NOW + DAY - HOUR + SECOND, luck=0.5)
    assert over == GivenUp("503 (given up after 30 tries)")
    assert after_try(make_notice(), Unheard("410", gone=True), patience=DAY, now=NOW, luck=0.5) == GivenUp("410")
