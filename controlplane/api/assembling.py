"""Puts services together from documents: those given, those applied before, and what there is already."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from controlplane.api.composition import Given, Present, Raw, Start
from controlplane.api.documents import document_of, plan_from, spec_from
from controlplane.api.envelopes import (
    AnyEnvelope,
    PlanEnvelope,
    RolloutEnvelope,
    ServiceEnvelope,
    SloEnvelope,
    VersionEnvelope,
    as_json,
    key_of,
    read_envelope,
    service_of,
)
from controlplane.api.objectives import slo_from
from controlplane.api.problems import Problems
from controlplane.api.reading import read_document
from controlplane.api.requests import StartRequest
from controlplane.traffic.declared import DocumentKey
from controlplane.traffic.model import ServiceSpec


@dataclasses.dataclass(slots=True)
class Documents:
    """What is given, over what is there; what does not fit is added to *problems*."""

    mine: Mapping[DocumentKey, Given]
    removed: AbstractSet[DocumentKey]
    present: Present
    problems: Problems
    absorbed: set[DocumentKey] = dataclasses.field(default_factory=set)
    """Documents of versions that a service's own document holds now."""

    def stored(self, key: DocumentKey) -> AnyEnvelope | None:
        """Return the document as it was applied last."""
        row = self.present.declared.get(key)
        return None if row is None else read_envelope(row.document)

    def find(self, key: DocumentKey) -> AnyEnvelope | None:
        """Return the document that holds from now on."""
        if key in self.mine:
            return self.mine[key].envelope
        return None if key in self.removed else self.stored(key)

    def of_service(self, kind: str, service: str) -> dict[str, AnyEnvelope]:
        """Return the documents of *kind* that belong to *service* from now on, by their own names."""
        keys = {key for key, one in self.mine.items() if key[0] == kind and service_of(one.envelope) == service}
        rows = self.present.declared.items()
        keys |= {key for key, row in rows if key[0] == kind and row.service == service and key not in self.removed}
        found = (self.find(key) for key in sorted(keys))
        return {envelope.metadata.name: envelope for envelope in found if envelope is not None}

    def references(self) -> dict[str, set[DocumentKey]]:
        """Return what each service's document names, of those that hold from now on."""
        names = {key[1] for key in (*self.mine, *self.present.declared) if key[0] == "Service"}
        found = {}
        for name in sorted(names):
            envelope = self.find(("Service", name))
            if isinstance(envelope, ServiceEnvelope):
                found[name] = _named(envelope)
        return found

    def touched(self) -> set[str]:
        """Return the services that may change."""
        found = {service_of(one.envelope) for one in self.mine.values() if one.envelope.kind != "Rollout"}
        found |= {self.present.declared[key].service for key in self.removed if key[0] in {"Version", "SLO"}}
        found |= {service for service, refs in self.references().items() if refs & self.mine.keys()}
        return found - {""}

    def build(self, service: str) -> ServiceSpec | None:
        """Put a service together, or keep what is wrong with it."""
        head = self.mine.get(("Service", service))
        record = self.present.services.get(service)
        first = head or next(one for one in self._parts(service))
        if head is None and record is None:
            self.problems.add(
                f"{first.body}.service",
                f"service {service!r} does not exist",
                "declare it with kind: Service in the same apply",
            )
            return None
        now = document_of(record.newest.spec).model_dump(mode="json", exclude_none=True) if record else {}
        base = as_json(head.envelope)["spec"] if head else {k: v for k, v in now.items() if k != "service"}
        origins: dict[str, str] = {"service": first.name_field, "": first.body}
        raw: Raw = {
            **base,
            "service": service,
            "versions": self._versions(service, base, now, origins),
            "slos": self._slos(service, base, origins),
        }
        plan = self._plan(service, base, origins)
        raw = {key: value for key, value in raw.items() if key != "plan"} | ({"plan": plan} if plan else {})
        return self.problems.attempt_all(lambda: spec_from(read_document(raw)), _renamer(origins))

    def _parts(self, service: str) -> Iterator[Given]:
        refs = self.references().get(service, set())
        for key, one in self.mine.items():
            if service_of(one.envelope) == service or key in refs:
                yield one
        for key in self.removed:
            envelope = self.stored(key)
            if envelope is not None and service_of(envelope) == service:
                yield Given(envelope, f"{key[0]} {key[1]}")

    def _versions(self, service: str, base: Raw, now: Raw, origins: dict[str, str]) -> list[Raw]:
        head = self.mine.get(("Service", service))
        documents = self.of_service("Version", service)
        gone = {name for kind, name in self.removed if kind == "Version"}
        inline = [
            version
            for version in base.get("versions", [])
            if head or (version["name"] not in documents and f"{service}/{version['name']}" not in gone)
        ]
        existing = {version["name"]: version for version in now.get("versions", [])}
        for name in [version["name"] for version in inline]:
            if name in documents:
                one = self.mine.get(("Version", f"{service}/{name}"))
                if one is not None:
                    self.problems.add(one.name_field, f"{name!r} is declared in its service too", "declare it once")
                else:
                    self.absorbed.add(("Version", f"{service}/{name}"))
                del documents[name]
        found = list(inline)
        for name, envelope in sorted(documents.items()):
            one = self.mine.get(key_of(envelope))
            if one is not None:
                origins[f"versions.{name}"] = one.body
            kept = existing.get(name) if one is None else None
            body = as_json(envelope)["spec"]
            found.append(kept or {"name": name, **{key: value for key, value in body.items() if key != "service"}})
        return found

    def _slos(self, service: str, base: Raw, origins: dict[str, str]) -> list[Raw]:
        head = self.mine.get(("Service", service))
        found: list[Raw] = []
        if head is not None:
            for item in base.get("slos", []):
                if isinstance(item, str):
                    found += self._objectives(("SLO", item), head, origins)
                else:
                    found.append(item)
            for envelope in self.of_service("SLO", service).values():
                found += self._objectives(key_of(envelope), head, origins)
            return found
        found = list(base["slos"])
        refs = self.references().get(service, set())
        for key in sorted({*self.mine, *self.removed}):
            row = self.present.declared.get(key)
            owner = service_of(self.mine[key].envelope) if key in self.mine else row.service if row else ""
            if key[0] != "SLO" or (owner != service and (owner or key not in refs)):
                continue
            before = {one["name"] for one in row.document["spec"]["objectives"]} if row else set()
            places = [place for place, one in enumerate(found) if one["name"] in before]
            rest = [one for one in found if one["name"] not in before]
            at = places[0] if places else len(rest)
            found = [*rest[:at], *self._objectives(key, self.mine.get(key), origins), *rest[at:]]
        return found

    def _objectives(self, key: DocumentKey, by: Given | None, origins: dict[str, str]) -> list[Raw]:
        envelope = self.find(key)
        if not isinstance(envelope, SloEnvelope):
            if by is None:
                return []
            self.problems.add(f"{by.body}.slos", f"there is no SLO {key[1]!r}", self._known("SLO"))
            return [{**_AROUND["slos"][0], "name": key[1]}]  # so that nothing else is wrong only for want of it
        objectives: list[Raw] = as_json(envelope)["spec"]["objectives"]
        if key in self.mine:
            for one in objectives:
                origins[f"slos.{one['name']}"] = f"{self.mine[key].body}.objectives.{one['name']}"
        return objectives

    def _plan(self, service: str, base: Raw, origins: dict[str, str]) -> Raw | None:
        head = self.mine.get(("Service", service))
        if head is not None:
            plan = base.get("plan")
            return self.plan_named(plan, f"{head.body}.plan", origins) if isinstance(plan, str) else plan
        now: Raw = base["plan"]
        for key in self.references().get(service, ()):
            if key[0] == "Plan" and key in self.mine and self._follows(self.stored(key), now):
                return self.plan_named(key[1], "", origins)
        return now

    def _follows(self, plan: AnyEnvelope | None, now: Raw) -> bool:
        return isinstance(plan, PlanEnvelope) and plan.spec.model_dump(mode="json", exclude_none=True) == now

    def plan_named(self, name: str, field: str, origins: dict[str, str]) -> Raw | None:
        """Return what the plan called *name* says; *field* names it."""
        envelope = self.find(("Plan", name))
        if not isinstance(envelope, PlanEnvelope):
            self.problems.add(field, f"there is no Plan {name!r}", self._known("Plan"))
            return None
        if ("Plan", name) in self.mine:
            origins["plan"] = self.mine["Plan", name].body
        body: Raw = as_json(envelope)["spec"]
        return body

    def _known(self, kind: str) -> str:
        keys = {*self.mine, *self.present.declared} - self.removed
        names = sorted(name for found, name in keys if found == kind and "/" not in name)
        return f"use one of {', '.join(names)}" if names else f"declare it with kind: {kind}"

    def starts(self, specs: Mapping[str, ServiceSpec]) -> Iterator[Start]:
        """Yield the rollouts that are to start."""
        for key, one in sorted(self.mine.items()):
            envelope = one.envelope
            if not isinstance(envelope, RolloutEnvelope):
                continue
            row = self.present.declared.get(key)
            if row is not None and row.document == as_json(envelope):
                continue
            request = self._request(envelope, one, specs)
            if request is not None:
                yield Start(key, envelope.spec.service, request)

    def _request(self, envelope: RolloutEnvelope, one: Given, specs: Mapping[str, ServiceSpec]) -> StartRequest | None:
        service = envelope.spec.service
        record = self.present.services.get(service)
        spec = specs.get(service) or (record.newest.spec if record else None)
        if spec is None:
            if ("Service", service) not in self.mine:
                self.problems.add(f"{one.body}.service", f"service {service!r} does not exist", "declare it, too")
            return None
        names = [version.name for version in spec.versions]
        for field, name in (("to", envelope.spec.to), ("from", envelope.spec.replaces)):
            if name is not None and name not in names:
                self.problems.add(f"{one.body}.{field}", f"{name!r} is not a version", f"use one of {', '.join(names)}")
        raw = as_json(envelope)["spec"]
        request = StartRequest.model_validate(
            {
                **{key: value for key, value in raw.items() if key not in {"service", "from", "plan"}},
                **({"replaces": raw["from"]} if "from" in raw else {}),
                **({"plan": plan} if (plan := self._own_plan(raw, one)) else {}),
            }
        )
        active = self.present.active.get(service)
        if active is not None and not getattr(request, "waits", False):
            self.problems.add(one.body, f"rollout {active.id} of {service!r} is active", "abort it or wait for its end")
        return request

    def _own_plan(self, raw: Raw, one: Given) -> Raw | None:
        plan: Raw | str | None = raw.get("plan")
        return self.plan_named(plan, f"{one.body}.plan", {}) if isinstance(plan, str) else plan


def _named(envelope: ServiceEnvelope) -> set[DocumentKey]:
    found: set[DocumentKey] = {("SLO", slo) for slo in envelope.spec.slos if isinstance(slo, str)}
    if isinstance(envelope.spec.plan, str):
        found.add(("Plan", envelope.spec.plan))
    return found


def _renamer(origins: Mapping[str, str]) -> Callable[[str], str]:
    """Return what says where a field of the whole service was written."""

    def rename(field: str) -> str:
        for prefix in sorted(origins, key=len, reverse=True):
            rest = field.removeprefix(prefix)
            if not prefix or (rest != field and rest[:1] in {"", ".", "["}):
                return f"{origins[prefix]}{rest if prefix else '.' + field}"
        return field

    return rename


def check_alone(envelope: AnyEnvelope) -> None:
    """Find what is wrong with a document whatever there is around it.

    Raises:
        InvalidDocumentError: Something is; fields are those of the document.
    """
    problems = Problems()
    match envelope:
        case VersionEnvelope():
            body = {key: value for key, value in as_json(envelope)["spec"].items() if key != "service"}
            name = envelope.metadata.name
            raw = {**_AROUND, "service": envelope.spec.service, "versions": [{"name": name, **body}]}
            rename = _renamer({f"versions.{name}": "spec", "": "spec"})
            problems.attempt_all(lambda: spec_from(read_document(raw)), rename)
        case SloEnvelope():
            for objective in envelope.spec.objectives:
                field = f"spec.objectives.{objective.name}"
                rename = _renamer({f"slos.{objective.name}": field, "": field})
                problems.attempt_all(functools.partial(slo_from, objective, grpc=False), rename)
        case PlanEnvelope():
            problems.attempt_all(lambda: plan_from(envelope.spec), _renamer({"plan": "spec", "": "spec"}))
        case ServiceEnvelope() | RolloutEnvelope():
            pass  # what they say is checked with what they name
    problems.raise_any()


_AROUND: Raw = {
    "routes": [{"name": "all", "split": True}],
    "slos": [{"name": "errors", "kind": "error_rate", "max": "1%"}],
}
