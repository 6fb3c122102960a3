"""Spans and shares: what people write is what is meant, exactly."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api import units


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("300s", 300_000),
        ("1.5s", 1_500),
        ("2m", 120_000),
        ("100ms", 100),
        ("1h30m", 5_400_000),
        ("7d", 604_800_000),
        (" 10 s ", 10_000),
        (0, 0),
    ],
)
def test_a_span_is_read_with_its_unit(text: object, milliseconds: int) -> None:
    assert units.parse_span(text) == dt.timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize(
    ("given_value", "words"),
    [
        (300, "300 has no unit; write 300s or 300ms"),
        ("300", "300 has no unit"),
        (1.5, "1.5 has no unit"),
        ("soon", "'soon' is not a time"),
        ("-5s", "'-5s' is not a time"),
        ("", "'' is not a time"),
        ("5  s", "'5  s' is not a time"),
        ("9999999d", "out of range"),
        (True, "True is not a time"),
        (None, "None is not a time"),
        ([], "[] is not a time"),
    ],
)
def test_a_span_without_a_unit_or_sense_is_refused(given_value: object, words: str) -> None:
    with pytest.raises(units.UnitError) as refused:
        units.parse_span(given_value)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "number", "written"),
    [
        ("20GiB", 20 << 30, "20GiB"),
        ("500 MiB", 500 << 20, "500MiB"),
        ("1024KiB", 1 << 20, "1MiB"),
        ("1TiB", 1 << 40, "1TiB"),
        ("1500B", 1500, "1500B"),
        (0, 0, "0B"),
        ("0B", 0, "0B"),
    ],
)
def test_a_size_is_read_with_its_unit_and_written_back(text: object, number: int, written: str) -> None:
    assert (units.parse_bytes(text), units.format_bytes(number)) == (number, written)


@pytest.mark.parametrize(
    ("given_value", "words"),
    [
        (20, "20 has no unit; write 20B or 20GiB"),
        ("20", "'20' is not a size; write a whole number and B, KiB"),
        ("20GB", "'20GB' is not a size"),
        ("1.5GiB", "'1.5GiB' is not a size"),
        ("-1B", "is not a size"),
        (True, "True is not a size"),
        (1.5, "1.5 is not a size"),
        (None, "None is not a size"),
    ],
)
def test_a_size_without_a_unit_or_sense_is_refused(given_value: object, words: str) -> None:
    with pytest.raises(units.UnitError) as refused:
        units.parse_bytes(given_value)
    assert words in str(refused.value)


@given(st.integers(0, 1 << 50))
def test_a_size_is_read_back_as_it_was(number: int) -> None:
    assert units.parse_bytes(units.format_bytes(number)) == number


@pytest.mark.parametrize(
    ("text", "weight_bp"),
    [("5%", 500), ("0.01%", 1), ("100%", 10_000), (0.05, 500), ("0.05", 500), (0, 0), ("0%", 0), ("12.5 %", 1_250)],
)
def test_a_weight_is_read_in_basis_points(text: object, weight_bp: int) -> None:
    assert units.parse_weight_bp(text) == weight_bp


@pytest.mark.parametrize(
    ("given_value", "words"),
    [
        (5, "5 has no unit; write 5%"),
        (1, "1 has no unit; write 1%"),
        ("5", "5 is more than 1; write 5% if percent is meant"),
        ("101%", "101% is out of range"),
        ("-1%", "-1% is out of range"),
        ("0.001%", "finer than a weight can be"),
        ("many", "'many' is not a percentage"),
        ("nan%", "is not a percentage"),
        ("inf", "is not a percentage"),
        (True, "True is not a percentage"),
        (None, "None is not a percentage"),
    ],
)
def test_a_weight_that_could_be_misread_is_refused(given_value: object, words: str) -> None:
    with pytest.raises(units.UnitError) as refused:
        units.parse_weight_bp(given_value)
    assert words in str(refused.value)


@given(st.integers(0, 10**12))
def test_every_span_is_written_so_that_it_is_read_back(micros: int) -> None:
    span = dt.timedelta(microseconds=micros)
    assert units.parse_span(units.format_span(span)) == span


@given(st.integers(0, 10_000))
def test_every_weight_is_written_so_that_it_is_read_back(weight_bp: int) -> None:
    assert units.parse_weight_bp(units.format_weight(weight_bp)) == weight_bp


@given(st.floats(0, 1))
def test_every_ratio_is_written_so_that_it_is_read_back(ratio: float) -> None:
    assert float(units.parse_ratio(units.format_ratio(ratio))) == ratio


@given(st.floats(1, 300_000))
def test_every_threshold_is_written_so_that_it_is_read_back(milliseconds: float) -> None:
    assert float(units.parse_span_ms(units.format_ms(milliseconds))) == milliseconds


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (dt.timedelta(seconds=300), "300s"),
        (dt.timedelta(hours=2), "2h"),
        (dt.timedelta(milliseconds=100), "100ms"),
        (dt.timedelta(seconds=1.5), "1.5s"),
        (dt.timedelta(days=7), "7d"),
        (dt.timedelta(minutes=90), "90m"),
    ],
)
def test_a_span_is_written_as_people_would(span: dt.timedelta, text: str) -> None:
    assert units.format_span(span) == text
