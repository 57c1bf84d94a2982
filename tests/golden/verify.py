"""Checks the signatures in the golden requests with code that is not ours.

Run it after a golden file has changed: `python3 tests/golden/verify.py`. Ed25519 needs the
`cryptography` package; without it, those signatures are reported as not checked.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import sys

PLAIN_KEY = b"my-secret-key"
CURRENT = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
OLD = base64.b64decode("C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
ED25519_PUBLIC = base64.b64decode("1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")

HEX_HEADERS = ["x-semaphor-signature", "x-webhook-signature", "x-observer-signature"]


def digest(key, text):
    return hmac.new(key, text, hashlib.sha256).digest()


def ed25519_holds(signature, text):
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return None
    try:
        Ed25519PublicKey.from_public_bytes(ED25519_PUBLIC).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def standard(headers, body):
    """One verdict for each signature, against the secrets in the order in which they sign."""
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    for entry, key in zip(headers["webhook-signature"].split(" "), [CURRENT, OLD]):
        version, _, encoded = entry.partition(",")
        signature = base64.b64decode(encoded, validate=True)
        yield ed25519_holds(signature, text) if version == "v1a" else signature == digest(key, text)


def verdicts(headers, body):
    for name in HEX_HEADERS:
        if name in headers:
            yield headers[name] == "sha256=" + digest(PLAIN_KEY, body).hex()
    if "x-signature" in headers:
        yield headers["x-signature"] == base64.b64encode(digest(PLAIN_KEY, body)).decode()
    if "webhook-signature" in headers:
        yield from standard(headers, body)


def main():
    failed = False
    for path in sorted(pathlib.Path(__file__).parent.glob("*/*.http")):
        head, _, body = path.read_bytes().partition(b"\n\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\n")[1:])
        json.loads(body)
        found = list(verdicts(headers, body))
        words = [{True: "holds", False: "WRONG", None: "not checked"}[verdict] for verdict in found]
        print(f"{path.parent.name}/{path.name}: {', '.join(words) or 'unsigned'}")
        failed |= False in found
    sys.exit(failed)


main()
