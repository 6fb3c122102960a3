"""What of a tick is good and what is bad, as the policy says: from windows to the arrays that the judge works on."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np

from controlplane.rollout.policy import Answers, Policy, Sampled, ShareObjective, Slower
from controlplane.rollout.windows import BUCKETS, BatchTicks, Counted, Sample, TickWindow, VersionTick


def batch_of(windows: Sequence[TickWindow], policies: Sequence[Policy]) -> BatchTicks:
    """Lay *windows* side by side, each counted as its policy says."""
    pairs = [(window.baseline, window.candidate) for window in windows]
    rows = [
        [(v.completed, errors_of(v, policy), v.started, v.active) for v in pair]
        for pair, policy in zip(pairs, policies, strict=True)
    ]
    counts = np.array(rows, dtype=np.int64).reshape(len(pairs), 2, 4)
    shares = np.zeros((len(pairs), max((len(policy.shares) for policy in policies), default=0), 2, 2), dtype=np.int64)
    for row, (window, policy) in enumerate(zip(windows, policies, strict=True)):
        if policy.shares:
            shares[row, : len(policy.shares)] = [counted(window, share) for share in policy.shares]
    return BatchTicks(
        tick=np.array([window.tick for window in windows], dtype=np.int64),
        gap=np.array([window.gap for window in windows], dtype=np.bool_),
        completed=counts[:, :, 0],
        errors=counts[:, :, 1],
        started=counts[:, :, 2],
        active=counts[:, :, 3],
        latency=np.array([[v.latency for v in pair] for pair in pairs], dtype=np.int64).reshape(len(pairs), 2, BUCKETS),
        shares=shares,
        unknown=np.array(
            [bool(lacking(window, policy)) for window, policy in zip(windows, policies, strict=True)], dtype=np.bool_
        ),
    )


def errors_of(version: VersionTick, policy: Policy) -> int:
    """Count the requests that failed."""
    return version.count(policy.error_bad)


def counted(window: TickWindow, share: ShareObjective) -> tuple[Counted, Counted]:
    """Return what happened and how much of it is bad, for the baseline and the candidate."""
    match share.measure:
        case Answers(bad=bad, but=but):
            return _answers(window.baseline, bad, but), _answers(window.candidate, bad, but)
        case Slower(threshold_ms=threshold):
            return _slower(window.baseline, threshold), _slower(window.candidate, threshold)
        case Sampled():
            sample = _sample(window, share.name)
            return (sample.baseline, sample.candidate) if sample else ((0, 0), (0, 0))
        case other:
            assert_never(other)


def lacking(window: TickWindow, policy: Policy) -> str:
    """Say what is not known that should decide; "" where everything is."""
    for share in policy.shares:
        if isinstance(share.measure, Sampled) and not share.handling.muted:
            sample = _sample(window, share.name)
            words = "it was not asked for" if sample is None else sample.missing
            if words:
                return f"nothing is known of {share.name}: {words}"
    return ""


def _answers(version: VersionTick, bad: tuple[str, ...], but: tuple[str, ...]) -> Counted:
    if not version.codes and not version.errors:
        return version.completed, 0
    return version.completed, version.count((*bad, *but)) - version.count(but) if but else version.count(bad)


def _slower(version: VersionTick, threshold_ms: float) -> Counted:
    return sum(version.latency), version.slow(threshold_ms)


def _sample(window: TickWindow, name: str) -> Sample | None:
    return next((sample for sample in window.samples if sample.name == name), None)
