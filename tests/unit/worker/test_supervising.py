import signal

from hypothesis import given
from hypothesis import strategies as st

from inference_worker.supervising import EXIT_DEVICE, Again, Over, Patience, Record, judge_end

PATIENCE = Patience(first_s=1, longest_s=5, steady_s=60, most=4)


def test_a_worker_that_was_told_to_stop_is_left() -> None:
    assert judge_end(Record(), 0, lived_s=9, patience=PATIENCE) == Over(0)
    assert judge_end(Record(2, was_restarted=True), 0, lived_s=9, patience=PATIENCE) == Over(0)


def test_a_first_start_that_is_refused_stays_refused() -> None:
    assert judge_end(Record(), 1, lived_s=1, patience=PATIENCE) == Over(1)
    assert judge_end(Record(), 2, lived_s=1, patience=PATIENCE) == Over(2)


def test_a_lost_device_and_a_signal_are_worth_another_start() -> None:
    assert judge_end(Record(), EXIT_DEVICE, lived_s=1, patience=PATIENCE) == Again(Record(1, was_restarted=True), 1)
    assert judge_end(Record(), -signal.SIGSEGV, lived_s=1, patience=PATIENCE) == Again(Record(1, was_restarted=True), 1)


def test_after_a_restart_a_model_that_does_not_load_is_tried_again() -> None:
    """The device may need a moment, and the port too."""
    assert isinstance(judge_end(Record(1, was_restarted=True), 1, lived_s=1, patience=PATIENCE), Again)


def test_pauses_grow_and_a_worker_that_keeps_dying_is_left() -> None:
    record, pauses = Record(), []
    while isinstance(follows := judge_end(record, EXIT_DEVICE, lived_s=3, patience=PATIENCE), Again):
        record = follows.record
        pauses.append(follows.pause_s)
    assert pauses == [1, 2, 4, 5]
    assert follows == Over(EXIT_DEVICE)


def test_a_worker_that_was_killed_again_and_again_ends_as_a_shell_would_tell_it() -> None:
    assert judge_end(Record(4, was_restarted=True), -signal.SIGKILL, lived_s=1, patience=PATIENCE) == Over(137)


@given(st.lists(st.tuples(st.sampled_from([EXIT_DEVICE, 1, -9]), st.floats(0, 1000)), min_size=1, max_size=40))
def test_it_starts_for_ever_only_if_it_lives(ends: list[tuple[int, float]]) -> None:
    record, soon = Record(), 0
    for code, lived_s in ends:
        soon = 1 if lived_s >= PATIENCE.steady_s else soon + 1
        follows = judge_end(record, code, lived_s=lived_s, patience=PATIENCE)
        if isinstance(follows, Over):
            assert soon > PATIENCE.most or not record.was_restarted
            return
        assert soon <= PATIENCE.most
        record = follows.record
