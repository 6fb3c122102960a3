"""What a message is about, for every entry that the lifecycle can leave; and the table of kinds in the documents."""

import inspect
import pathlib
import re

import pytest

from controlplane.notify import kinds
from controlplane.notify.kinds import NotifyKind, kind_of, type_of
from controlplane.notify.model import telling_of
from controlplane.ports import HistoryEntry, LoggedEntry, RolloutId
from tests.builders import NOW

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "messages.md"


def entry(
    what: str, before: str = "", after: str = "", *, kind: str = "transition", rollout: str | None = "colorize-1"
) -> LoggedEntry:
    of = RolloutId(rollout) if rollout else None
    return LoggedEntry(HistoryEntry(7, NOW, kind, "colorize", of, what, "ada", "words", before, after), "v1", "v2")


@pytest.mark.parametrize(
    ("logged", "kind"),
    [
        (entry("start", kind="audit"), NotifyKind.STARTED),
        (entry("pause", kind="audit"), None),
        (entry("compare", kind="audit"), NotifyKind.QUALITY),
        (entry("webhook", kind="audit"), NotifyKind.HELD),
        (entry("freeze", kind="audit", rollout=None), NotifyKind.FROZEN),
        (entry("apply", kind="audit", rollout=None), NotifyKind.DECLARED),
        (entry("delete", kind="audit", rollout=None), NotifyKind.DECLARED),
        (entry("Promote", kind="refused"), NotifyKind.REFUSED),
        (entry("Ready", "Preparing", "Shifting"), None),
        (entry("Acked", "Shifting", "Baking"), NotifyKind.STEP),
        (entry("Advance", "Baking", "Paused"), NotifyKind.GATE),
        (entry("Advance", "Paused", "Paused"), None),
        (entry("Suspicion", "Paused", "Paused"), None),
        (entry("Question", "Baking", "Paused"), NotifyKind.QUESTION),
        (entry("Nacked", "Paused", "Paused"), NotifyKind.NACKED),
        (entry("Nacked", "Shifting", "Paused"), NotifyKind.NACKED),
        (entry("Nacked", "RollingBack", "RollingBack"), NotifyKind.NACKED),
        (entry("Abort", "RollingBack", "RollingBack"), None),
        (entry("DeadlinePassed", "Baking", "Paused"), NotifyKind.PAUSED),
        (entry("TelemetryLost", "Baking", "Paused"), NotifyKind.PAUSED),
        (entry("Resume", "Paused", "Shifting"), NotifyKind.RESUMED),
        (entry("Breach", "Baking", "RollingBack"), NotifyKind.ROLLING_BACK),
        (entry("Acked", "RollingBack", "RolledBack"), NotifyKind.ROLLED_BACK),
        (entry("PrepareTimedOut", "Preparing", "RolledBack"), NotifyKind.ROLLED_BACK),
        (entry("Advance", "Baking", "Promoted"), NotifyKind.PROMOTED),
        (entry("Resume", "Paused", "Promoted"), NotifyKind.PROMOTED),
        (entry("mark", "", "Rejected", rollout=None), NotifyKind.REJECTED),
        (entry("mark", "", "Tried", rollout=None), None),
    ],
)
def test_what_an_entry_of_the_history_is_about(logged: LoggedEntry, kind: NotifyKind | None) -> None:
    assert kind_of(logged) is kind
    told = telling_of(logged)
    assert (None if told is None else told.kind) is kind
    assert told is None or type(told).from_json(told.to_json()) == told


def meanings() -> dict[str, str]:
    """Read what the code says of each kind."""
    source = inspect.getsource(kinds.NotifyKind)
    return dict(re.findall(r'= "(\w+)"\n    """(.+?)"""', source, re.DOTALL))


def test_the_document_has_the_table_of_kinds_as_the_code_has_it() -> None:
    """If this fails, put the table that it shows between the two comments."""
    found = meanings()
    assert list(found) == [kind.value for kind in NotifyKind]
    rows = [f"| `{kind}` | `{type_of(NotifyKind(kind), of_rollout=True)}` | {words} |" for kind, words in found.items()]
    table = "\n".join(("| kind | type, for what is of a rollout | when |", "| --- | --- | --- |", *rows))
    written = re.search(r"<!-- kinds[^\n]*-->\n(.*?)\n<!-- /kinds -->", DOCUMENT.read_text(), re.DOTALL)
    assert written is not None
    assert written[1] == table
