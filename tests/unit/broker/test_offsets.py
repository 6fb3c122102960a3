"""What of a partition may be committed, whatever the order of the answers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from controlplane.broker.offsets import Offsets


def taken(*numbers: int) -> Offsets:
    offsets = Offsets()
    for offset in numbers:
        offsets.take(offset)
    return offsets


def test_nothing_is_committed_before_the_lowest_is_answered() -> None:
    offsets = taken(7, 8, 9)
    offsets.finish(9)
    offsets.finish(8)
    assert offsets.advance() is None
    offsets.finish(7)
    assert offsets.advance() == 10


def test_each_step_is_asked_for_once_unless_it_failed() -> None:
    offsets = taken(0, 1, 2)
    offsets.finish(0)
    assert (offsets.advance(), offsets.advance()) == (1, None)
    offsets.retract()
    assert (offsets.advance(), offsets.advance()) == (1, None)


def test_answering_twice_or_what_was_never_taken_is_harmless() -> None:
    offsets = taken(0, 1)
    offsets.finish(0)
    offsets.finish(0)
    offsets.finish(5)
    assert offsets.advance() == 1


def test_a_partition_without_messages_has_a_position_and_nothing_to_commit() -> None:
    offsets = Offsets()
    assert (offsets.position, offsets.advance()) == (None, None)
    offsets.reach(4)
    assert (offsets.position, offsets.advance()) == (4, None)


def test_gaps_are_passed_over() -> None:
    """Compaction and transactions leave offsets out; the end of a partition may be one of those."""
    offsets = taken(3, 7)
    offsets.finish(3)
    assert offsets.advance() == 7
    offsets.finish(7)
    assert offsets.advance() == 8
    offsets.reach(11)
    assert offsets.advance() == 11


@given(
    start=st.integers(0, 100),
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=30),
    answers=st.data(),
)
def test_what_is_committed_never_passes_an_open_message_and_ends_behind_the_last(
    start: int, gaps: list[int], answers: st.DataObject
) -> None:
    numbers = list(itertools.accumulate(gaps, initial=start))
    offsets, still_open, committed = taken(*numbers), set(numbers), start
    for offset in answers.draw(st.permutations(numbers)):
        offsets.finish(offset)
        still_open.discard(offset)
        step = offsets.advance()
        if step is not None:
            assert step > committed
            committed = step
        assert all(each >= committed for each in still_open)
    assert committed == numbers[-1] + 1
