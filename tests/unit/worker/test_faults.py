import datetime as dt

import numpy as np
import pytest

from inference_worker.errors import ModelError, SettingError
from inference_worker.failures import is_device_lost, is_out_of_memory
from inference_worker.faults import DeviceDrill, FaultDice, FaultPlan, Outcome, Spoiler, WrongPicture


def test_no_fault_by_default() -> None:
    plan = FaultPlan()
    dice = FaultDice(plan)
    assert not plan.is_active
    assert {dice.draw() for _ in range(1000)} == {Outcome.NORMAL}
    assert dice.compute_delay(dt.timedelta(seconds=3)) == dt.timedelta(0)


def test_shares_are_kept() -> None:
    dice = FaultDice(FaultPlan(error_share=0.2, hang_share=0.1, seed=5))
    drawn = [dice.draw() for _ in range(10_000)]
    assert drawn.count(Outcome.ERROR) == pytest.approx(2000, abs=150)
    assert drawn.count(Outcome.HANG) == pytest.approx(1000, abs=120)


def test_a_seed_repeats_the_order() -> None:
    first, second = (FaultDice(FaultPlan(error_share=0.5, seed=3)) for _ in range(2))
    assert [first.draw() for _ in range(50)] == [second.draw() for _ in range(50)]


def test_delay_is_a_multiple_of_the_work_plus_a_constant() -> None:
    dice = FaultDice(FaultPlan(delay_factor=3, delay=dt.timedelta(milliseconds=10)))
    assert dice.compute_delay(dt.timedelta(milliseconds=40)) == dt.timedelta(milliseconds=90)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"error_share": 1.5}, "--fault-errors"),
        ({"hang_share": -0.1}, "--fault-hang"),
        ({"error_share": 0.7, "hang_share": 0.7}, "--fault-errors, --fault-hang"),
        ({"delay_factor": 0.5}, "--fault-delay-factor"),
        ({"delay_factor": float("nan")}, "--fault-delay-factor"),
        ({"error_share": float("nan")}, "--fault-errors"),
        ({"oom_above": 0}, "--fault-oom-above"),
        ({"device_after": -1}, "--fault-device-after"),
        ({"delay": dt.timedelta(seconds=-1)}, "--fault-delay-ms"),
    ],
)
def test_impossible_plans_are_refused(values: dict[str, object], flag: str) -> None:
    with pytest.raises(SettingError, match=flag):
        FaultPlan(**values)  # type: ignore[arg-type] # the values are wrong on purpose


def test_a_plan_names_its_faults() -> None:
    plan = FaultPlan(error_share=0.2, delay_factor=3, picture=WrongPicture.GREY, oom_above=2, device_after=0)
    assert plan.describe() == ("errors=0.2", "delay_factor=3", "picture=gray", "oom_above=2", "device_after=0")


def test_a_device_fails_for_good_after_so_many_runs() -> None:
    counted: list[str] = []
    drill = DeviceDrill(FaultPlan(device_after=2), counted.append)
    drill.check(1, is_ready=False)  # the start's own runs are not counted
    drill.check(1, is_ready=True)
    drill.check(4, is_ready=True)
    for _ in range(2):
        with pytest.raises(ModelError, match="--fault-device-after 2") as caught:
            drill.check(1, is_ready=True)
        assert is_device_lost(caught.value)
    assert counted == ["device", "device"]


def test_a_full_device_is_a_fault_of_its_own() -> None:
    counted: list[str] = []
    drill = DeviceDrill(FaultPlan(oom_above=2), counted.append)
    drill.check(2, is_ready=False)
    with pytest.raises(ModelError, match="--fault-oom-above 2") as caught:
        drill.check(3, is_ready=False)
    assert is_out_of_memory(caught.value)
    assert not is_device_lost(caught.value)
    assert counted == ["out_of_memory"]


def test_wrong_colours() -> None:
    ab = np.stack([np.full((4, 4), 7.0, np.float32), np.full((4, 4), -5.0, np.float32)])

    def spoil(how: WrongPicture) -> list[float]:
        spoilt = Spoiler(how).spoil_colours(ab)
        assert spoilt.shape == ab.shape
        assert spoilt.dtype == np.float32
        return [round(float(plane.mean()), 3) for plane in spoilt]

    assert spoil(WrongPicture.GREY) == [0, 0]
    assert spoil(WrongPicture.INVERTED) == [-7, 5]
    assert spoil(WrongPicture.SWAPPED) == [-5, 7]
    assert spoil(WrongPicture.CAST) == [12, 20]
    assert spoil(WrongPicture.PALE) == [2.1, -1.5]
    assert spoil(WrongPicture.GARISH) == [21, -15]
    assert spoil(WrongPicture.GARBAGE) == [7, -5]


def test_wrong_pixels() -> None:
    rgb = np.zeros((16, 32, 3), np.uint8)
    rgb[:, 4] = 255
    assert (Spoiler(WrongPicture.SHIFTED).spoil_pixels(rgb)[:, 12] == 255).all()
    assert 0 < Spoiler(WrongPicture.BLURRED).spoil_pixels(rgb)[8, 4, 0] < 128
    assert Spoiler(WrongPicture.HALVED).spoil_pixels(rgb).shape == (8, 16, 3)
    assert Spoiler(None).spoil_pixels(rgb) is rgb


def test_wrong_files() -> None:
    data = b"\x89PNG and more"
    garbage = Spoiler(WrongPicture.GARBAGE).spoil_file(data)
    assert (len(garbage), garbage != data) == (len(data), True)
    confused = Spoiler(WrongPicture.PREVIOUS)
    assert [confused.spoil_file(name) for name in (b"ada", b"bob", b"eve")] == [b"ada", b"ada", b"bob"]
    assert Spoiler(None).spoil_file(data) is data
