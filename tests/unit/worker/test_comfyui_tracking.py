import random

from hypothesis import given
from hypothesis import strategies as st

from inference_worker.comfyui.link import choose_pause_s
from inference_worker.comfyui.tracking import (
    Broken,
    Executing,
    Missing,
    Patience,
    Produced,
    Queued,
    Stopped,
    Unlisted,
    explain_late,
    hear,
    see,
)
from inference_worker.comfyui.wire import (
    Ended,
    Failed,
    File,
    Finished,
    Interrupted,
    Made,
    Pending,
    Running,
    Succeeded,
    Unknown,
    Worked,
)

FILE = File("a.png", "", "output")
TRACKS = st.sampled_from([Queued(1), Executing(2), Unlisted(3), Produced(FILE), Missing(), Broken("why"), Stopped()])
EVENTS = st.sampled_from(
    [Worked("p"), Worked("p", 0.5), Made("p", "3", (FILE,)), Made("p", "2", ()), Succeeded("p"), Failed("p", "x"),
     Interrupted("p")]
)  # fmt: skip
SIGHTINGS = st.sampled_from(
    [Unknown(), Pending({}), Running({}), Finished({}, {"3": (FILE,)}), Finished({}, {}), Ended(Failed("p", "x")),
     Ended(Interrupted("p"))]
)  # fmt: skip


@given(TRACKS, st.lists(EVENTS | SIGHTINGS))
def test_what_is_over_stays_over(track: object, told: list[object]) -> None:
    for one in told:
        before = track
        if isinstance(one, Worked | Made | Succeeded | Failed | Interrupted):
            track = hear(before, one, output="3", now_s=9)  # type: ignore[arg-type] # one of TRACKS
        else:
            track = see(before, one, output="3", now_s=9)  # type: ignore[arg-type] # as above
        if isinstance(before, Produced | Broken | Stopped):
            assert track == before


def test_the_usual_order_of_events() -> None:
    track = hear(Queued(1), Worked("p"), output="3", now_s=2)
    assert track == Executing(2)
    track = hear(track, Worked("p", 0.5), output="3", now_s=3)
    assert track == Executing(3, 0.5)
    assert hear(track, Worked("p"), output="3", now_s=4) == Executing(4, 0.5)
    assert hear(track, Made("p", "2", (FILE,)), output="3", now_s=4) == Executing(4)
    assert hear(track, Made("p", "3", (FILE,)), output="3", now_s=4) == Produced(FILE)


def test_success_without_files_waits_for_the_history_whatever_else_is_seen() -> None:
    track = hear(Executing(1), Succeeded("p"), output="3", now_s=2)
    assert track == Unlisted(2)
    for sighting in (Unknown(), Running({}), Pending({})):
        assert see(track, sighting, output="3", now_s=3) == track
    assert see(track, Finished({}, {"3": (FILE,)}), output="3", now_s=3) == Produced(FILE)


def test_being_listed_as_running_is_no_sign_of_work() -> None:
    assert see(Executing(1), Running({}), output="3", now_s=50) == Executing(1)
    assert see(Queued(1), Running({}), output="3", now_s=50) == Executing(50)


def test_a_prompt_that_turns_up_again_is_no_longer_missing() -> None:
    assert see(Queued(1), Unknown(), output="3", now_s=2) == Missing()
    assert see(Missing(), Pending({}), output="3", now_s=3) == Queued(3)
    assert see(Missing(), Running({}), output="3", now_s=3) == Executing(3)


def test_every_wait_has_its_own_bound() -> None:
    patience = Patience(queue_s=10, silence_s=20, history_s=5, total_s=100)
    assert explain_late(Queued(0), patience, due_s=99, now_s=9) is None
    assert "10 s in its queue" in str(explain_late(Queued(0), patience, due_s=99, now_s=10))
    assert "no sign of work for 20 s" in str(explain_late(Executing(0), patience, due_s=99, now_s=20))
    assert "within 5 s" in str(explain_late(Unlisted(0), patience, due_s=99, now_s=5))
    assert "no picture within 100 s" in str(explain_late(Executing(98), patience, due_s=99, now_s=99))
    assert explain_late(Missing(), patience, due_s=99, now_s=98) is None


def test_pauses_between_attempts_grow_are_bounded_and_differ() -> None:
    dice = random.Random(3)  # noqa: S311 - jitter
    for failures, longest in ((0, 0.5), (1, 1.0), (3, 4.0), (50, 15.0)):
        pauses = [choose_pause_s(failures, dice) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(set(pauses)) > 40
