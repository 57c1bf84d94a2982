/** What is sent again, and who is answered. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";

import { Backoff } from "../src/backoff.js";
import { Refusal } from "../src/errors.js";
import { EmitStreamResponseSchema, type EmitStreamResultSchema, EventSchema } from "../src/gen/signalpost/v1/event_ingest_pb.js";
import { Ledger } from "../src/ledger.js";

type Result = MessageInitShape<typeof EmitStreamResultSchema>;

function ledger(count: number): Ledger<number> {
  const made = new Ledger<number>();
  for (let number = 1; number <= count; number += 1) {
    made.push(create(EventSchema, { eventId: `e${number}` }), number);
  }
  return made;
}

function sendAll(ledger: Ledger<number>): number[] {
  const sent: number[] = [];
  for (let request = ledger.nextUnsent(); request !== undefined; request = ledger.nextUnsent()) {
    sent.push(Number(request.sequence));
  }
  return sent;
}

const accepted = (sequence: number): Result => ({
  sequence: BigInt(sequence),
  result: { case: "accepted", value: { eventId: `e${sequence}` } },
});

const refused = (sequence: number, code: Code): Result => ({
  sequence: BigInt(sequence),
  result: { case: "error", value: { code } },
});

const answer = (acknowledged: number, ...results: Result[]) =>
  create(EmitStreamResponseSchema, { acknowledgedSequence: BigInt(acknowledged), results });

test("after a break exactly what has no answer is sent again, in order", () => {
  const five = ledger(5);
  assert.deepEqual(sendAll(five), [1, 2, 3, 4, 5]);
  const { answers } = five.acknowledge(answer(2, accepted(1), accepted(2)));
  assert.deepEqual(answers.map(([who]) => who), [1, 2]);
  assert.deepEqual(sendAll(five), []);
  five.rewind();
  assert.deepEqual(sendAll(five), [3, 4, 5]);
});

test("a result counts only with the acknowledgement that covers it", () => {
  const two = ledger(2);
  sendAll(two);
  assert.equal(two.acknowledge(answer(0, accepted(1), accepted(2))).answers.length, 0);
  assert.equal(two.acknowledge(answer(2)).answers.length, 2);
  assert.equal(two.size, 0);
});

test("an event that can never be accepted is told, and one that may be later goes again", () => {
  const three = ledger(3);
  sendAll(three);
  const results = [refused(1, Code.RESOURCE_EXHAUSTED), refused(2, Code.INVALID_ARGUMENT), accepted(3)];
  const { answers, putBack } = three.acknowledge(answer(3, ...results));
  assert.deepEqual(answers.map(([who, told]) => [who, told instanceof Refusal]), [[2, true], [3, false]]);
  assert.ok(putBack);
  assert.deepEqual(sendAll(three), [4]);
});

test("answers to what nobody asked change nothing", () => {
  const one = ledger(1);
  assert.equal(one.acknowledge(answer(0, accepted(7))).answers.length, 0);
  assert.deepEqual(one.drain(), [1]);
});

test("pauses grow up to a limit, and the server may ask for longer ones", () => {
  const backoff = new Backoff();
  const pauses = Array.from({ length: 20 }, () => backoff.next());
  assert.ok(pauses[0]! >= 25 && pauses[0]! <= 50);
  assert.ok(pauses[19]! >= 1000 && pauses[19]! <= 2000);
  assert.equal(backoff.next(30_000), 30_000);
});
