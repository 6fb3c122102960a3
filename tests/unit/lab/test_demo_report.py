"""The demo's closing figures, from records whose story is known."""

import numpy as np

from controlplane.lab.demo import FAULT_FLAGS, STORY, Fault, worker_flags
from controlplane.lab.demo_report import FAULT_HEADER, VERSION_HEADER, Span, config_failures, measure
from controlplane.lab.load import Outcome, Records

# Four requests to v9: fine, an injected error, a time-out while it hangs, and an error that nobody injected.
RECORDS = Records(
    due=np.array([1.0, 2.0, 3.0, 4.0]),
    start=np.array([1.0, 2.0, 3.0, 4.0]),
    end=np.array([1.1, 2.1, 11.0, 4.1]),
    status=np.array([200, 500, 0, 503], dtype=np.int16),
    outcome=np.array([0, 0, int(Outcome.TIMED_OUT), 0], dtype=np.int8),
    error=np.zeros(4, dtype=np.int32),
    marks={
        VERSION_HEADER: np.array([1, 1, 0, 0], dtype=np.int32),
        FAULT_HEADER: np.array([0, 2, 0, 0], dtype=np.int32),
    },
    words=("", "v9", "error"),
)


def span(*, hangs: bool) -> Span:
    return Span(version="v9", began=0.0, ended=10.0, hangs=hangs)


def test_a_hung_request_counts_when_it_was_sent_and_only_where_a_version_hangs() -> None:
    assert measure(RECORDS, span(hangs=True)) == (0.9, 2, 3)
    assert measure(RECORDS, span(hangs=False)) == (0.0, 1, 2)


def test_what_nobody_injected_is_the_configurations_fault() -> None:
    assert config_failures(RECORDS, [span(hangs=True)]) == 1
    assert config_failures(RECORDS, [span(hangs=False)]) == 2


def test_every_chapter_has_its_worker() -> None:
    assert set(FAULT_FLAGS) == set(Fault)
    for chapter in STORY:
        assert set(FAULT_FLAGS[chapter.fault]) <= set(worker_flags(chapter.version, 1))
