"""Which clients a status request is about: Envoy's `NodeMatcher`, as far as rows can answer it."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from controlplane.errors import InvalidInputError

MAX_TEXT: Final = 256
"""Characters of a pattern; node ids have no more."""

MAX_QUANTIFIERS: Final = 3
"""Python's regular expressions backtrack, Envoy's do not: with more, and with repeated groups, one request could keep
the process busy for ever."""

Matcher: TypeAlias = Callable[[str], bool]
"""Says whether a node id is meant."""

_ESCAPED_OR_CLASS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_GROUP_START: Final = re.compile(r"\(\?(?::|P<\w+>)?")
_REPEATED_GROUP: Final = re.compile(r"\)[*+{?]")
_QUANTIFIER: Final = re.compile(r"[*+?]|\{")
_REFERENCE: Final = re.compile(r"\\[1-9]")


def read_matchers(matchers: Sequence[Any]) -> Matcher:
    """Return what *matchers*, of which one is enough, say of a node id; none of them means every node.

    Raises:
        InvalidInputError: One asks for what cannot be answered.
    """
    read = [_read(matcher, f"node_matchers[{place}]") for place, matcher in enumerate(matchers, start=1)]
    return (lambda node: any(matches(node) for matches in read)) if read else _everything


def _everything(_node: str) -> bool:
    return True


def _read(matcher: Any, field: str) -> Matcher:
    if matcher.node_metadatas:
        raise InvalidInputError(f"{field}.node_metadatas", "is not kept here", "match by node_id")
    return _read_string(matcher.node_id, f"{field}.node_id") if matcher.HasField("node_id") else _everything


def _read_string(matcher: Any, field: str) -> Matcher:
    pattern = matcher.WhichOneof("match_pattern")
    if pattern == "safe_regex":
        return _read_regex(matcher.safe_regex.regex, f"{field}.safe_regex.regex")
    if pattern not in _COMPARE:
        raise InvalidInputError(
            field, f"has {pattern or 'nothing'} to match by", "use exact, prefix, suffix, contains or safe_regex"
        )
    text, compare = getattr(matcher, pattern), _COMPARE[pattern]
    if matcher.ignore_case:
        return lambda node: compare(node.lower(), text.lower())
    return lambda node: compare(node, text)


_COMPARE: Final[dict[str, Callable[[str, str], bool]]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": str.__contains__,
}


def _read_regex(text: str, field: str) -> Matcher:
    if len(text) > MAX_TEXT:
        raise InvalidInputError(field, f"has {len(text)} characters", f"use at most {MAX_TEXT}")
    bare = _GROUP_START.sub("(", _ESCAPED_OR_CLASS.sub("x", text))
    if _REPEATED_GROUP.search(bare) or len(_QUANTIFIER.findall(bare)) > MAX_QUANTIFIERS or _REFERENCE.search(text):
        raise InvalidInputError(
            field, f"{text!r} may take for ever", f"use at most {MAX_QUANTIFIERS} of * + ? {{ and none after a group"
        )
    try:
        compiled = re.compile(text, re.DOTALL)
    except re.error as exc:
        raise InvalidInputError(field, f"{text!r} is no regular expression ({exc})", "correct it") from exc
    return lambda node: compiled.fullmatch(node) is not None
