"""A program that is missing skips its tests on a developer's machine, and fails them in CI (.ci/run)."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
IN_A_FIXTURE = "tests/contract/test_job_queue.py::test_what_is_released_comes_again[rabbitmq]"
IN_A_TEST = "tests/integration/test_jobs.py::test_the_articles_message_of_a_foreign_producer_ends_in_done"


def test_without_rabbitmq_its_tests_fail_in_ci_wherever_they_ask_for_it(tmp_path: pathlib.Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", IN_A_FIXTURE, IN_A_TEST],
        env={**os.environ, "HUESHIFT_RABBITMQ_BIN": str(tmp_path), "HUESHIFT_REQUIRE_ALL": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout
    assert "1 failed, 1 error" in ran.stdout
    missing = (
        f"HUESHIFT_REQUIRE_ALL=1 allows no skip: Skipped: rabbitmq-server is missing: HUESHIFT_RABBITMQ_BIN={tmp_path}"
    )
    assert ran.stdout.count(missing) >= 2
