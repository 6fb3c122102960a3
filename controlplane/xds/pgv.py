"""Envoy's own rules on single fields, read from its API's descriptors (protoc-gen-validate) and applied here.

Context: Envoy refuses a message that breaks one of them, and the libraries that know these rules do not run on
protobuf 7. Choice: each message type's rules become closures once; a walk over a message then touches only fields that
are set. Consequence: what Envoy would refuse for such a rule is refused before it is published, with our own path.
Rules that need the time of day (``timestamp.lt_now`` and the like) are not read: no message of Envoy's has one.
"""

import ipaddress
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from validate import validate_pb2

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
_SPANS: Final = {"duration": "google.protobuf.Duration", "timestamp": "google.protobuf.Timestamp"}
_MAX_SHOWN: Final = 60


class Finding(NamedTuple):
    """A broken rule: *path* leads from the message to the field, *fix* is what the rule wants."""

    path: str
    problem: str
    fix: str


Check = Callable[[Any], Sequence[Finding]]
"""Says what is wrong with a value; nothing if nothing is."""


class Rule(NamedTuple):
    """One rule on a single value."""

    holds: Callable[[Any], bool]
    fix: str


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
    if rules.message.required or (kind in {"any", *_SPANS} and getattr(rules, kind).required):
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
        return (
            _value_check(_value_rules(kind, rules, field), ignore_empty=_ignores_empty(kind, rules)) if kind else None
        )
    if kind is not None and inner.file.name == "google/protobuf/wrappers.proto":
        check = _value_check(_value_rules(kind, rules, inner.fields_by_name["value"]))
        return None if check is None else lambda wrapper: check(wrapper.value)
    if inner.full_name == _ANY:
        allowed = _value_check(tuple(_members(rules.any, lambda packed: packed.type_url)))
        return _both(allowed, None if rules.message.skip else types.check_packed)
    if kind in _SPANS and inner.full_name == _SPANS[kind]:
        return _value_check(
            (*_bounds(getattr(rules, kind), _nanoseconds), *_members(getattr(rules, kind), _nanoseconds))
        )
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
        whole = _both(whole, _value_check((Rule(_is_unique, "name each item once"),)))
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
        return [Finding("", f"{_shown(value)} is refused", fix) for holds, fix in rules if not holds(value)]

    return _unless_empty(check_value, ignored=ignore_empty)


def _unless_empty(check: Check | None, *, ignored: bool) -> Check | None:
    if check is None or not ignored:
        return check
    return lambda value: check(value) if value else ()


def _both(one: Check | None, other: Check | None) -> Check | None:
    if one is None or other is None:
        return other if one is None else one
    return lambda value: (*one(value), *other(value))


# -- rules on single values --------------------------------------------------------------------------------------------


def _ignores_empty(kind: str, rules: Any) -> bool:
    return bool(getattr(getattr(rules, kind), "ignore_empty", False))


def _value_rules(kind: str, rules: Any, field: FieldDescriptor) -> Sequence[Rule]:
    given = getattr(rules, kind)
    match kind:
        case "string":
            return tuple(_string_rules(given))
        case "bytes":
            return tuple(_bytes_rules(given))
        case "enum":
            return tuple(_enum_rules(given, field))
        case "bool":
            return (Rule(lambda value: value == given.const, f"use {given.const}"),) if given.HasField("const") else ()
        case "message" | "repeated" | "map" | "any" | "duration" | "timestamp":
            return ()
        case _:
            return (*_bounds(given, _itself), *_members(given, _itself))


def _bounds(rules: Any, read: Callable[[Any], Any]) -> Iterator[Rule]:
    """Yield const and the range; one whose upper end is below its lower end is what lies outside of both."""
    if rules.HasField("const"):
        const = read(rules.const)
        yield Rule(lambda value: read(value) == const, f"use {_shown(rules.const)}")
    upper = next((name for name in ("lt", "lte") if rules.HasField(name)), None)
    lower = next((name for name in ("gt", "gte") if rules.HasField(name)), None)
    # Written as what is refused, as Envoy does: a float that is not a number passes.
    above: Callable[[Any], bool] = _never
    below: Callable[[Any], bool] = _never
    words = []
    if lower is not None:
        low = read(getattr(rules, lower))
        below = (lambda value: value <= low) if lower == "gt" else (lambda value: value < low)
        words.append(f"{'more than' if lower == 'gt' else 'at least'} {_shown(getattr(rules, lower))}")
    if upper is not None:
        high = read(getattr(rules, upper))
        above = (lambda value: value >= high) if upper == "lt" else (lambda value: value > high)
        words.append(f"{'less than' if upper == 'lt' else 'at most'} {_shown(getattr(rules, upper))}")
    if lower is not None and upper is not None and read(getattr(rules, upper)) < read(getattr(rules, lower)):
        yield Rule(lambda value: not (below(read(value)) and above(read(value))), f"use {' or '.join(words)}")
    elif words:
        yield Rule(lambda value: not (below(read(value)) or above(read(value))), f"use {' and '.join(words)}")


def _members(rules: Any, read: Callable[[Any], Any]) -> Iterator[Rule]:
    """Yield the lists of what is allowed and what is not."""
    fields = rules.DESCRIPTOR.fields_by_name
    allowed, refused = getattr(rules, "in"), rules.not_in if "not_in" in fields else ()
    # The rules of `Any` list type URLs, the others values of their own kind.
    of_rule = _itself if rules.DESCRIPTOR.name == "AnyRules" else read
    if allowed:
        good = frozenset(of_rule(value) for value in allowed)
        yield Rule(lambda value: read(value) in good, f"use one of {', '.join(map(_shown, allowed))}")
    if refused:
        bad = frozenset(of_rule(value) for value in refused)
        yield Rule(lambda value: read(value) not in bad, f"use none of {', '.join(map(_shown, refused))}")


def _enum_rules(rules: Any, field: FieldDescriptor) -> Iterator[Rule]:
    kind: Any = field.enum_type
    names = {number: value.name for number, value in kind.values_by_number.items()}
    if rules.HasField("const"):
        const = rules.const
        yield Rule(lambda value: value == const, f"use {names.get(const, const)}")
    if rules.defined_only:
        yield Rule(lambda value: value in names, f"use one of {', '.join(names.values())}")
    allowed, refused = frozenset(getattr(rules, "in")), frozenset(rules.not_in)
    if allowed:
        yield Rule(lambda value: value in allowed, f"use one of {', '.join(names.get(n, str(n)) for n in allowed)}")
    if refused:
        yield Rule(lambda value: value not in refused, f"not {', '.join(names.get(n, str(n)) for n in refused)}")


def _string_rules(rules: Any) -> Iterator[Rule]:
    yield from _length_rules(rules, ("len", "min_len", "max_len"), len, "characters")
    yield from _length_rules(rules, ("len_bytes", "min_bytes", "max_bytes"), lambda text: len(text.encode()), "bytes")
    yield from _content_rules(rules)
    if rules.HasField("not_contains"):
        part = rules.not_contains
        yield Rule(lambda text: part not in text, f"leave out {part!r}")
    if rules.HasField("pattern"):
        pattern = _compile_re2(rules.pattern)
        yield Rule(lambda text: pattern.search(text) is not None, f"match {rules.pattern}")
    match rules.WhichOneof("well_known"):
        case None:
            pass
        case "well_known_regex":
            expression, fix = _WELL_KNOWN[rules.well_known_regex if rules.strict else _LOOSE]
            yield Rule(lambda text: expression.fullmatch(text) is not None, fix)
        case name:
            if getattr(rules, name):
                yield Rule(_FORMS[name], f"use {name.replace('_', ' ')}")


def _bytes_rules(rules: Any) -> Iterator[Rule]:
    yield from _length_rules(rules, ("len", "min_len", "max_len"), len, "bytes")
    yield from _content_rules(rules)
    if rules.HasField("pattern"):
        pattern = re.compile(_compile_re2(rules.pattern).pattern.encode())
        yield Rule(lambda value: pattern.search(value) is not None, f"match {rules.pattern}")
    lengths = {"ip": (4, 16), "ipv4": (4,), "ipv6": (16,)}
    form = rules.WhichOneof("well_known")
    if form is not None:
        yield Rule(lambda value: len(value) in lengths[form], f"use the bytes of an {form}")


def _length_rules(rules: Any, names: Sequence[str], measure: Callable[[Any], int], unit: str) -> Iterator[Rule]:
    exact, least, most = (getattr(rules, name) if rules.HasField(name) else None for name in names)
    if exact is not None:
        yield Rule(lambda value: measure(value) == exact, f"use {exact} {unit}")
    if least:
        yield Rule(lambda value: measure(value) >= least, f"use at least {least} {unit}")
    if most is not None:
        yield Rule(lambda value: measure(value) <= most, f"use at most {most} {unit}")


def _content_rules(rules: Any) -> Iterator[Rule]:
    if rules.HasField("const"):
        const = rules.const
        yield Rule(lambda value: value == const, f"use {const!r}")
    if rules.HasField("prefix"):
        prefix = rules.prefix
        yield Rule(lambda value: value.startswith(prefix), f"start it with {prefix!r}")
    if rules.HasField("suffix"):
        suffix = rules.suffix
        yield Rule(lambda value: value.endswith(suffix), f"end it with {suffix!r}")
    if rules.HasField("contains"):
        part = rules.contains
        yield Rule(lambda value: part in value, f"have {part!r} in it")
    yield from _members(rules, _itself)


def _compile_re2(pattern: str) -> re.Pattern[str]:
    r"""Return a rule's RE2 expression as Python's. They differ in ``$``: RE2's is the very end of the text."""
    return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern))


_LOOSE: Final = 0
_HEADER_FIX: Final = "use letters, digits and !#$%&'*+-.^_|~` only"
_WELL_KNOWN: Final = {
    _LOOSE: (re.compile(r"[^\x00\n\r]*"), "use no line breaks and no NUL"),
    # The range "+-." is protoc-gen-validate's own; it lets a comma pass, and so does Envoy.
    validate_pb2.HTTP_HEADER_NAME: (re.compile(r":?[0-9a-zA-Z!#$%&'*+-.^_|~\x60]+"), _HEADER_FIX),
    validate_pb2.HTTP_HEADER_VALUE: (re.compile(r"[^\x00-\x08\x0A-\x1F\x7F]*"), "use no control characters"),
}

_HOSTNAME: Final = re.compile(r"(?=.{1,253}\.?\Z)([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9-]{1,63}\.?")


def _is_ip(text: str, version: int | None = None) -> bool:
    try:
        return version in {None, ipaddress.ip_address(text).version}
    except ValueError:
        return False


def _is_hostname(text: str) -> bool:
    return _HOSTNAME.fullmatch(text) is not None


def _is_email(text: str) -> bool:
    local, at, host = text.rpartition("@")
    return bool(at) and 0 < len(local) <= 64 and " " not in local and _is_hostname(host)


def _is_uri(text: str) -> bool:
    try:
        return bool(urllib.parse.urlsplit(text).scheme)
    except ValueError:
        return False


def _is_uri_reference(text: str) -> bool:
    try:
        urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return True


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


_FORMS: Final[Mapping[str, Callable[[str], bool]]] = {
    "ip": _is_ip,
    "ipv4": lambda text: _is_ip(text, 4),
    "ipv6": lambda text: _is_ip(text, 6),
    "hostname": _is_hostname,
    "address": lambda text: _is_ip(text) or _is_hostname(text),
    "email": _is_email,
    "uri": _is_uri,
    "uri_ref": _is_uri_reference,
    "uuid": _is_uuid,
}


# -- words and small things --------------------------------------------------------------------------------------------


def _below(step: str, finding: Finding) -> Finding:
    return Finding(step + finding.path, finding.problem, finding.fix)


def _shown(value: Any) -> str:
    if isinstance(value, Message):
        name = value.DESCRIPTOR.full_name
        text = value.ToJsonString() if name in _SPANS.values() else f"a {name}"  # type: ignore[attr-defined] # well-known
    else:
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"{low} to {high}" if low < high else f"exactly {low}"


def _nanoseconds(span: Any) -> int:
    return int(span.seconds) * 1_000_000_000 + int(span.nanos)


def _itself(value: Any) -> Any:
    return value


def _never(_: Any) -> bool:
    return False


def _is_unique(values: Iterable[Any]) -> bool:
    listed = [value.SerializeToString(deterministic=True) if isinstance(value, Message) else value for value in values]
    return len(set(listed)) == len(listed)
