/**
 * Emits one event, a batch, and a stream of numbered events.
 *
 *     node dist/examples/emit.js http://127.0.0.1:8080 acme 1000
 *
 * Prints `acknowledged ID` for each event of the stream.
 */

import { Client, Refusal } from "signalpost";

// [emit]
/** One event: the answer means that it is on disk. */
async function emitOne(client: Client): Promise<void> {
  const accepted = await client.emit({ type: "invoice.paid", data: { invoice: "inv_1", total: 10 } });
  console.log(`${accepted.eventId} goes to ${accepted.deliveryCount} destinations`);
}
// [/emit]

// [batch]
/** Several at once, each with its own result. */
async function emitBatch(client: Client): Promise<void> {
  const events = ["inv_2", "inv_3"].map((invoice) => ({ type: "invoice.paid", data: { invoice } }));
  for (const result of await client.emitBatch(events)) {
    if (result instanceof Refusal) {
      console.error(`refused: ${result.message}`);
    } else {
      console.log(`${result.eventId} is accepted`);
    }
  }
}
// [/batch]

// [stream]
/** Many: sent again after a broken connection, and acknowledged once each is on disk. */
async function emitStream(client: Client, count: number): Promise<void> {
  const stream = client.stream();
  for (let number = 0; number < count; number += 1) {
    // Waits here while too much is in flight.
    const { acknowledged } = await stream.send({ type: "invoice.paid", data: { number } });
    acknowledged.then(
      (accepted) => console.log(`acknowledged ${accepted.eventId}`),
      (error) => console.error(`refused: ${error}`),
    );
  }
  await stream.close();
}
// [/stream]

const [target = "http://127.0.0.1:8080", organization = "acme", count = "10"] = process.argv.slice(2);
// A token is sent where one is set; a server without authentication does not ask for it.
const token = process.env["SIGNALPOST_TOKEN"];
const client = new Client(target, token === undefined ? { organization } : { organization, token });
await emitOne(client);
await emitBatch(client);
await emitStream(client, Number(count));
client.close();
