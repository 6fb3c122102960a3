"""The shapes of the API's answers, for the server that fills them and for every client that reads them.

Shares appear twice: as basis points for programs (``weight_bp``), and written out for people (``weight``).
"""

import datetime as dt
from typing import Any, Literal

from controlplane.api.answering import View
from controlplane.api.quality_answers import QualityRunView
from controlplane.api.schemas import PlanDocument, ServiceDocument


class MeasuredView(View):
    """The *share* of the service's requests that a version really got of late, and how many *requests* that is."""

    share: str
    share_bp: int
    requests: int


class WorkerView(View):
    """One worker of a version. *healthy* is None where Envoys did not say which: they count healthy ones by cluster.

    *models* is what it says that it serves, *words* why it did not answer when it was asked that.
    """

    address: str
    healthy: bool | None
    models: list[str]
    words: str


class ShareView(View):
    """A version's part of the split, and how many of its workers the Envoys find healthy (None: nobody said).

    *measured* is None without requests. It and *workers* are there where a service's status is shown.
    """

    version: str
    cluster: str
    weight: str
    weight_bp: int
    healthy: int | None = None
    total: int | None = None
    measured: MeasuredView | None = None
    workers: list[WorkerView] = []


class EnvoyView(View):
    """One Envoy of a service, against what it should run: the worst *status* of its types, and for how long that is.

    *behind* names the types that are not SYNCED, *words* are the Envoy's own about what it refuses.
    """

    node: str
    connected: bool
    status: str
    age_s: float | None
    behind: list[str]
    words: str


class AdviceView(View):
    """Something to be said of a service: *code* as in the catalogue, *level* Error, Warn or Info, and what to *run*."""

    code: str
    level: str
    subject: str
    words: str
    run: str


class WorkerModelView(View):
    """What one worker says that it serves, and when it said so last (None: never).

    *matches*: whether it is what the version pins; None where the worker never said. *words* say why it does not answer
    now.
    """

    address: str
    models: list[str]
    checksums: list[str]
    code_version: str
    matches: bool | None
    at: dt.datetime | None
    words: str


class ProvenanceView(View):
    """The model that a version pins, and its workers."""

    version: str
    model: str
    checksum: str
    code_version: str
    workers: list[WorkerModelView]
    deviations: list[str]


class RevisionView(View):
    """One declaration of a service. *words* are Envoy's, when it was rejected."""

    number: int
    status: str
    words: str
    by: str
    why: str
    at: dt.datetime


class RolloutView(View):
    """A rollout. *step* counts from 1; 0 is before the first. *weight_bp* is what the state asks for.

    One that has not begun is ``queued`` or ``scheduled``, with the plan that would count now; if it never will, its
    outcome is ``cancelled``. *undoes*: it is the way back of an undo, without steps and judge.
    """

    id: str
    service: str
    baseline: str
    candidate: str
    state: str
    phase: str
    active: bool
    outcome: Literal["promoted", "rolled_back", "cancelled"] | None
    cause: str | None
    words: str
    step: int
    steps: int
    weight: str
    weight_bp: int
    since: dt.datetime
    started_at: dt.datetime
    deadline_at: dt.datetime
    ended_at: dt.datetime | None
    by: str
    why: str
    plan: PlanDocument
    objectives: list[str]
    evidence: dict[str, Any] | None
    undoes: bool = False


class WaitingView(View):
    """A start that waits under the id of its rollout to come; *state* is ``queued``, ``scheduled``, or how it ended.

    *words* say what it waits for, or why it ended.
    """

    id: str
    service: str
    candidate: str
    state: str
    words: str
    supersede: bool
    only_after_success: bool
    not_before: dt.datetime | None
    by: str
    why: str
    at: dt.datetime


class AcksView(View):
    """Who runs the newest snapshot: a weight is live when all do. *waiting* names the Envoys that do not yet."""

    acked: int
    expected: int
    words: str
    waiting: list[str]
    refusals: list[str]


class EventView(View):
    """One entry of the history."""

    number: int
    at: dt.datetime
    kind: str
    rollout: str | None
    what: str
    by: str
    words: str
    before: str
    after: str


class ServiceView(View):
    """A service: its declaration, its revisions' fate, what is served now."""

    name: str
    document: ServiceDocument
    revision: RevisionView
    served_revision: int
    split: list[ShareView]


class AppliedView(View):
    """What became of an apply: *changed* is false when the declaration was the newest revision already."""

    service: str
    revision: int
    changed: bool
    words: str


class SummaryView(View):
    """One line of the list of services: how many starts wait, and which freeze it is under, if any."""

    name: str
    listener: str
    split: list[ShareView]
    revision: int
    revision_status: str
    rollout: RolloutView | None
    waiting: int = 0
    frozen: str = ""


class StatusView(View):
    """Everything about a service on one page. *quality*: the last verdict on pictures, after a run without one.

    *aside* are versions that have no share now, of the rollout or with a pinned model. *measured_s* is over how many
    seconds measured shares are. *envoys* are at most 100, those first that need a look.
    *waiting* are the starts that wait, in their order; *frozen* says which freeze forbids more traffic, if any.
    """

    service: str
    listener: str
    split: list[ShareView]
    revision: RevisionView
    rejected: RevisionView | None
    rollout: RolloutView | None
    acks: AcksView
    commands_waiting: int
    events: list[EventView]
    quality: list[QualityRunView] = []
    models: list[ProvenanceView] = []
    envoys: list[EnvoyView] = []
    advice: list[AdviceView] = []
    measured_s: int = 0
    aside: list[ShareView] = []
    waiting: list[WaitingView] = []
    frozen: str = ""


class TrafficView(View):
    """A service's requests over *seconds* seconds in which Envoys reported: *rate* a second, latencies in ms.

    *error_ratio* is a fraction of 1; latencies are null without requests.
    """

    service: str
    seconds: int
    requests: int
    rate: float
    error_ratio: float
    p50_ms: float | None
    p95_ms: float | None


class StandingView(View):
    """How far one objective is: shares as fractions of 1, *odds* and *odds_limit* as 1 in so many healthy rollouts.

    *wait_s* is how long what is *still_needed* takes at the present rate. Null: no number will do, or nobody can say.
    *decides* is "" for an objective that decides, else why it does not: ``muted``, or ``asked``.
    """

    name: str
    words: str
    candidate: float | None
    baseline: float | None
    bound: float
    odds: float
    odds_limit: float
    still_needed: int | None
    wait_s: float | None
    decides: str = ""


class ExplanationView(View):
    """Why a rollout stands where it stands.

    *summary* says it in a sentence, *objectives* what is measured, *next* what happens then or what a person can do.
    *rate* is how many requests a second the candidate answers. *quality* is the last verdict on pictures, after a run
    that has none, if any.
    """

    service: str
    rollout: str
    state: str
    phase: str
    summary: str
    objectives: list[StandingView]
    rate: float
    next: str
    quality: list[QualityRunView] = []
    advice: list[AdviceView] = []
    waiting: list[WaitingView] = []


class SaidView(View):
    """What the judge said of a second. *decision* is the *verdict* where it moves the rollout, and else hold."""

    verdict: str
    decision: str
    words: str


class ReplayedView(View):
    """One judged second: what was said of it then, and what is said now. *partial*: it was not over yet."""

    tick: int
    at: dt.datetime
    weight: str
    weight_bp: int
    partial: bool
    recorded: SaidView
    replayed: SaidView
    same: bool


class ReplayView(View):
    """A rollout's record, judged again by *objectives*.

    *reproduced* says that every verdict and every sentence of its *judged* seconds came out as recorded; *deviation* is
    the first second with another decision. *ticks* are those in which something changed, or all. *complete* is false
    where the record goes on.
    """

    rollout: str
    service: str
    state: str
    phase: str
    objectives: list[str]
    judged: int
    complete: bool
    reproduced: bool
    deviation: ReplayedView | None
    summary: list[str]
    ticks: list[ReplayedView]


class EventsView(View):
    """Events after the one asked for. Ask again with *after* set to *next*."""

    events: list[EventView]
    next: int


class CommandView(View):
    """A command that was taken down; the controller carries it out within moments. *number* 0: it is done already.

    *note* says what else is worth knowing.
    """

    number: int
    service: str
    command: str
    words: str
    note: str = ""
