"""The example receiver against the requests that destinations get, byte for byte."""

import pathlib

import pytest
from verify import TOLERANCE, NotGenuine, verify

GOLDEN = pathlib.Path(__file__).resolve().parents[3] / "tests" / "golden"
PLAIN = "my-secret-key"
CURRENT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
OTHER = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#: When the golden requests were signed.
SIGNED_AT = 1_749_997_929
TEST_ID = "01977401-402b-7000-8000-000000000000"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"

GENUINE = [
    ("semaphor/event", PLAIN, "a1b2c3d4-e5f6-7890-abcd-ef1234567890", "query_failed"),
    ("semaphor/test", PLAIN, TEST_ID, "webhook_test"),
    ("stalwart/event", PLAIN, "12345", "auth.success"),
    ("stalwart/batch", PLAIN, "12345", "auth.success"),
    ("stalwart/test", PLAIN, TEST_ID, "webhook.test"),
    ("workspace/event", PLAIN, "evt_1", "ingestion.completed"),
    ("workspace/test", PLAIN, TEST_ID, "webhook.test"),
    ("observer/event", PLAIN, "evt_1", "slo.burn_started"),
    ("observer/test", PLAIN, TEST_ID, "webhook.test"),
    ("standard_webhooks/event", CURRENT, MESSAGE_ID, "invoice.paid"),
    ("standard_webhooks/rotation", OLD, MESSAGE_ID, "invoice.paid"),
    ("standard_webhooks/ed25519", PUBLIC, MESSAGE_ID, "invoice.paid"),
    ("standard_webhooks/test", CURRENT, TEST_ID, "webhook.test"),
    ("cloudevents/binary", CURRENT, "evt_1", "com.example.invoice.paid"),
    ("cloudevents/batch", CURRENT, "evt_1", "com.example.invoice.paid"),
]

Request = tuple[str, list[tuple[str, str]], bytes]


def golden(name: str) -> Request:
    head, _, body = (GOLDEN / f"{name}.http").read_bytes().partition(b"\n\n")
    headers = [(key, value) for key, _, value in (line.partition(": ") for line in head.decode().split("\n")[1:])]
    return name.split("/")[0].upper(), headers, body


@pytest.mark.parametrize(("name", "secret", "event_id", "event_type"), GENUINE)
def test_a_golden_request_is_verified_and_read(name: str, secret: str, event_id: str, event_type: str) -> None:
    contract, headers, body = golden(name)
    events = verify(contract, [secret], headers, body, SIGNED_AT)
    assert (events[0].id, events[0].type) == (event_id, event_type)
    assert len(events) == (2 if name.endswith("batch") else 1)
    assert verify(contract, [OTHER, secret], headers, body, SIGNED_AT) == events, "while rotating"


@pytest.mark.parametrize(("name", "secret"), [(name, secret) for name, secret, *_ in GENUINE])
def test_a_changed_byte_another_secret_and_no_secret_are_refused(name: str, secret: str) -> None:
    contract, headers, body = golden(name)
    for wrong in ([OTHER], [""], []):
        with pytest.raises(NotGenuine):
            verify(contract, wrong, headers, body, SIGNED_AT)
    with pytest.raises(NotGenuine):
        verify(contract, [secret], headers, body[:10] + bytes([body[10] ^ 1]) + body[11:], SIGNED_AT)


def test_a_request_without_signature_or_with_two_is_refused() -> None:
    contract, headers, body = golden("cloudevents/event")
    with pytest.raises(NotGenuine):
        verify(contract, [CURRENT], headers, body, SIGNED_AT)
    contract, headers, body = golden("stalwart/event")
    with pytest.raises(NotGenuine):
        verify(contract, [PLAIN], [*headers, ("X-Signature", "AAAA")], body, SIGNED_AT)


def test_a_recording_is_refused_when_the_tolerance_is_over() -> None:
    contract, headers, body = golden("standard_webhooks/event")
    for now in (SIGNED_AT - TOLERANCE, SIGNED_AT + TOLERANCE):
        assert verify(contract, [CURRENT], headers, body, now)
    for now in (SIGNED_AT - TOLERANCE - 1, SIGNED_AT + TOLERANCE + 1):
        with pytest.raises(NotGenuine):
            verify(contract, [CURRENT], headers, body, now)
