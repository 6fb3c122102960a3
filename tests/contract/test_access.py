"""API keys, and the lease that says who may move rollouts."""

import dataclasses

import pytest

from controlplane.errors import ConflictError, NotFoundError
from controlplane.ports import KeyStore, LeaseStore
from tests.builders import NOW, make_key, seconds

TTL = seconds(10)


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_a_key_is_found_by_its_digest(store: KeyStore) -> None:
    await store.add_key(make_key())
    assert await store.find_key("d1") == make_key()
    assert await store.find_key("d2") is None


async def test_a_name_belongs_to_one_live_key(store: KeyStore) -> None:
    await store.add_key(make_key(digest="d1"))
    with pytest.raises(ConflictError, match="name: 'ada' is taken by a live key"):
        await store.add_key(make_key(digest="d2"))
    assert await store.find_key("d2") is None
    await store.revoke_key("ada", now=NOW + seconds(1))
    await store.add_key(make_key(digest="d2"))
    assert await store.find_key("d2") == make_key(digest="d2")


async def test_a_revoked_key_is_listed_and_opens_nothing(store: KeyStore) -> None:
    await store.add_key(make_key())
    await store.revoke_key("ada", now=NOW + seconds(1))
    assert await store.find_key("d1") is None
    assert await store.list_keys() == (dataclasses.replace(make_key(), revoked_at=NOW + seconds(1)),)


async def test_only_a_live_key_is_revoked(store: KeyStore) -> None:
    await store.add_key(make_key("bob", digest="d0"))
    with pytest.raises(NotFoundError, match=r"API key 'ada' does not exist \(known: bob\)"):
        await store.revoke_key("ada", now=NOW)
    await store.revoke_key("bob", now=NOW)
    with pytest.raises(NotFoundError):
        await store.revoke_key("bob", now=NOW + seconds(1))
    assert (await store.list_keys())[0].revoked_at == NOW


async def test_keys_are_listed_newest_first(store: KeyStore) -> None:
    assert await store.list_keys() == ()
    for number in range(3):
        await store.add_key(make_key(f"key-{number}", digest=f"d{number}"))
    assert [key.name for key in await store.list_keys()] == ["key-2", "key-1", "key-0"]


async def test_two_keys_do_not_share_a_digest(store: KeyStore) -> None:
    await store.add_key(make_key("ada"))
    with pytest.raises(ConflictError):
        await store.add_key(make_key("bob"))


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
