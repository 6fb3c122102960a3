"""From documents to what is to be done: which services change, which go, which rollouts start. Pure.

The order of documents means nothing. A service's document says what the service is; where it is not among those given,
the service is what it is now, with the parts that are given in place of those of the same names. What somebody changed
by hand since is kept: a plan that a service names follows its document only as long as it is what that document said.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from controlplane.api.assembling import Documents
from controlplane.api.composition import Action, Change, Composition, Given, Present, Raw, Start, Wanted
from controlplane.api.envelopes import (
    KINDS,
    ServiceEnvelope,
    VersionEnvelope,
    as_json,
    key_of,
    service_envelope,
    service_of,
)
from controlplane.api.problems import Problems
from controlplane.traffic.declared import DocumentKey
from controlplane.traffic.model import ServiceSpec

KIND_ORDER = tuple(KINDS)


def compose(given: Sequence[Given], present: Present, wanted: Wanted) -> Composition:
    """Say what an apply of *given* would do.

    Raises:
        InvalidDocumentError: Documents do not fit each other, or what is there; all that is wrong is listed.
    """
    problems = Problems()
    mine = _unique(given, problems)
    _check_owners(mine, present, wanted, problems)
    removed = {
        key for key, row in present.declared.items() if wanted.prune and row.owner == wanted.owner and key not in mine
    }
    gone = {name for kind, name in removed if kind == "Service" and name in present.services}
    removed |= {key for key, row in present.declared.items() if row.service in gone}
    world = Documents(mine, frozenset(removed), present, problems)
    for one in mine.values():
        if service_of(one.envelope) in gone:
            problems.add(one.body, f"its service {service_of(one.envelope)!r} goes with this apply", "keep the service")
    specs = {name: spec for name in sorted(world.touched() - gone) if (spec := world.build(name)) is not None}
    _check_state(specs, gone, present, problems)
    _check_references(world, problems)
    starts = tuple(world.starts(specs))
    problems.raise_any()
    changed = {
        name: spec
        for name, spec in specs.items()
        if name not in present.services or present.services[name].newest.spec != spec
    }
    return Composition(
        specs=changed,
        deleted=tuple(sorted(gone)),
        starts=starts,
        kept=tuple(one.envelope for _, one in sorted(mine.items())),
        removed=frozenset(removed | world.absorbed),
        changes=tuple(_changes(world, specs, starts, gone)),
    )


def _unique(given: Sequence[Given], problems: Problems) -> dict[DocumentKey, Given]:
    found: dict[DocumentKey, Given] = {}
    for one in given:
        key = key_of(one.envelope)
        if key in found:
            problems.add(one.name_field, f"{key[0]} {key[1]!r} is declared twice", "declare each once")
        found.setdefault(key, one)
    return found


def _check_owners(mine: Mapping[DocumentKey, Given], present: Present, wanted: Wanted, problems: Problems) -> None:
    for key, one in mine.items():
        row = present.declared.get(key)
        if row is not None and row.owner and wanted.owner and row.owner != wanted.owner and not wanted.adopt:
            problems.add(
                one.name_field,
                f"{key[0]} {key[1]!r} is brought by {row.owner!r}",
                f"change it there, or take it over with --adopt as {wanted.owner!r}",
            )


def _check_state(specs: Mapping[str, ServiceSpec], gone: set[str], present: Present, problems: Problems) -> None:
    """Find what the store would refuse, before anything is changed."""
    for name in sorted(gone):
        if (active := present.active.get(name)) is not None:
            problems.add(
                f"Service {name}", f"rollout {active.id} is active", "abort it or wait until it has ended, then delete"
            )
    for name, spec in specs.items():
        record = present.services.get(name)
        if record is None:
            continue
        names = {version.name for version in spec.versions}
        for share in record.split:
            if share.weight_bp and share.version not in names:
                problems.add(
                    f"Version {name}/{share.version}",
                    f"carries {share.weight_bp / 100:g} % of the traffic",
                    "keep it until a rollout has moved its traffic away",
                )
        active = present.active.get(name)
        for version in (active.baseline, active.candidate) if active else ():
            if version not in names and all(share.version != version or not share.weight_bp for share in record.split):
                problems.add(
                    f"Version {name}/{version}",
                    f"is moved by rollout {active.id if active else ''}",
                    "keep it until that has ended",
                )


def _check_references(world: Documents, problems: Problems) -> None:
    for kind, name in sorted(world.removed):
        if kind not in {"Plan", "SLO"} or world.present.declared[kind, name].service:
            continue
        for service, refs in world.references().items():
            if (kind, name) in refs:
                problems.add(f"{kind} {name}", f"is named by service {service!r}", "keep it, or name another one there")


# -- what becomes of each document ------------------------------------------------------------------------------------


def _changes(
    world: Documents, specs: Mapping[str, ServiceSpec], starts: Sequence[Start], gone: Collection[str]
) -> Iterator[Change]:
    started = {start.key for start in starts}
    keys = [*world.mine, *(("Service", name) for name in specs if ("Service", name) not in world.mine)]
    for kind, name in sorted(keys, key=lambda key: (KIND_ORDER.index(key[0]), key[1])):
        envelope = world.find((kind, name))
        if kind == "Service":
            change = _service_change(world, name, specs[name])
            if change.action != "unchanged" or (kind, name) in world.mine:
                yield change
        elif isinstance(envelope, VersionEnvelope):
            yield _version_change(world, envelope, specs[envelope.spec.service])
        elif envelope is not None:
            row = world.present.declared.get((kind, name))
            before, after = (dict(row.document) if row else None), as_json(envelope)
            action: Action = "unchanged" if before == after else "configured" if before else "created"
            if kind == "Rollout":
                action = "started" if (kind, name) in started else "unchanged"
            yield Change(kind, name, service_of(envelope), action, (), before, after)
    for kind, name in sorted(world.removed):
        row = world.present.declared[kind, name]
        notes = _parting(world, kind, name) if name in gone or kind == "Rollout" else ()
        before = dict(row.document)
        if kind == "Service" and name in gone:
            before = service_envelope(world.present.services[name].newest.spec, _metadata(world, name, now=False))
        yield Change(kind, name, row.service, "deleted", notes, before, None)


def _parting(world: Documents, kind: str, name: str) -> tuple[str, ...]:
    if kind == "Rollout":
        return ("the rollout itself goes on, or has ended, as it is",)
    record = world.present.services[name]
    split = ", ".join(f"{share.version} {share.weight_bp / 100:g} %" for share in record.split if share.weight_bp)
    others = len(world.present.services) > 1
    last = () if others else ("it is the last service: Envoys keep it until another one is declared",)
    return (f"its traffic ends: {split}; its history is kept", *last)


def _service_change(world: Documents, name: str, spec: ServiceSpec) -> Change:
    record = world.present.services.get(name)
    metadata = _metadata(world, name, now=True)
    after = service_envelope(spec, metadata)
    if record is None:
        return Change("Service", name, name, "created", (), None, after)
    before = service_envelope(record.newest.spec, _metadata(world, name, now=False))
    notes = []
    active = world.present.active.get(name)
    old = record.newest.spec
    if active is not None and (old.plan, old.slos) != (spec.plan, spec.slos):
        notes.append(f"rollout {active.id} goes on by the plan and the objectives that it started with")
    elif active is not None and old != spec:
        notes.append(f"rollout {active.id} goes on")
    given = world.mine.get(("Service", name))
    if given is not None and isinstance(given.envelope, ServiceEnvelope) and given.envelope.spec.split is not None:
        meant = {share.version: share.weight_bp for share in spec.initial_split if share.weight_bp}
        live = {share.version: share.weight_bp for share in record.split if share.weight_bp}
        if meant != live or active is not None:
            owner = f"rollout {active.id} moves it" if active else "rollouts and set-weight own it"
            notes.append(f"the live split stays as it is, {_split_text(live)}: {owner}")
    action: Action = "unchanged" if before == after else "configured"
    return Change("Service", name, name, action, tuple(notes), before, after)


def _split_text(split: Mapping[str, int]) -> str:
    return ", ".join(f"{version} {weight_bp / 100:g} %" for version, weight_bp in split.items())


def _version_change(world: Documents, envelope: VersionEnvelope, spec: ServiceSpec) -> Change:
    kind, name = key_of(envelope)
    record = world.present.services.get(spec.name)
    before = next(
        (
            version
            for version in (record.newest.spec.versions if record else ())
            if version.name == envelope.metadata.name
        ),
        None,
    )
    same = before == spec.version(envelope.metadata.name)
    action: Action = "created" if before is None else "unchanged" if same else "configured"
    return Change(kind, name, spec.name, action)


def _metadata(world: Documents, name: str, *, now: bool) -> Raw:
    """Return a service's metadata from now on, or before."""
    key = ("Service", name)
    envelope = world.find(key) if now else world.stored(key)
    found: Raw = {"name": name} if envelope is None else as_json(envelope)["metadata"]
    return found
