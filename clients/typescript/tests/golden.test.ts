/** The example receiver against the requests that destinations get, byte for byte. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { type Contract, NotGenuine, TOLERANCE, verify } from "../examples/verify.js";
import { CURRENT, OLD, PLAIN, PUBLIC } from "./secrets.js";

const GOLDEN = new URL("../../../../tests/golden/", import.meta.url);
const OTHER = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/** When the golden requests were signed. */
const SIGNED_AT = 1_749_997_929;
const TEST_ID = "01977401-402b-7000-8000-000000000000";
const MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek";

/** Name, the secret that verifies it, and the id and type of its first event. */
const GENUINE: [string, string, string, string][] = [
  ["semaphor/event", PLAIN, "a1b2c3d4-e5f6-7890-abcd-ef1234567890", "query_failed"],
  ["semaphor/test", PLAIN, TEST_ID, "webhook_test"],
  ["stalwart/event", PLAIN, "12345", "auth.success"],
  ["stalwart/batch", PLAIN, "12345", "auth.success"],
  ["stalwart/test", PLAIN, TEST_ID, "webhook.test"],
  ["workspace/event", PLAIN, "evt_1", "ingestion.completed"],
  ["workspace/test", PLAIN, TEST_ID, "webhook.test"],
  ["observer/event", PLAIN, "evt_1", "slo.burn_started"],
  ["observer/test", PLAIN, TEST_ID, "webhook.test"],
  ["standard_webhooks/event", CURRENT, MESSAGE_ID, "invoice.paid"],
  ["standard_webhooks/rotation", OLD, MESSAGE_ID, "invoice.paid"],
  ["standard_webhooks/ed25519", PUBLIC, MESSAGE_ID, "invoice.paid"],
  ["standard_webhooks/test", CURRENT, TEST_ID, "webhook.test"],
  ["cloudevents/binary", CURRENT, "evt_1", "com.example.invoice.paid"],
  ["cloudevents/batch", CURRENT, "evt_1", "com.example.invoice.paid"],
];

function golden(name: string): [Contract, string[], Buffer] {
  const request = readFileSync(new URL(`${name}.http`, GOLDEN));
  const end = request.indexOf("\n\n");
  const lines = request.subarray(0, end).toString().split("\n").slice(1);
  const headers = lines.flatMap((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]);
  return [name.split("/")[0]!.toUpperCase() as Contract, headers, request.subarray(end + 2)];
}

test("every golden request is verified and read", () => {
  for (const [name, secret, id, type] of GENUINE) {
    const [contract, headers, body] = golden(name);
    const events = verify(contract, [secret], headers, body, SIGNED_AT);
    assert.deepEqual(events[0], { id, type }, name);
    assert.equal(events.length, name.endsWith("batch") ? 2 : 1, name);
    assert.deepEqual(verify(contract, [OTHER, secret], headers, body, SIGNED_AT), events, `${name} while rotating`);
  }
});

test("a changed byte, another secret and no secret are refused", () => {
  for (const [name, secret] of GENUINE) {
    const [contract, headers, body] = golden(name);
    for (const wrong of [[OTHER], [""], []]) {
      assert.throws(() => verify(contract, wrong, headers, body, SIGNED_AT), NotGenuine, name);
    }
    const changed = Buffer.from(body);
    changed[10]! ^= 1;
    assert.throws(() => verify(contract, [secret], headers, changed, SIGNED_AT), NotGenuine, name);
  }
});

test("a request without signature or with two is refused", () => {
  const [cloudevents, unsigned, body] = golden("cloudevents/event");
  assert.throws(() => verify(cloudevents, [CURRENT], unsigned, body, SIGNED_AT), NotGenuine);
  const [stalwart, headers, batch] = golden("stalwart/event");
  assert.throws(() => verify(stalwart, [PLAIN], [...headers, "X-Signature", "AAAA"], batch, SIGNED_AT), NotGenuine);
});

test("a recording is refused when the tolerance is over", () => {
  const [contract, headers, body] = golden("standard_webhooks/event");
  for (const now of [SIGNED_AT - TOLERANCE, SIGNED_AT + TOLERANCE]) {
    assert.ok(verify(contract, [CURRENT], headers, body, now));
  }
  for (const now of [SIGNED_AT - TOLERANCE - 1, SIGNED_AT + TOLERANCE + 1]) {
    assert.throws(() => verify(contract, [CURRENT], headers, body, now), NotGenuine);
  }
});
