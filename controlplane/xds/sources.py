"""How a resource tells its client where to fetch what it refers to, for the families of clients that have no ADS.

Resources say "over ADS". A client without it refuses that, and Envoy refuses `ConfigSource.self` too ("Missing config
source specifier"), so such clients get the same resources with another address in them. The versions of types stay
those of the snapshot: they name what is served, which is the same for everybody.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Final

from envoy.config.core.v3 import config_source_pb2
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import Message

from controlplane.xds.bootstrap import config_source
from controlplane.xds.kinds import Kind
from controlplane.xds.snapshot import Resource, Snapshot


class Source(enum.Enum):
    """How a client without ADS asks, by the word that rows and metrics use."""

    SOTW = "sotw-per-type"
    DELTA = "delta-per-type"
    REST = "rest"


_SOURCES: Final[Mapping[Source, Any]] = {
    source: json_format.ParseDict(config_source(source.value), config_source_pb2.ConfigSource()) for source in Source
}


def redirect(snapshot: Snapshot, source: Source) -> Snapshot:
    """Return *snapshot* for clients of *source*: what it says of ADS, it says of their own way instead."""
    resources = {
        kind: {name: _redirected(resource, source) for name, resource in snapshot.resources[kind].items()}
        for kind in Kind
    }
    return dataclasses.replace(snapshot, resources=resources)


def _redirected(resource: Resource, source: Source) -> Resource:
    packed = PackedAny.FromString(resource.packed)
    if not _redirect_packed(packed, _SOURCES[source]):
        return resource
    return Resource.of(resource.name, packed, by_name=resource.by_name)


def _redirect_packed(packed: PackedAny, source: Any) -> bool:
    """Redirect inside *packed*; return whether there was anything. Types that nobody here knows are left alone."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
    except KeyError:
        return False
    message = message_factory.GetMessageClass(descriptor).FromString(packed.value)
    if not _redirect_message(message, source):
        return False
    packed.value = message.SerializeToString(deterministic=True)
    return True


def _redirect_message(message: Message, source: Any) -> bool:
    if isinstance(message, config_source_pb2.ConfigSource):
        found: Any = message
        if found.WhichOneof("config_source_specifier") != "ads":
            return False
        found.api_config_source.CopyFrom(source.api_config_source)
        return True
    if isinstance(message, PackedAny):
        return _redirect_packed(message, source)
    changed = False
    for _, value in message.ListFields():
        for part in _messages(value):
            changed = _redirect_message(part, source) or changed
    return changed


def _messages(value: Any) -> list[Message]:
    """Return the messages that a field holds: one, several, or as the values of a map."""
    if isinstance(value, Message):
        return [value]
    if isinstance(value, str | bytes | int | float):
        return []
    held = value.values() if hasattr(value, "values") else value
    return [part for part in held if isinstance(part, Message)]
