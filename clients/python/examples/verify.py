"""Is a webhook genuine, and what does it say? One function for all six contracts.

Copy this file into your receiver and keep what your contract needs. Three rules matter more than the rest: verify
the bytes as they came and parse them afterwards; compare in constant time (`hmac.compare_digest` does);
remember event ids, because a delivery can come more than once.

Only Ed25519 (`v1a`) needs a package, `cryptography`; everything else is the standard library.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: How far the clocks of sender and receiver may be apart, in seconds. Older requests may be recordings.
TOLERANCE = 300

#: The header of each contract that signs the body alone.
HEX_HEADERS = {
    "SEMAPHOR": "x-semaphor-signature",
    "WORKSPACE": "x-webhook-signature",
    "OBSERVER": "x-observer-signature",
}


class NotGenuine(Exception):
    """Why a request is turned away; answer 401."""


@dataclass(frozen=True)
class Received:
    """An event that was received."""

    #: The same for every repetition.
    id: str
    type: str


def verify(
    contract: str, secrets: Sequence[str], headers: Iterable[tuple[str, str]], body: bytes, now: float
) -> list[Received]:
    """Verifies a request and then reads its events.

    `secrets` are all that are valid at present: one, or two while they rotate. `now` is in seconds since 1970.
    """
    given = single(headers)
    secrets = [secret for secret in secrets if secret]
    if contract in HEX_HEADERS:
        digest = header(given, HEX_HEADERS[contract])
        matches(digest, ["sha256=" + plain(secret, body).hex() for secret in secrets])
    elif contract == "STALWART":
        digest = header(given, "x-signature")
        matches(digest, [base64.b64encode(plain(secret, body)).decode() for secret in secrets])
    else:
        standard(secrets, given, body, now)
    return read(contract, given, body)


# [plain]
def plain(secret: str, body: bytes) -> bytes:
    """HMAC-SHA256 with the bytes of the secret's text as the key."""
    return hmac.new(secret.encode(), body, hashlib.sha256).digest()


def matches(signature: str, expected: list[str]) -> None:
    """Constant time for each comparison."""
    if not any(hmac.compare_digest(signature.encode(), one.encode()) for one in expected):
        raise NotGenuine("the signature does not match")
# [/plain]


# [standard]
def standard(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Standard Webhooks: HMAC-SHA256 (`v1`, secret `whsec_…`) or Ed25519 (`v1a`, public key `whpk_…`) of id, time
    and body. One of several signatures has to match, as two secrets sign while they rotate."""
    time = header(headers, "webhook-timestamp")
    if not (time.isascii() and time.isdigit()) or abs(int(time) - now) > TOLERANCE:
        raise NotGenuine("the timestamp is too old, too new or no number")
    signed = f"{header(headers, 'webhook-id')}.{time}.".encode() + body
    for entry in header(headers, "webhook-signature").split(" "):
        version, _, text = entry.partition(",")
        try:
            signature = base64.b64decode(text, validate=True)
            if any(entry_holds(version, secret, signature, signed) for secret in secrets):
                return
        except binascii.Error:
            continue
    raise NotGenuine("the signature does not match")


def entry_holds(version: str, secret: str, signature: bytes, signed: bytes) -> bool:
    """Whether one signature is that of one secret."""
    if version == "v1" and secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        return hmac.compare_digest(signature, hmac.new(key, signed, hashlib.sha256).digest())
    if version == "v1a" and secret.startswith("whpk_"):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        key = base64.b64decode(secret.removeprefix("whpk_"), validate=True)
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
        except InvalidSignature:
            return False
        return True
    return False
# [/standard]


def single(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name. One that is there twice is refused: another program may believe the other."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.lower() in found:
            raise NotGenuine(f"the header {name} is there twice")
        found[name.lower()] = value
    return found


def header(headers: Mapping[str, str], name: str) -> str:
    """A header that has to be there."""
    if name not in headers:
        raise NotGenuine(f"the header {name} is missing")
    return headers[name]


def read(contract: str, headers: Mapping[str, str], body: bytes) -> list[Received]:
    """The events of a request that is genuine."""
    try:
        content: Any = json.loads(body)
        match contract:
            case "SEMAPHOR":
                return [Received(content["event_id"], content["event_type"])]
            case "STALWART":
                return [Received(one["id"], one["type"]) for one in content["events"]]
            case "WORKSPACE":  # this body has no id of its own
                return [Received(header(headers, "signalpost-event-id"), content["event"])]
            case "OBSERVER":
                return [Received(content["id"], content["type"])]
            case "STANDARD_WEBHOOKS":
                return [Received(header(headers, "webhook-id"), content["type"])]
        match header(headers, "content-type"):  # CLOUDEVENTS in one of its three modes
            case "application/cloudevents-batch+json":
                return [Received(one["id"], one["type"]) for one in content]
            case "application/cloudevents+json":
                return [Received(content["id"], content["type"])]
        return [Received(header(headers, "ce-id"), header(headers, "ce-type"))]
    except (ValueError, KeyError, TypeError) as error:
        raise NotGenuine("the body is not what the contract says") from error
