"""API keys with their grants, the audit, and the lease that says who may move rollouts."""

import dataclasses

import pytest

from controlplane.auth.ports import AuditEntry, AuditFilter, AuditStore, Denial, KeyStore, Outcome
from controlplane.auth.roles import EVERYTHING, READS_ALL, Grant, Role
from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.operations import ALL_KINDS
from controlplane.jobs.owners import JobOwner
from controlplane.ports import LeaseStore
from controlplane.rollout.freezing import EVERY_SERVICE
from controlplane.store import SqlStore
from tests.builders import NOW, make_change, make_key, make_new_rollout, make_spec, seconds
from tests.job_builders import make_kind

TTL = seconds(10)
ADA = JobOwner(name="ada", max_waiting=5)
DAY = seconds(24 * 3600)


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_a_key_is_found_by_its_digest(store: KeyStore) -> None:
    await store.add_key(make_key(), make_change())
    assert await store.find_key("d1") == make_key()
    assert await store.find_key("d2") is None


async def test_a_name_belongs_to_one_live_key(store: KeyStore) -> None:
    await store.add_key(make_key(digest="d1"), make_change())
    with pytest.raises(ConflictError, match="name: 'ada' is taken by a live key"):
        await store.add_key(make_key(digest="d2"), make_change())
    assert await store.find_key("d2") is None
    await store.revoke_key("ada", make_change(at=NOW + seconds(1)))
    await store.add_key(make_key(digest="d2"), make_change())
    assert await store.find_key("d2") == make_key(digest="d2")


async def test_a_revoked_key_is_listed_and_opens_nothing(store: KeyStore) -> None:
    await store.add_key(make_key(), make_change())
    await store.revoke_key("ada", make_change(at=NOW + seconds(1)))
    assert await store.find_key("d1") == dataclasses.replace(make_key(), revoked_at=NOW + seconds(1))
    assert await store.find_live_key("ada") is None
    assert await store.list_keys() == (dataclasses.replace(make_key(), revoked_at=NOW + seconds(1)),)


async def test_only_a_live_key_is_revoked(store: KeyStore) -> None:
    await store.add_key(make_key("bob", digest="d0"), make_change())
    with pytest.raises(NotFoundError, match=r"API key 'ada' does not exist \(known: bob\)"):
        await store.revoke_key("ada", make_change(at=NOW))
    await store.revoke_key("bob", make_change(at=NOW))
    with pytest.raises(NotFoundError):
        await store.revoke_key("bob", make_change(at=NOW + seconds(1)))
    assert (await store.list_keys())[0].revoked_at == NOW


async def test_keys_are_listed_newest_first(store: KeyStore) -> None:
    assert await store.list_keys() == ()
    for number in range(3):
        await store.add_key(make_key(f"key-{number}", digest=f"d{number}"), make_change())
    assert [key.name for key in await store.list_keys()] == ["key-2", "key-1", "key-0"]


async def test_two_keys_do_not_share_a_digest(store: KeyStore) -> None:
    await store.add_key(make_key("ada"), make_change())
    with pytest.raises(ConflictError):
        await store.add_key(make_key("bob"), make_change())


async def test_a_page_of_keys_goes_on_after_the_one_before(store: KeyStore) -> None:
    for number in range(5):
        await store.add_key(make_key(f"key-{number}", digest=f"d{number}"), make_change())
    first = await store.page_keys(before=None, limit=2)
    second = await store.page_keys(before=first[-1][0], limit=9)
    assert [key.name for _, key in (*first, *second)] == ["key-4", "key-3", "key-2", "key-1", "key-0"]


async def test_grants_are_kept_changed_and_told(store: SqlStore) -> None:
    await store.add_key(make_key(), make_change())
    old = await store.find_live_key("ada")
    assert old is not None
    assert (old.grants, old.may) == (None, EVERYTHING), "a key from before there were grants may do everything"
    grants = (Grant(Role.OPERATOR, "colorize"), READS_ALL)
    assert await store.set_grants("ada", grants, make_change("bob", why="her team"), spare_last_admin=False)
    assert not await store.set_grants("ada", grants, make_change("bob"))
    found = await store.find_key("d1")
    assert found is not None
    assert found.grants == grants
    assert await store.set_grants("ada", (), make_change("bob"))
    found = await store.find_key("d1")
    assert found is not None
    assert (found.grants, found.may) == ((), ()), "none is not the same as never any"
    with pytest.raises(NotFoundError, match=r"API key 'eve' does not exist \(known: ada\)"):
        await store.set_grants("eve", (), make_change())
    told = await store.page_audit(AuditFilter(by="bob"), before=None, limit=9)
    assert [(entry.what, entry.words) for entry in told][-1] == (
        "key-grants",
        "the key 'ada' may now: operator:colorize, viewer:*; before: admin:*: her team",
    )


async def test_the_last_key_that_may_do_everything_is_spared(store: KeyStore) -> None:
    await store.add_key(make_key("old"), make_change())
    await store.add_key(
        dataclasses.replace(make_key("one", digest="d2"), grants=(Grant(Role.ADMIN, "a"),)), make_change()
    )
    for attempt in (
        store.revoke_key("old", make_change(), spare_last_admin=True),
        store.set_grants("old", (READS_ALL,), make_change(), spare_last_admin=True),
    ):
        with pytest.raises(ConflictError, match="'old' is the last key that may do everything"):
            await attempt
    await store.revoke_key("one", make_change(), spare_last_admin=True)
    await store.add_key(dataclasses.replace(make_key("new", digest="d3"), grants=EVERYTHING), make_change())
    await store.revoke_key("old", make_change(), spare_last_admin=True)
    await store.revoke_key("new", make_change())


# -- audit -------------------------------------------------------------------------------------------------------------


def make_denial(minute: int, *, by: str = "eve", service: str = "", count: int = 1) -> Denial:
    at = NOW + seconds(60 * minute)
    return Denial(f"{minute} GET / {by}", by, "GET /", service, "no", at, count)


async def test_denials_of_a_bucket_are_one_row_with_a_count(store: AuditStore) -> None:
    later = dataclasses.replace(make_denial(0, count=3), at=NOW + seconds(7))
    for denial in (make_denial(0), later, make_denial(1), make_denial(1, by="mallory")):
        await store.add_denial(denial, keep=DAY)
    found = await store.page_audit(AuditFilter(outcome=Outcome.DENIED), before=None, limit=9)
    assert [(entry.by, entry.count) for entry in found] == [("mallory", 1), ("eve", 1), ("eve", 4)]
    assert (found[-1].at, found[-1].last_at) == (NOW, NOW + seconds(7))


async def test_old_denials_are_forgotten_and_changes_are_not(store: SqlStore) -> None:
    await store.apply_owner(ADA, make_change())
    await store.add_denial(make_denial(0), keep=DAY)
    await store.add_denial(make_denial(60 * 24 + 1), keep=DAY)
    found = await store.page_audit(AuditFilter(), before=None, limit=9)
    assert [(entry.what, entry.outcome) for entry in found] == [
        ("GET /", Outcome.DENIED),
        ("job-owner-apply", Outcome.DONE),
    ]
    assert found[0].at > NOW


async def test_the_audit_joins_histories_and_the_rest_a_page_at_a_time(store: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="first", now=NOW)
    await store.start(make_new_rollout(), key=None, now=NOW)
    await store.apply_owner(ADA, make_change("bob"))
    await store.add_denial(make_denial(0, service="colorize"), keep=DAY)
    await store.add_denial(make_denial(1), keep=DAY)
    whole = await store.page_audit(AuditFilter(), before=None, limit=99)
    assert sorted(entry.what for entry in whole) == ["GET /", "GET /", "apply", "job-owner-apply", "start"]
    assert [entry.at for entry in whole] == sorted((entry.at for entry in whole), reverse=True)
    pages: list[AuditEntry] = []
    before = None
    while page := await store.page_audit(AuditFilter(), before=before, limit=1):
        pages += page
        before = page[-1].at, page[-1].place
    assert pages == list(whole)


async def test_what_no_history_tells_is_told_with_the_change_and_only_when_there_was_one(store: SqlStore) -> None:
    for _ in range(2):
        await store.apply_kind(make_kind(), make_change())
        await store.apply_owner(ADA, make_change())
        await store.begin_drain(ALL_KINDS, by="ada", why="new cards", now=NOW)
    for _ in range(2):
        await store.end_drain(ALL_KINDS, by="bob", why="", now=NOW)
    await store.delete_owner("ada", make_change("bob"))
    await store.freeze(EVERY_SERVICE, until=NOW + DAY, by="ada", why="feast", now=NOW)
    await store.unfreeze(EVERY_SERVICE, by="ada", why="", now=NOW)
    found = await store.page_audit(AuditFilter(), before=None, limit=99)
    assert [(entry.what, entry.by, entry.words) for entry in reversed(found)] == [
        ("job-kind-apply", "ada", "the kind person was declared"),
        ("job-owner-apply", "ada", "something else was agreed with ada"),
        ("job-drain", "ada", "no jobs of any kind are started now: new cards"),
        ("job-drain-end", "bob", "jobs of any kind are started"),
        ("job-owner-delete", "bob", "what was agreed with ada holds no more"),
        ("freeze", "ada", f"everything is frozen until {NOW + DAY:%F %R} UTC: feast"),
        ("unfreeze", "ada", "the freeze of everything was ended"),
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (AuditFilter(service="colorize"), {"GET /", "apply"}),
        (AuditFilter(services=["colorize"], whole=False), {"apply"}),
        (AuditFilter(services=["other"]), set()),
        (AuditFilter(services=[]), set()),
        (AuditFilter(by="ada", outcome=Outcome.DONE), {"apply"}),
        (AuditFilter(by="ada", outcome=Outcome.DENIED), set()),
        (AuditFilter(outcome=Outcome.REFUSED), set()),
        (AuditFilter(by="bob"), {"job-owner-apply"}),
    ],
)
async def test_the_audit_is_asked_for_less(store: SqlStore, wanted: AuditFilter, found: set[str]) -> None:
    await store.apply(make_spec(), by="ada", why="first", now=NOW)
    await store.apply_owner(ADA, make_change("bob"))
    await store.add_denial(make_denial(0, service="colorize"), keep=DAY)
    assert {entry.what for entry in await store.page_audit(wanted, before=None, limit=9)} == found


# -- lease -------------------------------------------------------------------------------------------------------------


async def test_one_holder_at_a_time(store: LeaseStore) -> None:
    assert await store.acquire_lease("a", ttl=TTL, now=NOW) == 1
    assert await store.acquire_lease("b", ttl=TTL, now=NOW + seconds(9.999)) is None


async def test_a_renewal_keeps_the_epoch_and_moves_the_end(store: LeaseStore) -> None:
    await store.acquire_lease("a", ttl=TTL, now=NOW)
    assert await store.acquire_lease("a", ttl=TTL, now=NOW + seconds(8)) == 1
    assert await store.acquire_lease("b", ttl=TTL, now=NOW + seconds(17)) is None


async def test_every_change_of_holder_raises_the_epoch(store: LeaseStore) -> None:
    await store.acquire_lease("a", ttl=TTL, now=NOW)
    assert await store.acquire_lease("b", ttl=TTL, now=NOW + TTL) == 2
    assert await store.acquire_lease("a", ttl=TTL, now=NOW + TTL) is None
    assert await store.acquire_lease("a", ttl=TTL, now=NOW + 2 * TTL) == 3


async def test_an_expired_lease_that_nobody_took_is_still_the_same(store: LeaseStore) -> None:
    await store.acquire_lease("a", ttl=TTL, now=NOW)
    assert await store.acquire_lease("a", ttl=TTL, now=NOW + 9 * TTL) == 1
