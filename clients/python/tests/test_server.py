"""The client and the example receiver against the real server."""

import asyncio
import queue
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import grpc
import pytest
from binary import Server
from receive import server as receiver
from signalpost.v1 import destination_admin_pb2 as admin
from test_golden import CURRENT, OLD, PLAIN, PUBLIC
from verify import Received

from signalpost import AsyncClient, Client, Event, Level, Refusal, StreamOptions

KEY_PAIR = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="

#: Contract, the secret that signs, the one that verifies, a type that every destination of it wants.
CONTRACTS = [
    ("SEMAPHOR", PLAIN, PLAIN, "query_failed"),
    ("STALWART", PLAIN, PLAIN, "auth.success"),
    ("WORKSPACE", PLAIN, PLAIN, "kpi.alert"),
    ("OBSERVER", PLAIN, PLAIN, "slo.burn_started"),
    ("STANDARD_WEBHOOKS", CURRENT, CURRENT, "invoice.paid"),
    ("STANDARD_WEBHOOKS", KEY_PAIR, PUBLIC, "invoice.paid"),
    ("CLOUDEVENTS", CURRENT, CURRENT, "com.example.invoice.paid"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@contextmanager
def receiving(server: Server, contract: str, secrets: list[str]) -> Iterator[tuple[str, "queue.Queue[Received]"]]:
    """The example receiver over TLS; its URL and what it takes."""
    taken: queue.Queue[Received] = queue.Queue()

    def take(events: list[Received]) -> None:
        for event in events:
            taken.put(event)

    running = receiver("127.0.0.1", 0, contract, secrets, take)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    running.socket = context.wrap_socket(running.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{running.server_address[1]}/hook", taken
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def create(client: Client, organization: str, contract: str, url: str, secret: str) -> admin.Destination:
    destination = admin.Destination(
        url=url,
        contract=admin.Contract.Value(f"CONTRACT_{contract}"),
        signing_secret=admin.SecretRef(value=secret),
    )
    request = admin.CreateDestinationRequest(organization_id=organization, destination=destination)
    answer: admin.CreateDestinationResponse = client.call(lambda api: api.destinations.CreateDestination(request))
    return answer.destination


async def rotate_secret(request: admin.RotateSecretRequest, api: AsyncClient) -> None:
    await api.destinations.RotateSecret(request)


@pytest.mark.parametrize(("contract", "signs", "verifies", "event_type"), CONTRACTS)
def test_an_event_arrives_as_a_webhook_that_verifies(
    server: Server, contract: str, signs: str, verifies: str, event_type: str
) -> None:
    organization = f"org-{contract}-{signs[:5]}"
    with (
        receiving(server, contract, [verifies]) as (url, taken),
        Client(server.target, organization=organization) as client,
    ):
        create(client, organization, contract, url, signs)
        accepted = client.emit(Event(event_type, {"größe": 12345678901234567890}, id="evt-1", level=Level.WARN))
        assert (accepted.event_id, accepted.delivery_count, accepted.duplicate) == ("evt-1", 1, False)
        assert taken.get(timeout=30) == Received("evt-1", event_type)


def test_while_secrets_rotate_a_receiver_with_either_one_verifies(server: Server) -> None:
    with Client(server.target, organization="org-rotation") as client:
        with (
            receiving(server, "STANDARD_WEBHOOKS", [CURRENT]) as (behind, taken_behind),
            receiving(server, "STANDARD_WEBHOOKS", [OLD]) as (ahead, taken_ahead),
        ):
            for url in (behind, ahead):
                made = create(client, "org-rotation", "STANDARD_WEBHOOKS", url, CURRENT)
                rotate = admin.RotateSecretRequest(
                    organization_id="org-rotation",
                    destination_id=made.destination_id,
                    new_secret=admin.SecretRef(value=OLD),
                )
                client.call(partial(rotate_secret, rotate))
            client.emit(Event("invoice.paid", id="evt-1"))
            for taken in (taken_behind, taken_ahead):
                assert taken.get(timeout=30) == Received("evt-1", "invoice.paid")


def test_a_refusal_tells_every_field_and_a_batch_tells_each_event(server: Server) -> None:
    with Client(server.target, organization="org-refusals") as client:
        with pytest.raises(Refusal) as caught:
            client.emit(Event("no spaces", "[1]", id="no.dots"))
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
        fields = {violation.field for violation in caught.value.violations}
        assert {"event.event_id", "event.type"} <= fields
        good, bad = client.emit_batch([Event("fine", id="one"), Event("fine", "{")])
        assert not isinstance(good, Refusal) and good.event_id == "one"
        assert isinstance(bad, Refusal) and bad.reason == "PAYLOAD_NOT_JSON"
        assert client.emit(Event("fine", id="one")).duplicate
        with pytest.raises(Refusal) as caught:
            client.emit(Event("other", id="one"))
        assert caught.value.reason == "EVENT_ID_CONFLICT"


def test_a_server_that_is_not_there_is_waited_for_until_the_deadline() -> None:
    with Server() as away:
        away.stop()
        with Client(away.target, organization="acme", deadline=1.0) as client:
            with pytest.raises(Refusal) as caught:
                client.emit(Event("fine"))
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        with Client(away.target, organization="acme") as client:
            late = threading.Timer(0.5, away.start)
            late.start()
            assert client.emit(Event("fine", id="patient")).event_id == "patient"
            late.join()


def test_settings_that_cannot_be_used_are_named() -> None:
    for arguments in (
        {"target": "127.0.0.1:8080"},
        {"target": "http://127.0.0.1:1", "organization": ""},
        {"target": "http://127.0.0.1:1", "token": "line\nbreak"},
    ):
        with pytest.raises(ValueError, match="target|organization|token") as caught:
            Client(**{"organization": "acme", **arguments})  # type: ignore[arg-type]
        assert "break" not in str(caught.value), "a token is never repeated"


def test_a_stream_of_a_program_without_asyncio(server: Server) -> None:
    with Client(server.target, organization="org-sync") as client:
        with client.stream(StreamOptions(max_in_flight=10)) as stream:
            answers = [stream.send(Event("fine", id=f"e{number}")) for number in range(100)]
            answers.append(stream.send(Event("not fine", id="bad")))
        assert [answer.result().event_id for answer in answers[:-1]] == [f"e{number}" for number in range(100)]
        assert isinstance(answers[-1].exception(), Refusal)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stream_outlives_restarts_of_the_server(how: signal.Signals) -> None:
    events, restart_after = 600, (150, 400)

    async def emit(server: Server) -> tuple[list[str], int]:
        loop, restarts = asyncio.get_running_loop(), 0
        async with AsyncClient(server.target, organization="org-restart") as client:
            async with client.stream(StreamOptions(max_in_flight=50)) as stream:
                answers = []
                for number in range(events):
                    if number in restart_after:
                        # Up to 50 events are on their way, with and without an answer.
                        await loop.run_in_executor(None, server.stop, how)
                        restarts += 1
                        starting = loop.run_in_executor(None, server.start)
                    answers.append(await stream.send(Event("fine", id=f"e{number}")))
                await starting
            return [(await answer).event_id for answer in answers], restarts

    with (
        Server() as server,
        receiving(server, "STANDARD_WEBHOOKS", [CURRENT]) as (url, taken),
    ):
        with Client(server.target, organization="org-restart") as client:
            create(client, "org-restart", "STANDARD_WEBHOOKS", url, CURRENT)
        acknowledged, restarts = asyncio.run(emit(server))
        assert (acknowledged, restarts) == ([f"e{number}" for number in range(events)], 2)
        arrived: set[str] = set()
        while len(arrived) < events:
            arrived.add(taken.get(timeout=60).id)
        assert arrived == set(acknowledged)
