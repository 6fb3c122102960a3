"""Rules for every test: no sockets but loopback ones of `integration` tests, and in CI no skip."""

import gc
import importlib.util
import os
from collections.abc import Generator

import pytest

# `make test-torch` has an environment of its own; here, its tests could not even be imported.
collect_ignore = [] if importlib.util.find_spec("torch") else ["torch"]

if importlib.util.find_spec("hypothesis"):  # not in that environment
    from hypothesis import HealthCheck, settings

    # The machine may be busy: how long an example takes, or its making, says nothing.
    settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("house")


OF_JUDGING = frozenset(
    {
        "test_judge.py",
        "test_prometheus.py",
        "test_provenance.py",
        "test_quality.py",
        "test_quality_gate.py",
        "test_quality_live.py",
        "test_tutorial.py",
    }
)
OF_JOBS = frozenset(
    {
        "test_batch.py",
        "test_bench_jobs.py",
        "test_fetching.py",
        "test_job_callbacks.py",
        "test_job_queue.py",
        "test_job_rollback.py",
        "test_jobs.py",
        "test_kafka_queue.py",
        "test_mail_and_chat.py",
        "test_page.py",
        "test_ui.py",
        "test_webhooks.py",
    }
)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist's, which a run in one process goes without
def pytest_xdist_auto_num_workers() -> int:
    """Run two processes more than there are cores: most of what real servers are tested with is waiting for them."""
    return (os.cpu_count() or 1) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pyproject.toml disables sockets for all tests; those that start real servers get loopback back.

    With several processes (`make test`) one of them runs what is of jobs, one after the other, one what is judged, and
    one all else that starts servers: a fleet more on one machine would only make all wait. They go first, since they
    take longest; whichever process has done with its own runs what waits for nobody.
    """
    for item in items:
        if item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1", "::1", "localhost"]))
            item.add_marker(pytest.mark.xdist_group(_group_of(item.path.name)))
    items.sort(key=lambda item: item.get_closest_marker("integration") is None)


def pytest_collection_finish() -> None:
    """What thousands of tests consist of stays to the end, so that no collection of garbage has to go through it."""
    gc.collect()
    gc.freeze()


def _group_of(file: str) -> str:
    if file in OF_JOBS:
        return "jobs"
    return "judging" if file in OF_JUDGING else "servers"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001 - pytest matches hook arguments by name
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under HUESHIFT_REQUIRE_ALL=1 (.ci/run) a skipped test is a failed one: nothing may be missing there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("HUESHIFT_REQUIRE_ALL") == "1":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"HUESHIFT_REQUIRE_ALL=1 allows no skip: {why}"
    return report
