"""The client of Signalpost: hand it events, and they are delivered as signed webhooks.

`AsyncClient` is for asyncio, `Client` for everything else; both do the same. The rest of the API is in
`signalpost.v1` as generated, and reached by `destinations`, `deliveries` and `organizations` of a client.
"""

from signalpost._client import AsyncClient, Tls
from signalpost._errors import FieldViolation, Refusal, StreamClosed
from signalpost._event import Accepted, Event, Level
from signalpost._stream import AsyncEventStream, StreamOptions
from signalpost._sync import Client, EventStream

__all__ = [
    "Accepted",
    "AsyncClient",
    "AsyncEventStream",
    "Client",
    "Event",
    "EventStream",
    "FieldViolation",
    "Level",
    "Refusal",
    "StreamClosed",
    "StreamOptions",
    "Tls",
]
