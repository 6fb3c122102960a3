"""The rules of protoc-gen-validate on single values: texts, bytes, numbers, enums and spans of time."""

import ipaddress
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from validate import validate_pb2

DURATION: Final = "google.protobuf.Duration"
SPANS: Final = {"duration": DURATION, "timestamp": "google.protobuf.Timestamp"}
"""The kinds of rules on spans and moments, and the messages that they are for."""

_MAX_DURATION_S: Final = 315_576_000_000
_MAX_SHOWN: Final = 60


class Rule(NamedTuple):
    """One rule on a single value."""

    holds: Callable[[Any], bool]
    fix: str


def ignores_empty(kind: str, rules: Any) -> bool:
    """Whether an empty value is let pass whatever the other rules of *kind* say."""
    return bool(getattr(getattr(rules, kind), "ignore_empty", False))


def value_rules(kind: str, rules: Any, field: FieldDescriptor) -> Sequence[Rule]:
    """Return the rules of *kind* on *field*, which is not a message (but a wrapper's value)."""
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
            return (*_bounds(given, _itself), *members(given, _itself))


def _bounds(rules: Any, read: Callable[[Any], Any]) -> Iterator[Rule]:
    """Yield const and the range; one whose upper end is below its lower end is what lies outside of both."""
    if rules.HasField("const"):
        const = read(rules.const)
        yield Rule(lambda value: read(value) == const, f"use {shown(rules.const)}")
    upper = next((name for name in ("lt", "lte") if rules.HasField(name)), None)
    lower = next((name for name in ("gt", "gte") if rules.HasField(name)), None)
    # Written as what is refused, as Envoy does: a float that is not a number passes.
    above: Callable[[Any], bool] = _never
    below: Callable[[Any], bool] = _never
    words = []
    if lower is not None:
        low = read(getattr(rules, lower))
        below = (lambda value: value <= low) if lower == "gt" else (lambda value: value < low)
        words.append(f"{'more than' if lower == 'gt' else 'at least'} {shown(getattr(rules, lower))}")
    if upper is not None:
        high = read(getattr(rules, upper))
        above = (lambda value: value >= high) if upper == "lt" else (lambda value: value > high)
        words.append(f"{'less than' if upper == 'lt' else 'at most'} {shown(getattr(rules, upper))}")
    if lower is not None and upper is not None and read(getattr(rules, upper)) < read(getattr(rules, lower)):
        yield Rule(lambda value: not (below(read(value)) and above(read(value))), f"use {' or '.join(words)}")
    elif words:
        yield Rule(lambda value: not (below(read(value)) or above(read(value))), f"use {' and '.join(words)}")


def members(rules: Any, read: Callable[[Any], Any]) -> Iterator[Rule]:
    """Yield the lists of what is allowed and what is not."""
    fields = rules.DESCRIPTOR.fields_by_name
    allowed, refused = getattr(rules, "in"), rules.not_in if "not_in" in fields else ()
    # The rules of `Any` list type URLs, the others values of their own kind.
    of_rule = _itself if rules.DESCRIPTOR.name == "AnyRules" else read
    if allowed:
        good = frozenset(of_rule(value) for value in allowed)
        yield Rule(lambda value: read(value) in good, f"use one of {', '.join(map(shown, allowed))}")
    if refused:
        bad = frozenset(of_rule(value) for value in refused)
        yield Rule(lambda value: read(value) not in bad, f"use none of {', '.join(map(shown, refused))}")


def span_rules(name: str, rules: Any | None) -> Iterator[Rule]:
    """Yield the rules on a span or moment of type *name*."""
    if name == DURATION:  # no rule of a field's: Envoy wants it of all
        yield Rule(_is_duration, f"use 0s to {_MAX_DURATION_S}s")
    if rules is not None:
        yield from _bounds(rules, _nanoseconds)
        yield from members(rules, _nanoseconds)


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
    yield from members(rules, _itself)


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


def shown(value: Any) -> str:
    """Return a value as errors write it."""
    if isinstance(value, Message):
        name = value.DESCRIPTOR.full_name
        text = f"{_nanoseconds(value) / 1e9:.10g}s" if name in SPANS.values() else f"a {name}"
    else:
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _nanoseconds(span: Any) -> int:
    return int(span.seconds) * 1_000_000_000 + int(span.nanos)


def _is_duration(span: Any) -> bool:
    return bool(0 <= span.seconds <= _MAX_DURATION_S) and bool(0 <= span.nanos < 1_000_000_000)


def _itself(value: Any) -> Any:
    return value


def _never(_: Any) -> bool:
    return False


def is_unique(values: Iterable[Any]) -> bool:
    """Whether no value, be it a message, is there twice."""
    listed = [value.SerializeToString(deterministic=True) if isinstance(value, Message) else value for value in values]
    return len(set(listed)) == len(listed)
