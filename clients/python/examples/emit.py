"""Emits one event, a batch, and a stream of numbered events.

    python emit.py http://127.0.0.1:8080 acme 1000

Prints `acknowledged ID` for each event of the stream.
"""

import asyncio
import os
import sys

from signalpost import Accepted, AsyncClient, Event, Refusal


async def main(target: str, organization: str, count: int) -> None:
    # A token is sent where one is set; a server without authentication does not ask for it.
    token = os.environ.get("SIGNALPOST_TOKEN")
    async with AsyncClient(target, organization=organization, token=token) as client:
        await emit_one(client)
        await emit_batch(client)
        await emit_stream(client, count)


# [emit]
async def emit_one(client: AsyncClient) -> None:
    """One event: the answer means that it is on disk."""
    accepted = await client.emit(Event("invoice.paid", {"invoice": "inv_1", "total": 10}))
    print(f"{accepted.event_id} goes to {accepted.delivery_count} destinations")
# [/emit]


# [batch]
async def emit_batch(client: AsyncClient) -> None:
    """Several at once, each with its own result."""
    events = [Event("invoice.paid", {"invoice": invoice}) for invoice in ("inv_2", "inv_3")]
    for result in await client.emit_batch(events):
        if isinstance(result, Refusal):
            print(f"refused: {result}", file=sys.stderr)
        else:
            print(f"{result.event_id} is accepted")
# [/batch]


# [stream]
async def emit_stream(client: AsyncClient, count: int) -> None:
    """Many: sent again after a broken connection, and acknowledged once each is on disk."""

    def acknowledged(answer: "asyncio.Future[Accepted]") -> None:
        if (error := answer.exception()) is None:
            print(f"acknowledged {answer.result().event_id}", flush=True)
        else:
            print(f"refused: {error}", file=sys.stderr)

    async with client.stream() as stream:
        for number in range(count):
            # Waits here while too much is in flight.
            answer = await stream.send(Event("invoice.paid", {"number": number}))
            answer.add_done_callback(acknowledged)
# [/stream]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
