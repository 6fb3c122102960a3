"""The gate's promise: every known kind of broken version is blocked, a sound twin never, another style is drift."""

import numpy as np
import pytest

from controlplane.quality.pictures import read_answer
from controlplane.quality.verdict import Verdict
from inference_worker.faults import Spoiler, WrongPicture
from inference_worker.imaging import recombine
from tests.unit.quality.gallery import DEFECTS, coloured, encode, gate, healthy, make_cases

pytestmark = pytest.mark.xdist_group("gallery")  # one process colours the photos, for all of them

TWINS = ((92, 0), (85, 2), (75, 2))
"""JPEG qualities and chroma subsampling that a sound version may answer in."""


STEPS = {"v1": 3, "v2": 5}
"""Every so-manieth photo: all of them were tried once, with the same verdicts, but take minutes."""


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("model", STEPS)
def test_a_broken_version_is_blocked(model: str, defect: str) -> None:
    step = STEPS[model]
    ones = coloured(model)[::step]
    answers = [read_answer(data, one.photo.pixels) for data, one in zip(DEFECTS[defect](ones), ones, strict=True)]
    found = gate(make_cases(healthy(model)[::step], answers, ones))
    assert found.verdict is Verdict.BLOCK, found.sentence
    assert found.sentence.startswith("v2 is blocked: ")
    assert any(character.isdigit() for character in found.sentence)


@pytest.mark.parametrize("fault", WrongPicture)
def test_what_a_workers_drills_spoil_is_blocked(fault: WrongPicture) -> None:
    ones, spoiler = coloured("v1")[:: STEPS["v1"]], Spoiler(fault)
    answers = []
    for one in ones:
        picture = spoiler.spoil_pixels(recombine(one.photo.pixels, spoiler.spoil_colours(one.ab)))
        answers.append(read_answer(spoiler.spoil_file(encode(picture)), one.photo.pixels))
    found = gate(make_cases(healthy("v1")[:: STEPS["v1"]], answers, ones))
    assert found.verdict is Verdict.BLOCK, found.sentence


@pytest.mark.parametrize("model", STEPS)
def test_a_twin_that_codes_its_answers_otherwise_is_ok_in_100_draws_of_photos(model: str) -> None:
    ones = coloured(model)
    twins = []
    for quality, subsampling in TWINS:
        coded = [encode(one.pixels, quality=quality, subsampling=subsampling) for one in ones]
        answers = [read_answer(data, one.photo.pixels) for data, one in zip(coded, ones, strict=True)]
        twins.append(make_cases(healthy(model), answers, ones))
    for seed in range(100):
        random = np.random.default_rng(seed)
        drawn = random.permutation(len(ones))[:12]  # the batch is in another order, too
        found = gate([twins[random.integers(len(twins))][place] for place in drawn])
        assert found.verdict is Verdict.OK, f"seed {seed}: {found.sentence}"


@pytest.mark.parametrize(("old", "new"), [("v1", "v2"), ("v2", "v1")])
def test_the_two_shipped_models_are_told_apart_as_drift(old: str, new: str) -> None:
    found = gate(make_cases(healthy(old), healthy(new), coloured(new)))
    assert found.verdict is Verdict.DRIFT, found.sentence
    assert found.sentence.startswith("v2 drifts from v1: mean CIEDE2000 4.")
    assert len(found.worst) == 3
    assert found.notes == ()


@pytest.mark.parametrize("model", STEPS)
def test_a_version_is_like_itself_to_the_last_digit(model: str) -> None:
    cases = make_cases(healthy(model), healthy(model), coloured(model))
    found = gate(cases)
    assert found.verdict is Verdict.OK
    assert found.measures["delta_e"].high == 0
    assert found.measures["ssim_ab"].low == pytest.approx(1)
    assert set(found.strata) == {"person", "building", "landscape", "other"}
    assert found == gate(cases), "the same pictures, the same decision"
