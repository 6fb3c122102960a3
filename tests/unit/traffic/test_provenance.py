"""Which workers serve what is pinned, and what holds a candidate's next step."""

import dataclasses

import pytest

from controlplane.errors import InvalidInputError
from controlplane.traffic.model import ModelPin, ServiceSpec
from controlplane.traffic.provenance import STALE, ModelReport, ServedModel, deviations, holds, matches
from tests.builders import NOW, make_pin, make_report, make_spec, make_version, pinned, seconds

OTHER = make_pin(digit="b")
VERSION = dataclasses.replace(make_version("v2"), model=make_pin())
SILENT = ModelReport("colorize_v2", "127.0.0.1:9", words="it cannot be reached")


def test_a_version_without_a_pin_is_held_by_nothing() -> None:
    assert holds(make_version("v2"), [make_report(pin=OTHER)], now=NOW) == ()
    assert deviations(make_version("v2"), [make_report(pin=OTHER)]) == ()


def test_a_worker_that_confirms_the_pin_lets_the_version_go_on() -> None:
    assert holds(VERSION, [make_report(), SILENT], now=NOW) == ()


def test_one_worker_with_other_weights_holds_it_and_is_named_with_both() -> None:
    reports = [make_report(), make_report("10.0.0.2:8083", pin=OTHER)]
    (words,) = holds(VERSION, reports, now=NOW)
    assert words == ("10.0.0.2:8083 serves v2 (sha256:bbbbbbbbbbbb), but v2 is v2 (sha256:aaaaaaaaaaaa)")


def test_the_same_weights_under_another_name_are_another_model() -> None:
    assert matches(make_pin(), make_report(pin=make_pin("v1"))) is False


def test_workers_of_other_versions_say_nothing_of_this_one() -> None:
    assert deviations(VERSION, [make_report(cluster="colorize_v1", pin=OTHER)]) == ()
    (words,) = holds(VERSION, [make_report(cluster="colorize_v1")], now=NOW)
    assert words == "no worker of v2 has confirmed that it serves v2 (sha256:aaaaaaaaaaaa)"


def test_one_of_several_models_is_enough() -> None:
    both = dataclasses.replace(make_report(), models=(ServedModel("anime", OTHER.checksum), *make_report().models))
    assert holds(VERSION, [both], now=NOW) == ()


def test_pinned_code_is_compared_and_other_code_is_told() -> None:
    version = dataclasses.replace(VERSION, model=make_pin(code="1.2"))
    assert holds(version, [make_report(pin=make_pin(code="1.2"))], now=NOW) == ()
    (words,) = holds(version, [make_report(pin=make_pin(code="1.1"))], now=NOW)
    assert words.startswith("127.0.0.1:8083 serves v2 (sha256:aaaaaaaaaaaa) by code 1.1, but")
    assert words.endswith("by code 1.2")


def test_silence_confirms_nothing_and_says_why() -> None:
    (words,) = holds(VERSION, [SILENT], now=NOW)
    assert words.endswith("(127.0.0.1:9: it cannot be reached)")


def test_an_old_word_confirms_nothing_any_more_but_still_deviates() -> None:
    later = NOW + STALE + seconds(1)
    gone = dataclasses.replace(make_report(), words="it cannot be reached")
    assert holds(VERSION, [gone], now=NOW) == ()
    assert "confirmed" in holds(VERSION, [gone], now=later)[0]
    (words,) = holds(VERSION, [dataclasses.replace(make_report(pin=OTHER), words="gone")], now=later)
    assert words.startswith("127.0.0.1:8083 last said that it serves")


@pytest.mark.parametrize(
    ("name", "checksum", "code", "field"),
    [
        ("", "sha256:" + "a" * 64, "", "model.name"),
        ("v\n2", "sha256:" + "a" * 64, "", "model.name"),
        ("v2", "a" * 64, "", "model.checksum"),
        ("v2", "sha256:" + "A" * 64, "", "model.checksum"),
        ("v2", "sha256:" + "a" * 64, "1" * 200, "model.code_version"),
    ],
)
def test_a_pin_that_no_worker_could_report_is_refused(name: str, checksum: str, code: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        ModelPin(name, checksum, code)
    assert refused.value.field == field


def test_a_pin_behind_grpc_is_refused_since_nobody_could_check_it() -> None:
    def grpc(spec: ServiceSpec) -> ServiceSpec:
        return dataclasses.replace(spec, grpc_target="colorize")

    grpc(make_spec())
    with pytest.raises(InvalidInputError, match="grpc_target"):
        grpc(pinned(make_spec()))
