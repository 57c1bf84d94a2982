"""What was given to a stream and has no answer yet. It does nothing by itself: it decides what to send and
who is answered.

Entries stand in the order of their sequences; those before `_sent` are on the present connection. A new
connection begins with the first again. Sequences never repeat, so an answer belongs to one entry.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from signalpost._errors import Refusal
from signalpost._event import Accepted
from signalpost.v1 import event_ingest_pb2 as pb

T = TypeVar("T")
Answer = Accepted | Refusal


@dataclass
class _Entry(Generic[T]):
    event: pb.Event
    waiting: T
    answer: Answer | None = None


@dataclass
class Settled(Generic[T]):
    """What an answer of the server settles."""

    #: Who is answered, and what.
    answers: list[tuple[T, Answer]]
    #: Whether some events could not be taken at present and wait to be sent again.
    put_back: bool


class Ledger(Generic[T]):
    """Events without an answer; `T` is who waits for it."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, _Entry[T]] = OrderedDict()
        self._unsent: OrderedDict[int, None] = OrderedDict()
        self._last_sequence = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_unsent(self) -> bool:
        """Whether an event waits to be sent on this connection."""
        return bool(self._unsent)

    def push(self, event: pb.Event, waiting: T) -> None:
        """A new event, to be sent after all others."""
        self._last_sequence += 1
        self._entries[self._last_sequence] = _Entry(event, waiting)
        self._unsent[self._last_sequence] = None

    def rewind(self) -> None:
        """A new connection: everything without an answer is to be sent again."""
        self._unsent = OrderedDict.fromkeys(self._entries)

    def next_unsent(self) -> pb.EmitStreamRequest | None:
        """The next event for this connection, which then counts as sent."""
        if not self._unsent:
            return None
        sequence, _ = self._unsent.popitem(last=False)
        return pb.EmitStreamRequest(sequence=sequence, event=self._entries[sequence].event)

    def acknowledge(self, response: pb.EmitStreamResponse) -> Settled[T]:
        """Takes an answer of the server."""
        for result in response.results:
            entry = self._entries.get(result.sequence)
            if entry is None:
                continue
            if result.HasField("accepted"):
                entry.answer = result.accepted
            elif result.HasField("error"):
                entry.answer = Refusal.of_event(result.error)
        answers: list[tuple[T, Answer]] = []
        again: list[_Entry[T]] = []
        for entry in self._covered(response.acknowledged_sequence):
            if isinstance(entry.answer, Refusal) and entry.answer.is_transient:
                again.append(entry)
            else:
                # The server tells every result in this mode; an acknowledgement alone still means acceptance.
                answers.append((entry.waiting, entry.answer or Accepted(event_id=entry.event.event_id)))
        for entry in again:
            self.push(entry.event, entry.waiting)
        return Settled(answers, bool(again))

    def _covered(self, acknowledged: int) -> Iterator[_Entry[T]]:
        while (first := next(islice(self._entries, 1), None)) is not None and first <= acknowledged:
            self._unsent.pop(first, None)
            yield self._entries.pop(first)

    def drain(self) -> list[T]:
        """Everyone who still waits, when there will be no more answers."""
        waiting = [entry.waiting for entry in self._entries.values()]
        self._entries.clear()
        self._unsent.clear()
        return waiting
