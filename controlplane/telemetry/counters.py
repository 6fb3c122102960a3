"""What counters that only grow have grown by since they were booked, and which tick that growth belongs to.

*booked* holds, of one Envoy, what SQL knows or is about to know: its counters and its codes, by their keys in `Report`.
"""

from collections.abc import Mapping
from typing import Final

from controlplane.telemetry.reports import STARTED, Report
from controlplane.telemetry.tally import Tally

CODES_READ: Final = "codes"
"""A key of books that know single statuses, beside those of counters."""


def completed(booked: Mapping[str, int], report: Report) -> int:
    """How many answers *report* adds to what is booked."""
    return sum(
        _growth(booked.get(key), value) for key, value in report.counters.items() if not key.endswith(f"/{STARTED}")
    )


def adopt_codes(booked: dict[str, int], report: Report) -> bool:
    """Take for booked what an Envoy counted by single status while a release that did not read that kept its books.

    Without this the first report after an upgrade would make a tick of all the 422s since that Envoy started. How many
    of them are new nobody can tell, so none is counted. Such books lack `CODES_READ`: an older release never wrote it,
    and one that goes on with ours drops it, as it drops every key that its reports lack. Return whether it was lacking.
    """
    if CODES_READ in booked:
        return False
    if booked:  # empty ones are an Envoy's that counts from its first request
        for key, value in report.codes.items():
            booked.setdefault(key, value)
    booked[CODES_READ] = 1
    return True


def drop_missing(booked: dict[str, int], report: Report) -> bool:
    """Forget what is missing from a report that is whole: its cluster was removed. Return whether anything was."""
    missing = booked.keys() - report.counters.keys() - report.codes.keys() - {CODES_READ}
    for key in missing:
        del booked[key]
    return bool(missing)


def book(booked: dict[str, int], report: Report, tally: Tally) -> bool:
    """Count in *tally* what *report* adds to *booked*; return whether it adds anything.

    A gRPC status may come long after the headers by which its call was completed. A tick takes no more of them than it
    has completed calls, since a share of bad ones above one is none: the rest stays unbooked until there is room.
    """
    changed = False
    for key, value in report.counters.items():
        before = booked.get(key)
        if value != before:
            booked[key] = value
            changed = True
            if grown := _growth(before, value):
                cluster, _, statistic = key.rpartition("/")
                tally.add(cluster, statistic, grown)
    for key, value in report.codes.items():
        before = booked.get(key)
        if value == before:
            continue
        cluster, _, code = key.rpartition("/")
        grown = due = _growth(before, value)
        if code.startswith("grpc-"):
            due = min(grown, tally.room(cluster))
        after = value - grown + due
        if after != before:
            booked[key] = after
            changed = True
        if due:
            tally.add_code(cluster, code, due)
    return changed


def _growth(before: int | None, value: int) -> int:
    return value if before is None or value < before else value - before
