"""Credentials on the wire, against a gRPC server that is not Signalpost's."""

import asyncio
import pathlib
from typing import Any

import grpc
import pytest
from binary import certificate
from signalpost.v1 import event_ingest_pb2 as pb
from signalpost.v1.event_ingest_pb2_grpc import EventIngestServicer, add_EventIngestServicer_to_server

from signalpost import AsyncClient, Event, Refusal, Tls


class Service(EventIngestServicer):
    """Accepts what comes with the right token."""

    async def Emit(self, request: pb.EmitRequest, context: Any) -> pb.EmitResponse:
        if dict(context.invocation_metadata()).get("authorization") != "Bearer t0ken":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return pb.EmitResponse(result=pb.EmitResult(event_id=request.event.event_id))

    async def EmitBatch(self, request: pb.EmitBatchRequest, context: Any) -> pb.EmitBatchResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not asked for")
        raise AssertionError

    async def EmitStream(self, requests: Any, context: Any) -> Any:
        if dict(context.invocation_metadata()).get("authorization") != "Bearer t0ken":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        async for request in requests:
            yield pb.EmitStreamResponse(acknowledged_sequence=request.sequence)


def test_token_and_client_certificate_reach_the_server(tmp_path: pathlib.Path) -> None:
    async def check() -> None:
        chain, key = (path.read_bytes() for path in certificate(tmp_path))
        server = grpc.aio.server()
        add_EventIngestServicer_to_server(Service(), server)
        credentials = grpc.ssl_server_credentials([(key, chain)], chain, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        target, known = f"https://127.0.0.1:{port}", Tls(ca=chain, certificate=chain, key=key)

        async with AsyncClient(target, organization="acme", token="t0ken", tls=known) as client:
            assert (await client.emit(Event("fine", id="one"))).event_id == "one"
            async with client.stream() as stream:
                assert (await (await stream.send(Event("fine", id="two")))).event_id == "two"
        async with AsyncClient(target, organization="acme", token="wrong", tls=known) as client:
            with pytest.raises(Refusal) as caught:
                await client.emit(Event("fine"))
            assert caught.value.code == grpc.StatusCode.UNAUTHENTICATED
            stream = client.stream()
            answer = await stream.send(Event("fine"))
            with pytest.raises(Refusal, match="no token"):
                await stream.close()
            assert isinstance(answer.exception(), Refusal), "nobody waits for ever"
        async with AsyncClient(target, organization="acme", tls=Tls(ca=chain), deadline=1.0) as client:
            with pytest.raises(Refusal, match="no answer within"):
                await client.emit(Event("fine"))
        await server.stop(None)

    asyncio.run(check())
