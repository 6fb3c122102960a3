import pytest

from inference_worker.backends import Device
from inference_worker.errors import SettingError
from inference_worker.places import Place, confine, list_visible, name_first, read_place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("auto", Place(Device.AUTO)),
        ("cpu", Place(Device.CPU)),
        ("cuda", Place(Device.CUDA)),
        ("cuda:0", Place(Device.CUDA, 0)),
        ("cuda:12", Place(Device.CUDA, 12)),
        ("tensorrt:1", Place(Device.TENSORRT, 1)),
    ],
)
def test_a_place_is_read(text: str, place: Place) -> None:
    assert read_place(text) == place


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1,2", "cpu:0", "auto:1", "CUDA"])
def test_no_other_place_is(text: str) -> None:
    with pytest.raises(SettingError, match="--device: "):
        read_place(text)


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        ("0,1", ("0", "1")),
        (" 2 , 0", ("2", "0")),
        ("0,2,-1,1", ("0", "2")),  # CUDA's documentation: only what stands before an invalid entry
        (
            "GPU-8932f937,MIG-41b36db5-df92-5e43-bb42-1d1e8e0c1d3a",
            ("GPU-8932f937", "MIG-41b36db5-df92-5e43-bb42-1d1e8e0c1d3a"),
        ),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)
def test_the_visible_devices_end_at_the_first_bad_entry(value: str, entries: tuple[str, ...]) -> None:
    assert list_visible({"CUDA_VISIBLE_DEVICES": value}) == entries


BY_BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("text", "given", "left", "named"),
    [
        ("cuda", {}, None, "0"),
        ("auto", {}, None, "0"),
        ("cuda:1", {}, "1", "1"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "3,2"}, "2", "2"),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "3,2"}, "3,2", "3"),
        ("tensorrt:0", {"CUDA_VISIBLE_DEVICES": "3,2"}, "3", "3"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}, "GPU-bb", "GPU-bb"),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, "", None),
        ("auto", {"CUDA_VISIBLE_DEVICES": "-1"}, "-1", None),
        ("cuda:1", {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, "1", None),  # NVML's number 1 may be another one
        ("cuda:1", {"CUDA_DEVICE_ORDER": "FASTEST_FIRST", "CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}, "GPU-bb", "GPU-bb"),
    ],
)
def test_a_process_sees_its_own_device_only_and_nvml_is_asked_for_the_same(
    text: str, given: dict[str, str], left: str | None, named: str | None
) -> None:
    after = given | confine(read_place(text), given)
    assert after.get("CUDA_VISIBLE_DEVICES") == left
    assert after["CUDA_DEVICE_ORDER"] == given.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert name_first(after) == named


def test_confined_once_more_it_stays_where_it_is() -> None:
    """A supervised worker starts from the variables of its parent, which confines nothing itself."""
    after = confine(read_place("cuda:1"), {"CUDA_VISIBLE_DEVICES": "3,2"})
    assert after | confine(read_place("cuda:0"), after) == after


def test_on_the_cpu_nothing_is_touched() -> None:
    assert confine(Place(Device.CPU), {}) == {}


@pytest.mark.parametrize(("visible", "fix"), [("0,1", "has no number 2; give 0 to 1"), ("-1", "it leaves none")])
def test_a_device_that_is_hidden_is_refused(visible: str, fix: str) -> None:
    with pytest.raises(SettingError, match=fix):
        confine(read_place("cuda:2"), {"CUDA_VISIBLE_DEVICES": visible})
