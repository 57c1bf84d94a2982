/** The client and the example receiver against the real server. */

import assert from "node:assert/strict";
import { EventEmitter, on, once } from "node:events";
import { createServer } from "node:https";
import { type AddressInfo } from "node:net";
import { after, before, test } from "node:test";

import { status as Code } from "@grpc/grpc-js";
import { Client, Refusal, StreamClosed } from "signalpost";
import { Contract as Contracts } from "signalpost/v1/destination_admin";

import { receiver } from "../examples/receive.js";
import { type Contract, type Received } from "../examples/verify.js";
import { Server } from "./binary.js";
import { CURRENT, KEY_PAIR, OLD, PLAIN, PUBLIC } from "./secrets.js";

let server: Server;
before(async () => {
  server = await Server.make();
  await server.start();
});
after(() => server.remove());

/** Runs the example receiver over TLS. `next` resolves with what it takes, one by one. */
async function receiving<A>(
  server: Server,
  contract: Contract,
  secrets: string[],
  work: (url: string, next: () => Promise<Received>) => Promise<A>,
): Promise<A> {
  const events = new EventEmitter();
  const taken = on(events, "event");
  const take = (received: Received[]) => received.forEach((one) => void events.emit("event", one));
  const running = createServer(server.tls, receiver(contract, secrets, take)).listen(0, "127.0.0.1");
  await once(running, "listening");
  try {
    const url = `https://127.0.0.1:${(running.address() as AddressInfo).port}/hook`;
    return await work(url, async () => (await taken.next()).value[0]);
  } finally {
    running.close();
    running.closeAllConnections();
  }
}

async function create(client: Client, organizationId: string, contract: Contract, url: string, secret: string) {
  const signingSecret = { source: { case: "value" as const, value: secret } };
  const destination = { url, contract: Contracts[contract], signingSecret };
  return (await client.destinations.createDestination({ organizationId, destination })).destination!;
}

/** Contract, the secret that signs, the one that verifies, a type that every destination of it wants. */
const CONTRACTS: [Contract, string, string, string][] = [
  ["SEMAPHOR", PLAIN, PLAIN, "query_failed"],
  ["STALWART", PLAIN, PLAIN, "auth.success"],
  ["WORKSPACE", PLAIN, PLAIN, "kpi.alert"],
  ["OBSERVER", PLAIN, PLAIN, "slo.burn_started"],
  ["STANDARD_WEBHOOKS", CURRENT, CURRENT, "invoice.paid"],
  ["STANDARD_WEBHOOKS", KEY_PAIR, PUBLIC, "invoice.paid"],
  ["CLOUDEVENTS", CURRENT, CURRENT, "com.example.invoice.paid"],
];

for (const [contract, signs, verifies, type] of CONTRACTS) {
  test(`an event arrives as a webhook of ${contract} that verifies with ${verifies.slice(0, 5)}`, async () => {
    const organization = `org-${contract}-${signs.slice(0, 4)}`;
    await receiving(server, contract, [verifies], async (url, next) => {
      const client = new Client(server.target, { organization });
      await create(client, organization, contract, url, signs);
      const accepted = await client.emit({ type, data: '{"größe":12345678901234567890}', id: "evt-1" });
      assert.deepEqual([accepted.eventId, accepted.deliveryCount, accepted.duplicate], ["evt-1", 1, false]);
      assert.deepEqual(await next(), { id: "evt-1", type });
      client.close();
    });
  });
}

test("while secrets rotate a receiver with either one verifies", async () => {
  const organizationId = "org-rotation";
  const client = new Client(server.target, { organization: organizationId });
  for (const known of [CURRENT, OLD]) {
    await receiving(server, "STANDARD_WEBHOOKS", [known], async (url, next) => {
      const { destinationId } = await create(client, organizationId, "STANDARD_WEBHOOKS", url, CURRENT);
      const newSecret = { source: { case: "value" as const, value: OLD } };
      await client.destinations.rotateSecret({ organizationId, destinationId, newSecret });
      const { eventId } = await client.emit({ type: "invoice.paid" });
      assert.equal((await next()).id, eventId);
      await client.destinations.deleteDestination({ organizationId, destinationId });
    });
  }
  client.close();
});

test("a refusal tells every field, and a batch tells each event", async () => {
  const client = new Client(server.target, { organization: "org-refusals" });
  await assert.rejects(client.emit({ type: "no spaces", data: "[1]", id: "no.dots" }), (error) => {
    assert.ok(error instanceof Refusal && error.code === Code.INVALID_ARGUMENT);
    const fields = error.violations.map(({ field }) => field);
    return fields.includes("event.event_id") && fields.includes("event.type");
  });
  const [good, bad] = await client.emitBatch([{ type: "fine", id: "one" }, { type: "fine", data: "{" }]);
  assert.ok(!(good instanceof Refusal) && good?.eventId === "one");
  assert.ok(bad instanceof Refusal && bad.reason === "PAYLOAD_NOT_JSON");
  assert.ok((await client.emit({ type: "fine", id: "one" })).duplicate);
  await assert.rejects(client.emit({ type: "other", id: "one" }), { reason: "EVENT_ID_CONFLICT" });
  client.close();
});

test("a server that is not there is waited for until the deadline", async () => {
  const away = await Server.make();
  const hasty = new Client(away.target, { organization: "acme", deadlineMs: 1000 });
  await assert.rejects(hasty.emit({ type: "fine" }), { code: Code.DEADLINE_EXCEEDED });
  const patient = new Client(away.target, { organization: "acme" });
  const [accepted] = await Promise.all([patient.emit({ type: "fine", id: "patient" }), away.start()]);
  assert.equal(accepted.eventId, "patient");
  [hasty, patient].forEach((client) => client.close());
  await away.remove();
});

test("settings that cannot be used are named", () => {
  const organization = "acme";
  assert.throws(() => new Client("127.0.0.1:8080", { organization }), /target/);
  assert.throws(() => new Client("http://127.0.0.1:1", { organization: "" }), /organization/);
  assert.throws(() => new Client("http://127.0.0.1:1", { organization, token: "line\nbreak" }), /^TypeError: token((?!break).)*$/);
  assert.throws(() => new Client("http://127.0.0.1:1", { organization, tls: {} }), /tls/);
});

test("a stream tells what became of each event, and takes none after its end", async () => {
  const client = new Client(server.target, { organization: "org-stream" });
  const stream = client.stream({ maxInFlight: 10 });
  const answers = [];
  for (let number = 0; number < 100; number += 1) {
    answers.push((await stream.send({ type: "fine", id: `e${number}` })).acknowledged);
  }
  const { acknowledged } = await stream.send({ type: "not fine" });
  await stream.close();
  await assert.rejects(acknowledged, Refusal);
  assert.deepEqual((await Promise.all(answers)).map(({ eventId }) => eventId), answers.map((_, number) => `e${number}`));
  await assert.rejects(stream.send({ type: "fine" }), StreamClosed);
  client.close();
});

for (const how of ["SIGTERM", "SIGKILL"] as const) {
  test(`a stream outlives restarts of the server by ${how}`, async () => {
    const [events, restartAt] = [600, [150, 400]];
    const server = await Server.make();
    await server.start();
    await receiving(server, "STANDARD_WEBHOOKS", [CURRENT], async (url, next) => {
      const client = new Client(server.target, { organization: "org-restart" });
      await create(client, "org-restart", "STANDARD_WEBHOOKS", url, CURRENT);
      const stream = client.stream({ maxInFlight: 50 });
      const [answers, ids] = [[] as Promise<{ eventId: string }>[], [] as string[]];
      let starting = Promise.resolve();
      for (let number = 0; number < events; number += 1) {
        if (restartAt.includes(number)) {
          // Up to 50 events are on their way, with and without an answer.
          await server.stop(how);
          starting = server.start();
        }
        ids.push(`e${number}`);
        answers.push((await stream.send({ type: "fine", id: `e${number}` })).acknowledged);
      }
      await starting;
      await stream.close();
      assert.deepEqual((await Promise.all(answers)).map(({ eventId }) => eventId), ids);
      const arrived = new Set<string>();
      while (arrived.size < events) {
        arrived.add((await next()).id);
      }
      assert.deepEqual(arrived, new Set(ids));
      client.close();
    });
    await server.remove();
  });
}
