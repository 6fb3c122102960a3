"""Messages about rollouts in the store: made of the history alone, in order, at least once; links are used once."""

import dataclasses
import datetime as dt

import pytest

from controlplane.auth.ports import AuditFilter
from controlplane.controller.narrate import sentence
from controlplane.courier.model import GivenUp, Heard, Later
from controlplane.errors import ConflictError, NotFoundError, StaleWriteError
from controlplane.notify.kinds import NotifyKind
from controlplane.notify.links import DeadLinkError, Link, LinkAction, digest_of, new_token
from controlplane.notify.model import EVERY, GATE, MAX_TARGETS, Parcel, Target
from controlplane.notify.ports import Applied, NotifyStore
from controlplane.ports import Occurrence, Rollout
from controlplane.rollout.lifecycle import advance
from controlplane.rollout.model import Abort, Acked, Advance, Event, Pause, Promote, Ready, Resume
from controlplane.store import SqlStore
from controlplane.store.notify_taking import BURST, LATE, WINDOW
from tests.builders import NOW, make_change, make_new_rollout, make_plan, make_spec

IS_A_STORE: type[NotifyStore] = SqlStore  # mypy sits this exam

SECOND = dt.timedelta(seconds=1)
HOOK = "https://hooks.example.org/7f3a"
ALL = frozenset(NotifyKind)
ONE, TWO = "whsec_one", "whsec_two"


@pytest.fixture(autouse=True)
async def _service(store: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.sort_history(limit=100, now=NOW)


async def apply(
    store: SqlStore, name: str = "team", *, service: str = "colorize", secret: str | None = None, **changes: object
) -> Applied:
    address = "" if name == GATE else HOOK
    target = Target(service=service, name=name, address=address, kinds=ALL)
    meant = dataclasses.replace(target, **changes)  # type: ignore[arg-type] # passed through
    return await store.apply_target(meant, make_change(), secret=secret, spare=f"whsec_{name}")


async def start(store: SqlStore, *, gate: bool = False) -> Rollout:
    plan = make_plan()
    if gate:
        steps = (dataclasses.replace(plan.steps[0], pause=True), *plan.steps[1:])
        plan = dataclasses.replace(plan, steps=steps)
    return await store.start(make_new_rollout(plan=plan), key=None, now=NOW)


async def happen(store: SqlStore, rollout: Rollout, *events: Event, at: dt.datetime = NOW) -> Rollout:
    """Do what the controller does."""
    for event in events:
        after = advance(rollout.plan, rollout.state, event, now=at)
        done = Occurrence(
            kind="transition",
            what=type(event).__name__,
            by="hueshift",
            words=sentence(rollout, event, after),
            before=type(rollout.state).__name__,
            after=type(after).__name__,
        )
        pending = [each.number for each in await store.load_pending(rollout.id)]
        moved = dataclasses.replace(rollout, state=after)
        rollout = await store.save(moved, occurred=(done,), handled=pending, now=at)
    return rollout


async def take(
    store: SqlStore,
    *,
    now: dt.datetime = NOW,
    each: int = 1,
    limit: int = 100,
    room: dict[str, int] | None = None,
) -> tuple[Parcel, ...]:
    while await store.sort_history(limit=3, now=now):
        pass
    return await store.take_messages(until=now + 45 * SECOND, now=now, room=room or {}, each=each, limit=limit)


async def hear_all(store: SqlStore, *, now: dt.datetime = NOW) -> list[str]:
    """Deliver all that is due; return the kinds in the order of their delivery."""
    kinds = []
    while taken := await take(store, now=now):
        for parcel in taken:
            kinds += [told.kind.value for told in (*parcel.message.earlier, parcel.message.telling)]
            assert await store.settle_message(parcel, Heard(), now=now)
    return kinds


async def test_a_target_is_read_back_and_the_same_again_changes_nothing(store: SqlStore) -> None:
    assert await apply(store) == Applied(changed=True, fresh=True)
    assert await apply(store) == Applied(changed=False, fresh=False)
    assert await apply(store, GATE, service=EVERY) == Applied(changed=True, fresh=True)
    assert [each.key for each in await store.list_targets()] == ["*/gate", "colorize/team"]
    assert await store.load_target_secrets("colorize", "team", now=NOW) == ("whsec_team",)
    await store.renew_target_secret("colorize", "team", make_change(), secret=ONE)
    assert await store.load_target_secrets("colorize", "team", now=NOW) == (ONE, "whsec_team")
    assert await store.load_target_secrets("colorize", "team", now=NOW + dt.timedelta(days=1)) == (ONE,)
    assert await apply(store, secret=TWO) == Applied(changed=True, fresh=False)
    assert await apply(store, "chat", address="slack://a/b/c") == Applied(changed=True, fresh=False)
    with pytest.raises(ConflictError, match="'chat' is not signed"):
        await store.renew_target_secret("colorize", "chat", make_change(), secret=ONE)
    for refused in (
        store.delete_target("colorize", "x", make_change()),
        store.renew_target_secret("colorize", "x", make_change(), secret=ONE),
        store.list_deliveries("colorize", "x", limit=1),
    ):
        with pytest.raises(NotFoundError, match=r"colorize/x.*known: chat, team"):
            await refused
    for number in range(MAX_TARGETS - 1):
        await apply(store, f"more-{number}", service=EVERY)
    with pytest.raises(ConflictError, match=r"\* has 20 notification targets already"):
        await apply(store, "one-more", service=EVERY)


async def test_what_happens_is_told_in_order_to_those_who_want_it(store: SqlStore) -> None:
    await apply(store)
    await apply(store, "few", kinds=frozenset({NotifyKind.STEP}))
    await apply(store, "all", service=EVERY)
    await apply(store, "other", service="restyle")
    rollout = await start(store)
    await happen(store, rollout, Ready(), Acked(), Pause("ada", "lunch"))
    told: dict[str, list[str]] = {}
    while taken := await take(store):
        for parcel in taken:
            told.setdefault(parcel.host, []).append(parcel.message.telling.kind.value)
            assert parcel.message.earlier == ()
            assert await store.settle_message(parcel, Heard(), now=NOW)
    assert told == {
        "*/all": ["started", "step", "paused"],
        "colorize/few": ["step"],
        "colorize/team": ["started", "step", "paused"],
    }
    ended = await store.list_deliveries("colorize", "team", limit=2)
    assert [(each.kind, each.delivered, each.tries) for each in ended] == [
        (NotifyKind.PAUSED, True, 1),
        (NotifyKind.STEP, True, 1),
    ]
    assert "paused v2 at 5 %: ada asked to pause (lunch)" in ended[0].sentence


async def test_a_new_target_is_not_told_the_past(store: SqlStore) -> None:
    rollout = await start(store)
    await apply(store)
    assert await hear_all(store) == []
    await happen(store, rollout, Ready(), Acked())
    assert await hear_all(store) == ["step"]


async def test_a_kill_between_row_and_delivery_loses_nothing_and_repeats_the_same_event(store: SqlStore) -> None:
    """Each line of the way, cut off: sorted but not taken, taken but not sent, sent but not settled."""
    await apply(store)
    await start(store)
    (first,) = await take(store)  # and whoever took it dies here
    assert await take(store) == (), "it is taken"
    later = NOW + 45 * SECOND
    (second,) = await take(store, now=later)
    assert (second.tries, second.number) == (2, first.number)
    assert second.message.event == first.message.event
    assert not await store.settle_message(first, Heard(), now=later), "the dead one's word does not count"
    assert await store.settle_message(second, Heard(), now=later)
    assert await take(store, now=later + dt.timedelta(hours=1)) == ()


async def test_the_place_in_the_history_and_the_rows_are_one_transaction(store: SqlStore) -> None:
    """Two sorters at once, as of two replicas, make one row."""
    await apply(store)
    await start(store)
    assert await store.sort_history(limit=100, now=NOW) == 2
    assert await store.sort_history(limit=100, now=NOW) == 0
    assert len(await store.list_deliveries("colorize", "team", limit=10)) == 1


async def test_one_that_is_away_holds_nobody_else_and_hears_what_waited_together(store: SqlStore) -> None:
    await apply(store, "away")
    await apply(store, "team")
    rollout = await start(store)
    taken = {parcel.host: parcel for parcel in await take(store)}
    assert set(taken) == {"colorize/away", "colorize/team"}
    await store.settle_message(taken["colorize/team"], Heard(), now=NOW)
    due = NOW + 10 * SECOND
    await store.settle_message(taken["colorize/away"], Later("answered 503", due), now=NOW)
    await happen(store, rollout, Ready(), Acked(), Pause("ada", ""))
    assert await hear_all(store) == ["step", "paused"], "away's are behind the one that is tried again"
    (parcel,) = await take(store, now=due)
    assert parcel.host == "colorize/away"
    assert [told.kind.value for told in parcel.message.earlier] == ["started", "step"]
    assert parcel.message.telling.kind is NotifyKind.PAUSED
    assert await store.settle_message(parcel, Heard(), now=due)
    assert all(each.delivered for each in await store.list_deliveries("colorize", "away", limit=10))
    assert await take(store, now=due + LATE) == ()


async def test_a_rollout_that_goes_to_and_fro_does_not_flood(store: SqlStore) -> None:
    await apply(store)
    rollout = await happen(store, await start(store), Ready(), Acked())
    for _ in range(20):
        rollout = await happen(store, rollout, Pause("ada", ""), Resume("ada", ""), Acked())
    messages = 0
    while taken := await take(store):
        messages += len(taken)
        for parcel in taken:
            await store.settle_message(parcel, Heard(), now=NOW)
    assert messages == BURST
    (together,) = await take(store, now=NOW + WINDOW)
    assert len(together.message.earlier) + 1 == 2 + 60 - BURST
    assert len(together.message.body) < 64 * 1024
    await store.settle_message(together, Heard(), now=NOW + WINDOW)
    assert await take(store, now=NOW + 2 * WINDOW) == ()
    await happen(store, rollout, Abort("ada", ""), at=NOW + 2 * WINDOW)
    assert await hear_all(store, now=NOW + 2 * WINDOW) == ["rolling_back"], "what is urgent does not wait"


async def test_what_is_given_up_can_be_told_again(store: SqlStore) -> None:
    await apply(store)
    await start(store)
    (parcel,) = await take(store)
    await store.settle_message(parcel, GivenUp("answered 410"), now=NOW)
    (given_up,) = await store.list_deliveries("colorize", "team", limit=10)
    assert (given_up.delivered, given_up.words, given_up.ended_at) == (False, "answered 410", NOW)
    await store.replay_delivery("colorize", "team", given_up.number, now=NOW)
    (again,) = await take(store)
    assert (again.message.event, again.tries) == (parcel.message.event, 1)
    with pytest.raises(NotFoundError, match="delivery to colorize/team '99' does not exist"):
        await store.replay_delivery("colorize", "team", 99, now=NOW)


async def test_a_target_that_is_removed_takes_its_rows_along_and_old_rows_go(store: SqlStore) -> None:
    await apply(store)
    await start(store)
    await hear_all(store)
    assert await store.prune_deliveries(NOW, limit=10) == 0
    assert await store.prune_deliveries(NOW + SECOND, limit=10) == 1
    await start_again(store)
    await store.delete_target("colorize", "team", make_change())
    assert await take(store) == ()
    await apply(store)
    assert await store.list_deliveries("colorize", "team", limit=10) == ()


async def test_the_audit_tells_who_changed_targets_and_no_secret(store: SqlStore) -> None:
    for _ in range(2):
        await apply(store, secret=TWO)
    await store.renew_target_secret("colorize", "team", make_change("bob"), secret=ONE)
    await store.delete_target("colorize", "team", make_change("bob"))
    told = await store.page_audit(AuditFilter(service="colorize", whole=True), before=None, limit=9)
    assert [(each.what, each.by) for each in told if each.what.startswith("target")] == [
        ("target-delete", "bob"),
        ("target-secret", "bob"),
        ("target-apply", "ada"),
    ]
    assert not any(secret in str(told) for secret in (ONE, TWO, HOOK))


async def start_again(store: SqlStore) -> None:
    rollout = await store.load_latest("colorize")
    assert rollout is not None
    await happen(store, rollout, Pause("ada", ""))
    await store.sort_history(limit=100, now=NOW)


# -- links -------------------------------------------------------------------------------------------------------------


async def at_gate(store: SqlStore) -> Rollout:
    rollout = await start(store, gate=True)
    return await happen(store, rollout, Ready(), Acked(), Advance("enough evidence"))


def links_of(rollout: Rollout, **changes: object) -> tuple[list[str], list[Link]]:
    tokens = [new_token() for _ in LinkAction]
    made = [
        Link(
            digest=digest_of(token),
            target="colorize/team",
            service="colorize",
            rollout=rollout.id,
            step=0,
            since=NOW,
            action=action,
            expires_at=NOW + dt.timedelta(hours=1),
        )
        for token, action in zip(tokens, LinkAction, strict=True)
    ]
    return tokens, [dataclasses.replace(each, **changes) for each in made]  # type: ignore[arg-type] # passed through


@pytest.mark.parametrize(("place", "verb"), [(0, "promote"), (1, "abort")])
async def test_a_link_is_used_once_and_audited_with_its_targets_name(store: SqlStore, place: int, verb: str) -> None:
    rollout = await at_gate(store)
    tokens, links = links_of(rollout)
    assert await store.keep_links(links)
    found, loaded = await store.load_link(digest_of(tokens[place]))
    assert (found, loaded.id) == (links[place], rollout.id)
    used = await store.use_link(digest_of(tokens[place]), why="looks fine", now=NOW)
    assert used.used_at == NOW
    for token in tokens:
        with pytest.raises(DeadLinkError, match="was used already"):
            await store.use_link(digest_of(token), why="", now=NOW)
    (pending,) = await store.load_pending(rollout.id)
    assert (type(pending.command).__name__.lower(), pending.command.by) == (verb, "link to colorize/team")
    last = (await store.history("colorize"))[-1]
    assert (last.kind, last.by, last.words) == (
        "audit",
        "link to colorize/team",
        f"{verb} asked for: looks fine",
    )
    with pytest.raises(StaleWriteError):  # a turn that read the rollout before must look again
        await store.save(rollout, now=NOW)


async def test_a_link_of_an_earlier_gate_opens_nothing(store: SqlStore) -> None:
    rollout = await at_gate(store)
    tokens, links = links_of(rollout)
    await store.keep_links(links)
    later = NOW + SECOND
    rollout = await happen(store, rollout, Promote("ada", ""), at=later)
    with pytest.raises(DeadLinkError, match="does not wait at a gate any more: it is shifting"):
        await store.use_link(digest_of(tokens[0]), why="", now=later)
    assert not await store.keep_links(links), "the gate is over"
    gated = dataclasses.replace(rollout.plan.steps[1], pause=True)
    plan = dataclasses.replace(rollout.plan, steps=(rollout.plan.steps[0], gated, *rollout.plan.steps[2:]))
    await happen(store, dataclasses.replace(rollout, plan=plan), Acked(), Advance("enough"), at=later)
    with pytest.raises(DeadLinkError, match="is of an earlier gate"):
        await store.use_link(digest_of(tokens[0]), why="", now=later)
    assert await store.load_pending(rollout.id) == ()


async def test_forged_and_expired_links_open_nothing(store: SqlStore) -> None:
    rollout = await at_gate(store)
    tokens, links = links_of(rollout)
    await store.keep_links(links)
    for forged in (new_token(), tokens[0][:-1] + "!", tokens[0][:-1], "", links[0].digest, "x" * 5_000):
        with pytest.raises(NotFoundError) as refusal:
            await store.use_link(digest_of(forged), why="", now=NOW)
        assert not forged or forged not in str(refusal.value)
    with pytest.raises(DeadLinkError, match="has expired"):
        await store.use_link(digest_of(tokens[0]), why="", now=NOW + dt.timedelta(hours=1))
    assert await store.load_pending(rollout.id) == ()
    await store.prune_deliveries(NOW + dt.timedelta(hours=2), limit=10)
    with pytest.raises(NotFoundError):
        await store.load_link(digest_of(tokens[0]))
