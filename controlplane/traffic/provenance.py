"""Which model a version's workers serve, as they say, and whether it is the one that its declaration pins. Pure.

Context: a version is a name; what its workers have loaded is whatever was in their folder when they started, and a
judge that compares the wrong model with the right one proves nothing. Choice: a version may pin its model by checksum,
and its workers are asked. Consequence: another model keeps a candidate from more traffic, however well it answers.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final

from controlplane.traffic.model import ModelPin, Version

STALE: Final = dt.timedelta(seconds=60)
"""How old a worker's last word may be before it confirms nothing any more."""
SHOWN_DIGITS: Final = 12


@dataclasses.dataclass(frozen=True, slots=True)
class ServedModel:
    """One model that a worker says it serves; its *checksum* is ``sha256:`` and 64 hexadecimal digits."""

    name: str
    checksum: str
    version: str = ""
    family: str = ""
    backend: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({short(self.checksum)})"


@dataclasses.dataclass(frozen=True, slots=True)
class ModelReport:
    """What the worker at *address*, ``host:port``, of a version's *cluster* said last, at *at*: None if never.

    *words* say why the newest asking gave nothing; they are empty when it was answered.
    """

    cluster: str
    address: str
    models: tuple[ServedModel, ...] = ()
    code_version: str = ""
    words: str = ""
    at: dt.datetime | None = None


def matches(pin: ModelPin, report: ModelReport) -> bool | None:
    """Whether a worker serves what is pinned; None where it never said what it serves."""
    if report.at is None:
        return None
    is_code = not pin.code_version or pin.code_version == report.code_version
    return is_code and any((model.name, model.checksum) == (pin.name, pin.checksum) for model in report.models)


def deviations(version: Version, reports: Iterable[ModelReport]) -> tuple[str, ...]:
    """Say which workers of *version* serve something else than its pin, one phrase each."""
    pin = version.model
    if pin is None:
        return ()
    return tuple(
        f"{report.address} {'last said that it serves' if report.words else 'serves'} {_served(pin, report)}, "
        f"but {version.name} is {pin}"
        for report in reports
        if report.cluster == version.cluster and matches(pin, report) is False
    )


def holds(version: Version, reports: Sequence[ModelReport], *, now: dt.datetime) -> tuple[str, ...]:
    """Say why *version* may get no more traffic: workers that deviate, or that none confirms the pin."""
    pin = version.model
    if pin is None:
        return ()
    others = deviations(version, reports)
    if others or any(_confirms(version, pin, report, now) for report in reports):
        return others
    silent = [report for report in reports if report.cluster == version.cluster and report.words]
    why = f" ({silent[0].address}: {silent[0].words})" if silent else ""
    return (f"no worker of {version.name} has confirmed that it serves {pin}{why}",)


def short(checksum: str) -> str:
    """Write a checksum as people compare it: ``sha256:`` and the first digits."""
    kind, _, digits = checksum.rpartition(":")
    return f"{kind}:{digits[:SHOWN_DIGITS]}" if kind else digits[:SHOWN_DIGITS]


def _confirms(version: Version, pin: ModelPin, report: ModelReport, now: dt.datetime) -> bool:
    is_recent = report.at is not None and now - report.at <= STALE
    return report.cluster == version.cluster and is_recent and matches(pin, report) is True


def _served(pin: ModelPin, report: ModelReport) -> str:
    found = ", ".join(map(str, report.models)) or "no model"
    same = any((model.name, model.checksum) == (pin.name, pin.checksum) for model in report.models)
    return f"{found} by code {report.code_version or 'without a version'}" if same else found
