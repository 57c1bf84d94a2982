"""The client: calls with deadlines, repeated while that is safe."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from signalpost._backoff import Backoff
from signalpost._errors import Refusal
from signalpost._event import Accepted, Event
from signalpost._stream import AsyncEventStream, StreamOptions
from signalpost.v1 import event_ingest_pb2 as pb
from signalpost.v1.delivery_admin_pb2_grpc import DeliveryAdminStub
from signalpost.v1.destination_admin_pb2_grpc import DestinationAdminStub
from signalpost.v1.event_ingest_pb2_grpc import EventIngestStub
from signalpost.v1.organization_admin_pb2_grpc import OrganizationAdminStub

A = TypeVar("A")
Metadata = tuple[tuple[str, str], ...]

#: How the channel behaves: calls are spread over all addresses of the name, and a server that comes back is
#: found within two seconds instead of two minutes.
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


@dataclass(frozen=True)
class Tls:
    """Whom to trust and who we are, for `https://` targets. All in PEM."""

    #: The certificate authorities to trust; without them, those that gRPC brings along.
    ca: bytes | None = None
    #: The certificate chain to present to servers that ask for one, with its private key.
    certificate: bytes | None = None
    key: bytes | None = None
    #: The name to expect in the server's certificate instead of the target's host.
    server_name: str | None = None


@dataclass(frozen=True)
class Target:
    """A server's address and how to reach it; checked once, for both kinds of channel."""

    address: str
    credentials: grpc.ChannelCredentials | None
    options: list[tuple[str, Any]]

    @classmethod
    def of(cls, target: str, tls: Tls | None) -> "Target":
        url = urlsplit(target)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"target {target!r} has to be http://HOST:PORT or https://HOST:PORT")
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        address = f"dns:///{host}:{url.port or (443 if url.scheme == 'https' else 80)}"
        options = list(CHANNEL_OPTIONS)
        if url.scheme == "http":
            if tls is not None:
                raise ValueError("tls is given but the target is http://; use https://")
            return cls(address, None, options)
        tls = tls or Tls()
        if (tls.certificate is None) != (tls.key is None):
            raise ValueError("tls.certificate and tls.key have to be given together")
        if tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
        return cls(address, credentials, options)


def metadata_of(token: str | None) -> Metadata:
    """What each call carries to say who is calling."""
    if token is None:
        return ()
    if not token.isascii() or not token.isprintable():
        raise ValueError("token has characters that a header can't carry")
    return (("authorization", f"Bearer {token}"),)


class AsyncClient:
    """Emits events of one organization. Make it within a running event loop.

    `target` is `http://HOST:PORT` or `https://HOST:PORT`; all addresses of the name are used. `token` goes with
    each call as `authorization: Bearer …`; use it with `https://`, as everyone on the way can read it otherwise.
    `deadline` is how many seconds `emit` and `emit_batch` may take, repetitions included.
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
        if not organization:
            raise ValueError("organization is missing; give the organization's id")
        to, metadata = Target.of(target, tls), metadata_of(token)
        interceptors = [_BearerUnary(metadata), _BearerStream(metadata)] if metadata else []
        if to.credentials is None:
            channel = grpc.aio.insecure_channel(to.address, to.options, interceptors=interceptors)
        else:
            channel = grpc.aio.secure_channel(
                to.address, to.credentials, to.options, interceptors=interceptors
            )
        self._channel = channel
        self._organization_id = organization
        self._metadata = metadata
        self._deadline = deadline
        #: The generated stubs, without deadlines and repetitions of their own.
        self.ingest = EventIngestStub(channel)
        self.destinations = DestinationAdminStub(channel)
        self.deliveries = DeliveryAdminStub(channel)
        self.organizations = OrganizationAdminStub(channel)

    async def emit(self, event: Event) -> Accepted:
        """Emits one event. The answer means that it and its deliveries are on disk.

        Repeats the call while the server is unavailable, until the deadline. Raises `Refusal`; with the code
        `DEADLINE_EXCEEDED` it is not known whether the event was accepted, and emitting it again is safe.
        """
        request = pb.EmitRequest(organization_id=self._organization_id, event=event.to_message())
        response = await self._repeated(lambda timeout: self.ingest.Emit(request, timeout=timeout))
        return response.result

    async def emit_batch(self, events: Iterable[Event]) -> list[Accepted | Refusal]:
        """Emits 1 to 1000 events with one call. Each has its own result, in order."""
        messages = [event.to_message() for event in events]
        request = pb.EmitBatchRequest(organization_id=self._organization_id, events=messages)
        response = await self._repeated(lambda timeout: self.ingest.EmitBatch(request, timeout=timeout))
        return [
            Refusal.of_event(result.error) if result.HasField("error") else result.accepted
            for result in response.results
        ]

    def stream(self, options: StreamOptions | None = None) -> AsyncEventStream:
        """Opens a stream, which carries many more events a second than single calls."""

        def open_stream() -> Any:
            return self.ingest.EmitStream(metadata=self._metadata)

        return AsyncEventStream(open_stream, self._organization_id, options or StreamOptions())

    async def close(self) -> None:
        """Ends the connections. Close streams before."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _repeated(self, call: Callable[[float], Awaitable[A]]) -> A:
        now = asyncio.get_running_loop().time
        end, backoff = now() + self._deadline, Backoff()
        while True:
            try:
                return await call(max(end - now(), 0.001))
            except grpc.aio.AioRpcError as error:
                refusal = Refusal.of_call(error)
                pause = backoff.next(refusal.retry_after)
                if refusal.code != grpc.StatusCode.UNAVAILABLE:
                    raise refusal from None
                if now() + pause >= end:
                    message = f"no answer within {self._deadline} s; the last one was: {refusal}"
                    raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, message, refusal.reason) from None
            await asyncio.sleep(pause)


def _with(details: Any, metadata: Metadata) -> Any:
    return details._replace(metadata=grpc.aio.Metadata(*(details.metadata or ()), *metadata))


class _BearerUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with(details, self._metadata), request)


class _BearerStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with(details, self._metadata), request)
