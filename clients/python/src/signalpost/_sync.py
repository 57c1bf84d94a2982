"""The same client for programs without asyncio: an event loop on a thread of its own does the work."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar

from signalpost._client import AsyncClient, Tls
from signalpost._errors import Refusal
from signalpost._event import Accepted, Event
from signalpost._stream import AsyncEventStream, StreamOptions

A = TypeVar("A")


class Client:
    """Emits events of one organization. May be used by many threads; make it after a fork, not before.

    The arguments are those of `AsyncClient`.
    """

    def __init__(
        self,
        target: str,
        *,
        organization: str,
        token: str | None = None,
        tls: Tls | None = None,
        deadline: float = 30.0,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="signalpost", daemon=True)
        self._thread.start()

        async def connect() -> AsyncClient:
            return AsyncClient(target, organization=organization, token=token, tls=tls, deadline=deadline)

        try:
            self._client = self._run(connect())
        except BaseException:
            self._stop()
            raise

    def emit(self, event: Event) -> Accepted:
        """Emits one event; see `AsyncClient.emit`."""
        return self._run(self._client.emit(event))

    def emit_batch(self, events: Iterable[Event]) -> list[Accepted | Refusal]:
        """Emits 1 to 1000 events with one call; see `AsyncClient.emit_batch`."""
        return self._run(self._client.emit_batch(events))

    def stream(self, options: StreamOptions | None = None) -> "EventStream":
        """Opens a stream, which carries many more events a second than single calls."""

        async def open_stream() -> AsyncEventStream:
            return self._client.stream(options)

        return EventStream(self._run(open_stream()), self._loop)

    def call(self, ask: Callable[[AsyncClient], Any]) -> Any:
        """Any other call of the API, for example
        `client.call(lambda api: api.destinations.GetDestination(request))`. Raises `grpc.RpcError`."""

        async def asked() -> Any:
            return await ask(self._client)

        return self._run(asked())

    def close(self) -> None:
        """Ends the connections. Close streams before."""
        if self._thread.is_alive():
            self._run(self._client.close())
            self._stop()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, A]) -> A:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class EventStream:
    """Sends events and tells what became of each; see `AsyncEventStream`.

    Use it as `with client.stream() as stream`: leaving the block waits until every event has its answer.
    """

    def __init__(self, stream: AsyncEventStream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop

    def send(self, event: Event) -> "concurrent.futures.Future[Accepted]":
        """Sends an event. Waits while too much is in flight.

        The future resolves when the event is durable, or raises `Refusal` if it will never be accepted.
        Raises `StreamClosed` if the stream has ended.
        """
        told: concurrent.futures.Future[Accepted] = concurrent.futures.Future()

        def tell(answer: "asyncio.Future[Accepted]") -> None:
            if answer.cancelled():
                told.cancel()
            elif (error := answer.exception()) is not None:
                told.set_exception(error)
            else:
                told.set_result(answer.result())

        async def send() -> None:
            (await self._stream.send(event)).add_done_callback(tell)

        asyncio.run_coroutine_threadsafe(send(), self._loop).result()
        return told

    def close(self) -> None:
        """Waits until every event has its answer, and ends the stream. Raises the `Refusal` by which the
        stream ended before, if it did."""
        asyncio.run_coroutine_threadsafe(self._stream.close(), self._loop).result()

    def __enter__(self) -> "EventStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave = self._stream.__aexit__(kind, error, trace)
        asyncio.run_coroutine_threadsafe(leave, self._loop).result()
