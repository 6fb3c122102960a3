"""Ends of jobs as real processes tell them: to receivers that fail, hang and come back, by a process that is killed."""

import contextlib
import pathlib
from collections.abc import Callable

import pytest

from controlplane.jobs.callbacks import TYPE
from controlplane.lab.ports import free_ports
from tests.envoy import wait_until
from tests.integration.test_jobs import Owner, running_stack
from tests.picture_worker import running_worker
from tests.receivers import Receiver, running_receiver

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

JOBS = 20


async def apply(owner: Owner, name: str, address: str) -> str:
    answer = await owner.ask("PUT", f"/v1/job-callbacks/{name}", json={"callback": name, "address": address})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["secret"])


async def wait_for(fact: Callable[[], bool], what: str) -> None:
    async def ask() -> bool:
        return fact()

    await wait_until(ask, what, within=240)


async def test_every_end_is_told_whatever_fails_hangs_or_is_killed(tmp_path: pathlib.Path) -> None:
    """`shop` fails, then hangs, then takes all; `own` always does; `slow` never answers; nobody is at `dead`."""
    with contextlib.ExitStack() as opened:
        worker = opened.enter_context(running_worker(slow_s=0.02))
        shop, own, slow = (opened.enter_context(running_receiver()) for _ in range(3))
        (nobody,) = free_ports(1)
        hosts = ", ".join(f"127.0.0.1:{port}" for port in (shop.port, own.port, slow.port, nobody))
        settings = {"HUESHIFT_CALLBACK_HOSTS": hosts, "HUESHIFT_CALLBACK_NETWORKS": "127.0.0.0/8"}
        async with running_stack(tmp_path, worker, HUESHIFT_JOB_SLOTS="8", **settings) as stack:
            owner = Owner(stack, tmp_path)
            await owner.apply_kind(attempts=1)
            shop.secret = await apply(owner, "shop", shop.url)
            await apply(owner, "slow", slow.url)
            await apply(owner, "dead", f"http://127.0.0.1:{nobody}/")
            own.secret = (await owner.ask("POST", "/v1/job-callbacks/task/secret", json={})).json()["secret"]
            shop.status = 500
            slow.hangs.set()

            ends = dict.fromkeys([await owner.submit(n, callback_url=own.url) for n in range(JOBS)], "done")
            await wait_for(lambda: shop.calls >= 4, "some calls in vain")
            await stack.kill_control_plane()
            await stack.start_control_plane()
            await owner.wait_all_ended()
            worker.status = 422
            ends |= dict.fromkeys([await owner.submit(n, callback_url=own.url) for n in range(JOBS, JOBS + 5)], "dead")
            await owner.wait_all_ended()
            worker.is_away.set()
            for number in range(3):
                ends[job := await owner.submit(number, callback_url=own.url)] = "cancelled"
                assert (await owner.ask("POST", f"/v1/jobs/{job}/cancel", json={})).status_code == 202
            shop.hangs.set()
            before = shop.calls
            await wait_for(lambda: shop.calls > before, "a call that hangs")
            await stack.kill_control_plane()
            shop.status = 204
            shop.hangs.clear()
            await stack.start_control_plane()

            for receiver in (own, shop):
                await wait_for(lambda known=receiver: known.taken.keys() >= ends.keys(), "all are told")  # type: ignore[misc] # bound now
                check_told(receiver, ends)
            assert shop.calls > len(ends), "some were told again"
            job = next(iter(ends))
            told = {each["callback"]: each for each in (await owner.ask("GET", f"/v1/jobs/{job}")).json()["callbacks"]}
            assert told["shop"]["delivered"]
            assert told["task"]["delivered"]
            assert not told["dead"]["delivered"]
            assert told["dead"]["words"] in {"", "its host does not answer (ConnectError)"}
        log = (tmp_path / "control-plane.log").read_text()
        for secret in ("s3cret", "/hooks", "whsec_", shop.secret):
            assert secret not in log
        assert "notice.delivered" in log


def check_told(receiver: Receiver, ends: dict[str, str]) -> None:
    """Each end came at least once, verified, and each repetition is the same to the byte."""
    assert receiver.refused == []
    assert {job: events[0]["data"]["state"] for job, events in receiver.taken.items()} == ends
    for job, events in receiver.taken.items():
        assert len({event["id"] for event in events}) == 1
        assert events[0]["type"] == f"{TYPE}.{ends[job]}"
        assert len(receiver.bodies[events[0]["id"]]) == 1
    assert len(receiver.bodies) == len(ends), "no end has two ids"


async def test_a_stop_ends_the_process_at_once_whoever_hangs(tmp_path: pathlib.Path) -> None:
    with running_worker() as worker, running_receiver() as receiver:
        receiver.hangs.set()
        settings = {
            "HUESHIFT_CALLBACK_HOSTS": f"127.0.0.1:{receiver.port}",
            "HUESHIFT_CALLBACK_NETWORKS": "127.0.0.0/8",
            "HUESHIFT_CALLBACK_SERVICES": "json",
            "HUESHIFT_DRAIN": "PT0S",
        }
        async with running_stack(tmp_path, worker, **settings) as stack:
            owner = Owner(stack, tmp_path)
            await owner.apply_kind()
            await apply(owner, "team", f"json://127.0.0.1:{receiver.port}/")
            await apply(owner, "shop", receiver.url)
            await owner.submit(1)
            await wait_for(lambda: receiver.calls >= 2, "both hang")
            assert await stack.control_plane.stop() == 0
