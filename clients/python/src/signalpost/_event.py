"""An event on its way in, and what became of it."""

import datetime
import enum
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from signalpost.v1 import event_ingest_pb2 as pb

#: What became of an accepted event: `event_id`, `duplicate`, `accept_time`, `delivery_count`,
#: `best_effort_count`.
Accepted = pb.EmitResult


class Level(enum.IntEnum):
    """How severe an event is."""

    TRACE = pb.LEVEL_TRACE
    DEBUG = pb.LEVEL_DEBUG
    INFO = pb.LEVEL_INFO
    WARN = pb.LEVEL_WARN
    ERROR = pb.LEVEL_ERROR


@dataclass(frozen=True)
class Event:
    """An immutable fact: something that happened.

    It has an id from the beginning, so that it can be sent again safely: the server accepts an id once. A
    program that may crash before it remembers what it has emitted derives the id from the fact.
    """

    #: What happened: 1 to 128 characters of `[A-Za-z0-9_.-]`.
    type: str
    #: A JSON object as a mapping, or as its text, which is delivered byte for byte. At most 256 KiB.
    data: Mapping[str, Any] | str | bytes | None = None
    #: 1 to 128 characters of `[A-Za-z0-9_:-]`; one for one fact.
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    #: Without it, `INFO`.
    level: Level | None = None
    #: When it happened, with a time zone; without it, the time of acceptance.
    occurred_at: datetime.datetime | None = None

    def to_message(self) -> pb.Event:
        """The message of the API."""
        message = pb.Event(event_id=self.id, type=self.type)
        if self.level is not None:
            message.level = pb.Level.ValueType(self.level)
        if self.occurred_at is not None:
            if self.occurred_at.tzinfo is None:
                raise ValueError("occurred_at has no time zone; use datetime.now(timezone.utc), for example")
            message.occurred_at.FromDatetime(self.occurred_at)
        if self.data is not None:
            message.json_data = json_text(self.data)
        return message


def json_text(data: Mapping[str, Any] | str | bytes) -> bytes:
    """The bytes that are delivered."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
