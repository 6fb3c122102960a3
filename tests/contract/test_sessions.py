"""Sessions, log-ins that have begun and share links: each is found by its digest, and gone when it should be."""

import dataclasses

import pytest

from controlplane.auth.logins import Login, LoginStore
from controlplane.auth.ports import AuditFilter
from controlplane.auth.sessions import Session, SessionStore, Standing
from controlplane.auth.shares import Share
from controlplane.errors import NotFoundError
from controlplane.store import SqlStore, sessions
from tests.builders import NOW, make_change, make_spec, seconds

HOUR = seconds(3600)


def make_session(digest: str = "d1", *, subject: str = "s", at: float = 0) -> Session:
    begun = NOW + seconds(at)
    return Session(digest, Standing.USER, subject, {"groups": ["ml"]}, begun, begun, begun + HOUR)


async def test_a_session_is_found_touched_and_ended(store: SessionStore) -> None:
    await store.add_session(make_session(), most_each=9)
    assert await store.find_session("d1") == make_session()
    assert await store.find_session("d2") is None
    await store.touch_session("d1", now=NOW + seconds(60))
    assert await store.find_session("d1") == dataclasses.replace(make_session(), seen_at=NOW + seconds(60))
    await store.end_session("d1")
    await store.end_session("d1")
    assert await store.find_session("d1") is None


async def test_the_oldest_of_one_subject_make_room_and_what_expired_is_gone(store: SessionStore) -> None:
    for number in range(4):
        await store.add_session(make_session(f"d{number}", at=number), most_each=3)
    await store.add_session(make_session("other", subject="t"), most_each=3)
    found = [await store.find_session(digest) is not None for digest in ("d0", "d1", "d2", "d3", "other")]
    assert found == [False, True, True, True, True]
    await store.add_session(make_session("late", subject="u", at=3602), most_each=3)
    found = [await store.find_session(digest) is not None for digest in ("d1", "d2", "d3", "other", "late")]
    assert found == [False, False, True, False, True]


async def test_a_log_in_is_taken_once_and_forgotten_after_a_while(
    store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(digest: str, at: float) -> Login:
        return Login(digest, "nonce", "verifier", "/jobs", NOW + seconds(at))

    await store.add_login(begun("d1", 0), keep=HOUR)
    assert await store.take_login("d1") == begun("d1", 0)
    assert await store.take_login("d1") is None
    await store.add_login(begun("d2", 0), keep=HOUR)
    await store.add_login(begun("d3", 3601), keep=HOUR)
    assert await store.take_login("d2") is None
    monkeypatch.setattr(sessions, "MAX_LOGINS", 2)
    for number in (4, 5):
        await store.add_login(begun(f"d{number}", 3600 + number), keep=HOUR)
    assert [await store.take_login(f"d{number}") is not None for number in (3, 4, 5)] == [False, True, True]


async def test_shares_are_found_listed_and_revoked(store: SqlStore) -> None:
    for port, name in ((8080, "colorize"), (8090, "other")):
        await store.apply(make_spec(name, port=port), by="ada", why="", now=NOW)
    made = [
        Share(f"s{number}", f"d{number}", service, "", "ada", "", NOW, NOW + HOUR)
        for number, service in enumerate(("colorize", "other", "colorize"))
    ]
    for each in made:
        await store.add_share(each, make_change(why="review"))
    assert await store.find_share("s1") == await store.find_shared("d1") == made[1]
    assert await store.find_share("d1") is None
    listed = await store.page_shares(services=None, before=None, limit=2)
    assert [each for _, each in listed] == [made[2], made[1]]
    assert [each for _, each in await store.page_shares(services=["colorize"], before=listed[-1][0], limit=2)] == [
        made[0]
    ]
    assert await store.page_shares(services=[], before=None, limit=2) == ()
    await store.revoke_share("s1", make_change(at=NOW + seconds(5)))
    ended = await store.find_share("s1")
    assert ended is not None
    assert (ended.revoked_at, ended.has_ended(NOW)) == (NOW + seconds(5), True)
    with pytest.raises(NotFoundError):
        await store.revoke_share("s1", make_change())
    told = await store.page_audit(AuditFilter(service="other"), before=None, limit=9)
    words = {each.what: each.words for each in told}
    assert list(words) == ["share-revoke", "apply", "share-create"]
    assert words["share-create"].endswith("UTC: review")
