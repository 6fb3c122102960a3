"""Envoy's own rules on single fields, read from its API's descriptors (protoc-gen-validate) and applied here.

Context: Envoy refuses a message that breaks one of them, and the libraries that know these rules do not run on
protobuf 7. Choice: each message type's rules become closures once; a walk over a message then touches only fields that
are set. Consequence: what Envoy would refuse for such a rule is refused before it is published, with our own path.
Rules that need the time of day (``timestamp.lt_now`` and the like) are not read: no message of Envoy's has one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from validate import validate_pb2

from controlplane.xds.pgv_values import SPANS, Rule, ignores_empty, is_unique, members, shown, span_rules, value_rules

REMEMBERED: Final = 10_000
"""Sound messages that are not walked again, by their content: the routes and resources of some large services."""

_MEMORABLE: Final = frozenset({
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.Route",  # one configuration holds many: a change of one of them is none of the others
    "envoy.config.route.v3.RouteConfiguration",
})  # fmt: skip
"""Messages that come back unchanged, whole."""

_ANY: Final = "google.protobuf.Any"


class Finding(NamedTuple):
    """A broken rule: *path* leads from the message to the field, *fix* is what the rule wants."""

    path: str
    problem: str
    fix: str


Check = Callable[[Any], Sequence[Finding]]
"""Says what is wrong with a value; nothing if nothing is."""


class FieldRules:
    """Every message type's rules, compiled when a message of that type is first met."""

    def __init__(self) -> None:
        self._types: dict[str, _MessageRules] = {}
        self._sound: dict[tuple[str, bytes], None] = {}

    def findings(self, message: Message) -> Sequence[Finding]:
        """Return every rule that *message* breaks, and the messages in it, packed ones (`Any`) of known types too."""
        descriptor: Any = message.DESCRIPTOR
        return self.of(descriptor).check(message)

    def of(self, descriptor: Descriptor) -> "_MessageRules":
        """Return a type's rules."""
        found = self._types.get(descriptor.full_name)
        if found is None:
            found = self._types[descriptor.full_name] = _MessageRules(descriptor, self)
        return found

    def check_packed(self, packed: Any) -> Sequence[Finding]:
        """Check what an `Any` holds. A type that this program does not have is left to Envoy."""
        known = (packed.type_url, packed.value)
        if known in self._sound:
            return ()
        try:
            descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.type_url.rpartition("/")[2])
        except KeyError:
            return ()
        try:
            inner = message_factory.GetMessageClass(descriptor).FromString(packed.value)
        except DecodeError:
            return (Finding("", f"does not hold a {descriptor.full_name}", "pack it anew"),)
        return self._remembering(known, self.of(descriptor).walk(inner))

    def check_remembered(self, rules: "_MessageRules", message: Message) -> Sequence[Finding]:
        """Walk *message* unless one of the same content was found sound before."""
        known = (rules.name, message.SerializeToString(deterministic=True))
        return () if known in self._sound else self._remembering(known, rules.walk(message))

    def _remembering(self, known: tuple[str, bytes], found: Sequence[Finding]) -> Sequence[Finding]:
        if not found:
            if len(self._sound) >= REMEMBERED:
                self._sound.pop(next(iter(self._sound)))
            self._sound[known] = None
        return found


class _MessageRules:
    """The rules of one message type; its fields' checks are compiled at the first walk, since types are recursive."""

    def __init__(self, descriptor: Descriptor, types: FieldRules) -> None:
        self.name = descriptor.full_name
        self._descriptor = descriptor
        self._types = types
        self._checks: dict[int, Check] | None = None
        self._wanted: tuple[tuple[frozenset[int], Finding], ...] = ()
        self._is_memorable = self.name in _MEMORABLE

    def check(self, message: Any) -> Sequence[Finding]:
        """Say which rules *message* breaks."""
        return self._types.check_remembered(self, message) if self._is_memorable else self.walk(message)

    def walk(self, message: Any) -> Sequence[Finding]:
        """Do the same without a look at what is remembered."""
        checks = self._checks if self._checks is not None else self._compile()
        present = message.ListFields()
        found: list[Finding] = []
        if self._wanted:
            seen = {field.number for field, _ in present}
            found += [finding for numbers, finding in self._wanted if seen.isdisjoint(numbers)]
        for field, value in present:
            check = checks.get(field.number)
            if check is not None:
                inner = check(value)
                if inner:
                    found += [_below(f".{field.name}", finding) for finding in inner]
        return found

    def _compile(self) -> dict[int, Check]:
        checks: dict[int, Check] = {}
        wanted: list[tuple[frozenset[int], Finding]] = []
        options = self._descriptor.GetOptions()
        if not (options.Extensions[validate_pb2.disabled] or options.Extensions[validate_pb2.ignored]):
            for oneof in self._descriptor.oneofs:
                if oneof.GetOptions().Extensions[validate_pb2.required]:
                    names = ", ".join(field.name for field in oneof.fields)
                    missing = Finding(f".{oneof.name}", "is missing", f"set one of {names}")
                    wanted.append((frozenset(field.number for field in oneof.fields), missing))
            for field in self._descriptor.fields:
                rules = field.GetOptions().Extensions[validate_pb2.rules]
                check = _field_check(field, rules, self._types)
                if check is not None:
                    checks[field.number] = check
                wanted += [
                    (frozenset({field.number}), _below(f".{field.name}", finding))
                    for finding in _absence(field, rules, check)
                ]
        self._wanted = tuple(wanted)
        self._checks = checks
        return checks


# -- from a field's rules to its check ---------------------------------------------------------------------------------


def _absence(field: FieldDescriptor, rules: Any, check: Check | None) -> Sequence[Finding]:
    """Say what is wrong when *field* is not set."""
    if field.containing_oneof is not None:
        return ()  # a member's rules count once it is the one that is set
    kind = rules.WhichOneof("type")
    if rules.message.required or (kind in {"any", *SPANS} and getattr(rules, kind).required):
        return (Finding("", "is missing", "set it"),)
    if check is None or kind is None:
        return ()
    if field.is_repeated:
        return check({} if _is_map(field) else ())
    if field.has_presence:
        return ()  # a wrapper or a message
    return check(field.default_value)


def _field_check(field: FieldDescriptor, rules: Any, types: FieldRules) -> Check | None:
    if _is_map(field):
        return _map_check(field, rules.map, types)
    if field.is_repeated:
        return _list_check(field, rules.repeated, types)
    return _single_check(field, rules, types)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _single_check(field: FieldDescriptor, rules: Any, types: FieldRules) -> Check | None:
    """Return the check of one value, be it a field's or an item's."""
    kind = rules.WhichOneof("type")
    inner = field.message_type
    if inner is None:
        return _value_check(value_rules(kind, rules, field), ignore_empty=ignores_empty(kind, rules)) if kind else None
    if kind is not None and inner.file.name == "google/protobuf/wrappers.proto":
        check = _value_check(value_rules(kind, rules, inner.fields_by_name["value"]))
        return None if check is None else lambda wrapper: check(wrapper.value)
    if inner.full_name == _ANY:
        allowed = _value_check(tuple(members(rules.any, lambda packed: packed.type_url)))
        return _both(allowed, None if rules.message.skip else types.check_packed)
    if inner.full_name in SPANS.values():
        return _value_check(tuple(span_rules(inner.full_name, None if kind not in SPANS else getattr(rules, kind))))
    if rules.message.skip or not _can_fail(inner):
        return None
    return types.of(inner).check


def _can_fail(descriptor: Descriptor) -> bool:
    """Whether a message can break a rule of its own, or hold one that might."""
    return any(
        field.message_type is not None or field.GetOptions().HasExtension(validate_pb2.rules)
        for field in descriptor.fields
    ) or any(oneof.GetOptions().Extensions[validate_pb2.required] for oneof in descriptor.oneofs)


def _list_check(field: FieldDescriptor, rules: Any, types: FieldRules) -> Check | None:
    whole = _count_check(rules, "min_items", "max_items", "items")
    if rules.unique:
        whole = _both(whole, _value_check((Rule(is_unique, "name each item once"),)))
    each = _single_check(field, rules.items, types)

    def check_items(values: Iterable[Any]) -> Sequence[Finding]:
        found: list[Finding] = []
        for place, value in enumerate(values):
            inner = each(value) if each is not None else ()
            if inner:
                found += [_below(f"[{place}]", finding) for finding in inner]
        return found

    return _unless_empty(_both(whole, None if each is None else check_items), ignored=rules.ignore_empty)


def _map_check(field: FieldDescriptor, rules: Any, types: FieldRules) -> Check | None:
    whole = _count_check(rules, "min_pairs", "max_pairs", "pairs")
    pair: Any = field.message_type
    parts = pair.fields_by_name
    key_check = _single_check(parts["key"], rules.keys, types)
    value_check = _single_check(parts["value"], rules.values, types)

    def check_pairs(pairs: Mapping[Any, Any]) -> Sequence[Finding]:
        found: list[Finding] = []
        for key in pairs:
            inner = (*(key_check(key) if key_check else ()), *(value_check(pairs[key]) if value_check else ()))
            found += [_below(f"[{key!r}]", finding) for finding in inner]
        return found

    return _unless_empty(_both(whole, check_pairs if key_check or value_check else None), ignored=rules.ignore_empty)


def _count_check(rules: Any, least: str, most: str, things: str) -> Check | None:
    low = getattr(rules, least) if rules.HasField(least) else 0
    high = getattr(rules, most) if rules.HasField(most) else None
    if low == 0 and high is None:
        return None

    def check_count(values: Any) -> Sequence[Finding]:
        if low <= len(values) and (high is None or len(values) <= high):
            return ()
        return (Finding("", f"has {len(values)} {things}", f"use {_range(low, high)}"),)

    return check_count


def _value_check(rules: Sequence[Rule], *, ignore_empty: bool = False) -> Check | None:
    if not rules:
        return None

    def check_value(value: Any) -> Sequence[Finding]:
        return [Finding("", f"{shown(value)} is refused", fix) for holds, fix in rules if not holds(value)]

    return _unless_empty(check_value, ignored=ignore_empty)


def _unless_empty(check: Check | None, *, ignored: bool) -> Check | None:
    if check is None or not ignored:
        return check
    return lambda value: check(value) if value else ()


def _both(one: Check | None, other: Check | None) -> Check | None:
    if one is None or other is None:
        return other if one is None else one
    return lambda value: (*one(value), *other(value))


# -- words -------------------------------------------------------------------------------------------------------------


def _below(step: str, finding: Finding) -> Finding:
    return Finding(step + finding.path, finding.problem, finding.fix)


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"{low} to {high}" if low < high else f"exactly {low}"
