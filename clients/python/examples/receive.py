"""A receiver that verifies webhooks of one contract and prints their events.

    WEBHOOK_SECRET=s3cret python receive.py WORKSPACE 127.0.0.1 9000

It speaks HTTP, for behind the proxy that ends TLS: Signalpost itself calls HTTPS only.
"""

import os
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from verify import NotGenuine, Received, verify

#: Larger than any request of a destination with the default settings.
BODY_MAX_BYTES = 2 * 1024 * 1024


def server(
    host: str, port: int, contract: str, secrets: list[str], take: Callable[[list[Received]], None]
) -> ThreadingHTTPServer:
    """A server that hands genuine events to `take` and answers once it returns."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = self.headers.get("content-length", "")
            if not size.isdecimal() or int(size) > BODY_MAX_BYTES:
                self.close_connection = True
                return self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            body = self.rfile.read(int(size))
            try:
                events = verify(contract, secrets, self.headers.items(), body, time.time())
            except NotGenuine as why:
                print(f"refused: {why}", file=sys.stderr)
                return self.answer(HTTPStatus.UNAUTHORIZED)
            # 2xx ends the delivery; anything else is tried again.
            take(events)
            return self.answer(HTTPStatus.NO_CONTENT)

        def answer(self, status: HTTPStatus) -> None:
            self.send_response(status)
            if status != HTTPStatus.NO_CONTENT:
                self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing for each request."""

    return ThreadingHTTPServer((host, port), Handler)


def show(events: list[Received]) -> None:
    """Prints them."""
    for event in events:
        print(event.type, event.id, flush=True)


if __name__ == "__main__":
    contract, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    server(host, port, contract, [os.environ["WEBHOOK_SECRET"]], show).serve_forever()
