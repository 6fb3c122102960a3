"""How figures become a verdict: limits, intervals, sentences, and what is said of an old version that is broken."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.quality.pairs import MIX_UPS, Pair, compare
from controlplane.quality.sanity import Bounds, Flaw, Unusable, View, find_flaws, measure
from controlplane.quality.verdict import Case, Limits, TooFewPairsError, Verdict, judge

SOUND = View(lab=np.zeros((8, 8, 3), np.float32), lightness=0.2, colourfulness=40, chroma=15, clipped=0.0, residual=16)
NO_ANSWER = Unusable(Flaw.MISSING, "answered 500")
SAME = Pair(
    delta_e=0.4,
    delta_e_p95=0.8,
    hue_deg=0.5,
    ssim_ab=0.99,
    old_chroma=15,
    new_chroma=15,
    old_colourfulness=40,
    new_colourfulness=40,
    lightness=0.2,
    mix_ups=(-0.5,) * len(MIX_UPS),
    offset=(0.0, 0.0),
)
LIMITS = Limits()


def case(place: int, *, old: tuple[Flaw, ...] = (), new: tuple[Flaw, ...] = (), **pair: Any) -> Case:
    changed = dataclasses.replace(SAME, **pair)
    return Case(f"photo{place}", "other" if place % 2 else "person", SOUND, SOUND, old, new, changed)


def cases(count: int = 20, **pair: Any) -> list[Case]:
    return [case(place, **pair) for place in range(count)]


def test_a_twin_is_ok_and_the_sentence_says_how_alike_it_is() -> None:
    found = judge("v1", "v2", cases(), LIMITS)
    assert found.verdict is Verdict.OK
    assert found.sentence == (
        "v2 is like v1 in 20 pictures: mean CIEDE2000 0.4 (95 % interval 0.4 to 0.4), allowed 3; none is broken"
    )
    assert found.findings == ()


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ({"delta_e": 3.1}, "mean CIEDE2000 3.1 (95 % interval 3.1 to 3.1), allowed at most 3"),
        ({"hue_deg": 11.0}, "hues turned by 11 (95 % interval 11 to 11) degrees, allowed at most 10"),
        ({"new_chroma": 20.0}, "1.33 (95 % interval 1.33 to 1.33) times as much colour, allowed 0.8 to 1.25"),
        ({"new_chroma": 11.0}, "0.733 (95 % interval 0.733 to 0.733) times as much colour, allowed 0.8 to 1.25"),
        (
            {"distances": {"feature_distance": 0.16, "lpips": 9.0}},
            "feature distance 0.16 (95 % interval 0.16 to 0.16), allowed at most 0.15",
        ),
        ({"ssim_ab": 0.85}, "colour planes alike by 0.85 (95 % interval 0.85 to 0.85), allowed at least 0.9"),
    ],
)
def test_each_limit_of_the_owner_is_drift_when_crossed_and_named(pair: dict[str, Any], words: str) -> None:
    found = judge("v1", "v2", cases(**pair), LIMITS)
    assert found.verdict is Verdict.DRIFT
    assert found.sentence == f"v2 drifts from v1: {words}"


def test_lpips_decides_only_where_the_owner_gives_a_limit() -> None:
    same = cases(distances={"feature_distance": 0.1, "lpips": 0.3})
    found = judge("v1", "v2", same, LIMITS)
    assert found.verdict is Verdict.OK
    assert found.measures["lpips"].value == pytest.approx(0.3)
    strict = judge("v1", "v2", same, dataclasses.replace(LIMITS, lpips=0.2))
    assert strict.sentence == "v2 drifts from v1: LPIPS 0.3 (95 % interval 0.3 to 0.3), allowed at most 0.2"
    assert "lpips" not in judge("v1", "v2", cases(), LIMITS).measures


def test_what_is_not_shown_to_be_within_the_limit_is_drift() -> None:
    scattered = [case(place, delta_e=[1.0, 4.4][place % 2]) for place in range(10)]
    found = judge("v1", "v2", scattered, LIMITS)
    assert found.measures["delta_e"].value < 3 < found.measures["delta_e"].high
    assert found.verdict is Verdict.DRIFT
    assert judge("v1", "v2", scattered * 20, LIMITS).verdict is Verdict.OK, "more photos show it"


@pytest.mark.parametrize("flaw", [Flaw.MISSING, Flaw.UNREADABLE, Flaw.WRONG_SIZE])
def test_one_unusable_answer_blocks_and_is_named_with_its_words(flaw: Flaw) -> None:
    broken = dataclasses.replace(case(3), new=Unusable(flaw, "its words"), new_flaws=(flaw,), pair=None)
    found = judge("v1", "v2", [*cases(), broken], LIMITS)
    assert found.verdict is Verdict.BLOCK
    assert found.sentence == f"v2 is blocked: {flaw} in 1 of 21 pictures (its words): photo3"
    assert found.worst[0] == "photo3"


def test_a_style_may_have_flaws_here_and_there_but_not_in_a_fifth_of_the_pictures() -> None:
    some = [*cases(16), *(case(place, new=(Flaw.GARISH,)) for place in range(16, 20))]
    assert judge("v1", "v2", some, LIMITS).verdict is Verdict.OK
    found = judge("v1", "v2", [*some, case(20, new=(Flaw.GARISH,))], LIMITS)
    assert found.verdict is Verdict.BLOCK
    assert "newly garish in 5 of 21 pictures (allowed 20%): photo16, photo17, photo18, …" in found.sentence


def test_a_flaw_of_style_that_the_old_version_has_too_is_not_held_against_the_new_one() -> None:
    assert judge("v1", "v2", cases(old=(Flaw.PALE,), new=(Flaw.PALE,)), LIMITS).verdict is Verdict.OK


def test_a_bug_that_the_old_version_has_too_still_blocks_and_that_is_said() -> None:
    found = judge("v1", "v2", cases(old=(Flaw.GREY,), new=(Flaw.GREY,)), LIMITS)
    assert found.verdict is Verdict.BLOCK
    assert found.notes == ("v1 itself: grey in 20 of 20 pictures: photo0, photo1, photo2, …",)


def test_far_more_or_less_colour_or_colours_beside_their_objects_block() -> None:
    for pair, words in (
        ({"new_chroma": 40.0}, "2.67 (95 % interval 2.67 to 2.67) times as much colour, allowed 0.4 to 2.5"),
        ({"new_chroma": 5.0}, "0.333 (95 % interval 0.333 to 0.333) times as much colour"),
        ({"lightness": 2.5}, "L changed by 2.5 (95 % interval 2.5 to 2.5) on average, allowed 2"),
        ({"offset": (0.0, -0.02)}, "colours lie 2 % of the picture's side beside the old ones"),
        ({"mix_ups": (0.9, *SAME.mix_ups[1:])}, "a and b are swapped: undone, they match the old ones better in 20 of"),
    ):
        found = judge("v1", "v2", cases(**pair), LIMITS)
        assert found.verdict is Verdict.BLOCK
        assert words in found.sentence


def test_the_worst_reason_is_the_sentence_and_the_others_follow() -> None:
    found = judge("v1", "v2", [*cases(delta_e=9.0), case(20, new=(Flaw.LIGHTNESS, Flaw.GREY))], LIMITS)
    assert found.sentence.startswith("v2 is blocked: lightness changed in 1 of 21")
    assert found.sentence.endswith("; and 1 more")
    assert [finding.verdict for finding in found.findings] == [Verdict.BLOCK, Verdict.BLOCK, Verdict.DRIFT]


def test_without_an_old_version_to_compare_with_there_is_no_verdict_unless_the_new_one_is_broken() -> None:
    blind = [dataclasses.replace(one, old=NO_ANSWER, old_flaws=(Flaw.MISSING,), pair=None) for one in cases(15)]
    with pytest.raises(TooFewPairsError, match=r"v1: only 5 of 20 .* \(answered 500\); 8 are needed"):
        judge("v1", "v2", [*blind, *cases(5)], LIMITS)
    broken = dataclasses.replace(case(0), new=NO_ANSWER, new_flaws=(Flaw.MISSING,), pair=None)
    assert judge("v1", "v2", [*blind, broken], LIMITS).verdict is Verdict.BLOCK


@given(st.permutations(range(12)), st.integers(0, 2**32 - 1))
def test_an_interval_holds_its_mean_and_the_order_of_photos_moves_no_mean(order: list[int], seed: int) -> None:
    photos = [case(place, delta_e=float(place), hue_deg=float(place**2)) for place in range(12)]
    found = judge("v1", "v2", [photos[place] for place in order], LIMITS, seed=seed)
    assert found.measures["delta_e"].value == pytest.approx(5.5)
    for interval in found.measures.values():
        assert interval.low <= interval.value + 1e-9
        assert interval.value <= interval.high + 1e-9
    assert found.worst == ("photo11", "photo10", "photo9")


def test_flaws_are_found_at_their_bounds() -> None:
    bounds = Bounds()
    assert find_flaws(SOUND, bounds) == ()
    for change, flaw in (
        ({"lightness": 5.1}, Flaw.LIGHTNESS),
        ({"colourfulness": 2.9}, Flaw.GREY),
        ({"colourfulness": 7.9}, Flaw.PALE),
        ({"colourfulness": 75.1}, Flaw.GARISH),
        ({"clipped": 0.26}, Flaw.CLIPPED),
        ({"residual": 5.0}, Flaw.TINTED),
    ):
        assert find_flaws(dataclasses.replace(SOUND, **change), bounds) == (flaw,)  # type: ignore[arg-type] # by name
    assert find_flaws(NO_ANSWER, bounds) == (Flaw.MISSING,)


def patches(seed: int) -> np.ndarray:
    """Blobs of colour."""
    random = np.random.default_rng(seed)
    small = random.integers(40, 215, (6, 8, 3)).astype(np.float64)
    return np.kron(small, np.ones((16, 16, 1))).astype(np.uint8)


@given(st.integers(0, 2**32 - 1), st.integers(0, len(MIX_UPS) - 1))
def test_every_mix_up_of_the_colour_planes_is_recognised(seed: int, place: int) -> None:
    photo = patches(seed)
    old = measure(photo, photo)
    matrix = list(MIX_UPS.values())[place].astype(np.float32)
    lab = np.concatenate([old.lab[..., :1], old.lab[..., 1:] @ matrix.T], axis=-1)
    pair = compare(old, dataclasses.replace(old, lab=lab))
    assert max(pair.mix_ups) > 0
    assert int(np.argmax(pair.mix_ups)) == place
    assert max(compare(old, old).mix_ups) < 0


@given(st.integers(0, 2**32 - 1))
def test_a_picture_has_no_distance_from_itself(seed: int) -> None:
    view = measure(patches(seed), patches(seed))
    pair = compare(view, view)
    assert (pair.delta_e, pair.hue_deg) == (0, 0)
    assert max(map(abs, pair.offset)) < 1e-9
    assert pair.ssim_ab == pytest.approx(1)
    assert view.lightness == 0
