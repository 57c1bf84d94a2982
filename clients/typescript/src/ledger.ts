/**
 * What was given to a stream and has no answer yet. It does nothing by itself: it decides what to send and who is
 * answered.
 *
 * Entries stand in the order of their sequences. A new connection begins with the first again. Sequences never
 * repeat, so an answer belongs to one entry.
 */

import { create } from "@bufbuild/protobuf";

import { Refusal } from "./errors.js";
import { type Accepted } from "./event.js";
import {
  EmitResultSchema,
  type EmitStreamRequest,
  EmitStreamRequestSchema,
  type EmitStreamResponse,
  type Event as Message,
} from "./gen/signalpost/v1/event_ingest_pb.js";

export type Answer = Accepted | Refusal;

interface Entry<T> {
  event: Message;
  waiting: T;
  answer?: Answer;
}

/** What an answer of the server settles. */
export interface Settled<T> {
  /** Who is answered, and what. */
  answers: [T, Answer][];
  /** Whether some events could not be taken at present and wait to be sent again. */
  putBack: boolean;
}

/** Events without an answer; `T` is who waits for it. */
export class Ledger<T> {
  // Maps and sets keep the order in which things were put in.
  readonly #entries = new Map<bigint, Entry<T>>();
  #unsent = new Set<bigint>();
  #lastSequence = 0n;

  get size(): number {
    return this.#entries.size;
  }

  /** A new event, to be sent after all others. */
  push(event: Message, waiting: T): void {
    this.#lastSequence += 1n;
    this.#entries.set(this.#lastSequence, { event, waiting });
    this.#unsent.add(this.#lastSequence);
  }

  /** A new connection: everything without an answer is to be sent again. */
  rewind(): void {
    this.#unsent = new Set(this.#entries.keys());
  }

  /** The next event for this connection, which then counts as sent. */
  nextUnsent(): EmitStreamRequest | undefined {
    for (const sequence of this.#unsent) {
      this.#unsent.delete(sequence);
      const event = this.#entries.get(sequence)?.event;
      if (event !== undefined) {
        return create(EmitStreamRequestSchema, { sequence, event });
      }
    }
    return undefined;
  }

  /** Takes an answer of the server. */
  acknowledge(response: EmitStreamResponse): Settled<T> {
    for (const { sequence, result } of response.results) {
      const entry = this.#entries.get(sequence);
      if (entry !== undefined && result.case !== undefined) {
        entry.answer = result.case === "accepted" ? result.value : Refusal.ofEvent(result.value);
      }
    }
    const answers: [T, Answer][] = [];
    const again: Entry<T>[] = [];
    for (const [sequence, entry] of this.#entries) {
      if (sequence > response.acknowledgedSequence) {
        break;
      }
      this.#entries.delete(sequence);
      this.#unsent.delete(sequence);
      if (entry.answer instanceof Refusal && entry.answer.isTransient) {
        again.push(entry);
      } else {
        // The server tells every result in this mode; an acknowledgement alone still means acceptance.
        answers.push([entry.waiting, entry.answer ?? create(EmitResultSchema, { eventId: entry.event.eventId ?? "" })]);
      }
    }
    again.forEach((entry) => this.push(entry.event, entry.waiting));
    return { answers, putBack: again.length > 0 };
  }

  /** Everyone who still waits, when there will be no more answers. */
  drain(): T[] {
    const waiting = [...this.#entries.values()].map((entry) => entry.waiting);
    this.#entries.clear();
    this.#unsent.clear();
    return waiting;
  }
}
