"""A stream of events that outlives its connections.

`AsyncEventStream` is the caller's end. A task holds what has no answer yet in a `Ledger`, sends it, and after a
broken connection sends it again on a new one.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from signalpost._backoff import Backoff
from signalpost._errors import PERMANENT, Refusal, StreamClosed
from signalpost._event import Accepted, Event
from signalpost._ledger import Ledger
from signalpost.v1 import event_ingest_pb2 as pb

#: How many seconds the server has for its last word after ours.
LAST_WORD = 10.0

#: Opens a stream; the generated stub's call with its metadata.
Open = Callable[[], Any]


@dataclass(frozen=True)
class StreamOptions:
    """The limits of a stream."""

    #: The most events without an answer; sending waits beyond it.
    max_in_flight: int = 2000
    #: The most bytes of them; a larger event goes alone.
    max_bytes_in_flight: int = 16 * 1024 * 1024
    #: How many seconds the stream tries again without any progress before it ends with the last error.
    patience: float = 300.0
    #: How many seconds to wait for an answer before the connection counts as broken. An organization's rate
    #: limit slows a stream down, so this is long.
    answer_timeout: float = 120.0


class _Room:
    """Bounds what is in flight. Who finds no room waits."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self._events = 0
        self._bytes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def take(self, size: int) -> None:
        while not self._fits(size):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._wake()
                raise
        self._events += 1
        self._bytes += size
        self._wake()

    def give(self, size: int) -> None:
        self._events -= 1
        self._bytes -= size
        self._wake()

    def _fits(self, size: int) -> bool:
        most, most_bytes = self._options.max_in_flight, self._options.max_bytes_in_flight
        return self._events == 0 or (self._events < most and self._bytes + size <= most_bytes)

    def _wake(self) -> None:
        while self._waiters and self._fits(0):
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


@dataclass(frozen=True)
class _Waiting:
    answer: "asyncio.Future[Accepted]"
    size: int


class AsyncEventStream:
    """Sends events and tells what became of each.

    Use it as `async with client.stream() as stream`: leaving the block waits until every event has its answer.
    Events keep their order as long as none has to wait for the server to have room again.
    """

    def __init__(self, open_stream: Open, organization_id: str, options: StreamOptions) -> None:
        self._open = open_stream
        self._organization_id = organization_id
        self._options = options
        self._room = _Room(options)
        self._ledger: Ledger[_Waiting] = Ledger()
        self._backoff = Backoff()
        self._changed = asyncio.Event()
        self._closing = False
        self._resume_at = 0.0
        self._progress = 0.0
        self._error: Refusal | None = None
        self._driver = asyncio.get_running_loop().create_task(self._drive())

    async def send(self, event: Event) -> "asyncio.Future[Accepted]":
        """Sends an event. Waits while too much is in flight.

        The future resolves when the event is durable, or raises `Refusal` if it will never be accepted.
        Raises `StreamClosed` if the stream has ended.
        """
        message = event.to_message()
        size = message.ByteSize()
        await self._room.take(size)
        if self._closing or self._driver.done():
            self._room.give(size)
            raise StreamClosed("the stream is closed")
        answer: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        if not self._ledger:
            self._progress = _now()
        self._ledger.push(message, _Waiting(answer, size))
        self._changed.set()
        return answer

    async def close(self) -> None:
        """Waits until every event has its answer, and ends the stream. Raises the `Refusal` by which the
        stream ended before, if it did."""
        self._closing = True
        self._changed.set()
        await self._driver
        if self._error is not None:
            raise self._error

    async def __aenter__(self) -> "AsyncEventStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self._driver.cancel()
            await asyncio.gather(self._driver, return_exceptions=True)

    async def _drive(self) -> None:
        try:
            while await self._has_work():
                refusal = await self._attempt()
                if refusal is None:
                    return
                if refusal.code in PERMANENT or _now() - self._progress >= self._options.patience:
                    self._error = refusal
                    return
                await asyncio.sleep(self._backoff.next(refusal.retry_after))
        finally:
            self._give_up()

    async def _has_work(self) -> bool:
        """Waits for an event, if none is there. False when the stream is closed and all is answered."""
        while not self._ledger:
            if self._closing:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    async def _attempt(self) -> Refusal | None:
        """Works on one connection. Returns why it ended, or nothing when all is done."""
        try:
            await self._connection()
        except grpc.aio.AioRpcError as error:
            return Refusal.of_call(error)
        except Refusal as refusal:
            return refusal
        return None

    async def _connection(self) -> None:
        self._ledger.rewind()
        self._resume_at = 0.0
        call = self._open()
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write(call))
        ends = [loop.create_task(self._read(call)), loop.create_task(self._watch())]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (writer, *ends):
                task.cancel()
            await asyncio.gather(writer, *ends, return_exceptions=True)
            call.cancel()

    @property
    def _is_done(self) -> bool:
        return self._closing and not self._ledger

    async def _write(self, call: Any) -> None:
        """Sends what has to be sent; ends our side when all is answered."""
        is_first = True
        # A call that is over takes no more; the reader learns why.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while not self._is_done:
                self._changed.clear()
                while _now() >= self._resume_at and (request := self._ledger.next_unsent()) is not None:
                    if is_first:
                        request.organization_id = self._organization_id
                        request.acknowledgement_mode = pb.ACKNOWLEDGEMENT_MODE_PER_EVENT
                        is_first = False
                    await call.write(request)
                if not self._is_done:
                    await self._wait_for_change()
            await call.done_writing()

    async def _wait_for_change(self) -> None:
        pause = self._resume_at - _now()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), pause if pause > 0 else None)

    async def _read(self, call: Any) -> None:
        """Takes answers until the server ends its side."""
        while (response := await call.read()) is not grpc.aio.EOF:
            self._acknowledge(response)
        if not self._is_done:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")

    async def _watch(self) -> None:
        """Ends the wait for a server that does not answer, or does not end its side after ours."""
        opened, finished = _now(), None
        while True:
            await asyncio.sleep(1.0)
            if self._is_done:
                finished = finished or _now()
                if _now() - finished > LAST_WORD:
                    return
            elif self._ledger and _now() - max(self._progress, opened) > self._options.answer_timeout:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "the server does not answer")

    def _acknowledge(self, response: pb.EmitStreamResponse) -> None:
        settled = self._ledger.acknowledge(response)
        if settled.answers:
            self._progress = _now()
            self._backoff.reset()
        for waiting, answer in settled.answers:
            self._settle(waiting, answer)
        if settled.put_back:
            self._resume_at = _now() + self._backoff.next(None)
        if settled.put_back or self._is_done:
            self._changed.set()

    def _settle(self, waiting: _Waiting, answer: Accepted | Exception) -> None:
        self._room.give(waiting.size)
        if waiting.answer.done():
            return  # the caller has cancelled it
        if isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)

    def _give_up(self) -> None:
        """Answers everyone who still waits when the stream has ended."""
        for waiting in self._ledger.drain():
            self._settle(waiting, self._error or StreamClosed("the stream is closed"))


def _now() -> float:
    return asyncio.get_running_loop().time()
