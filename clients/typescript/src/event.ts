/** An event on its way in, and what became of it. */

import { randomUUID } from "node:crypto";

import { create, type JsonObject } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";

import { type EmitResult, type Event as Message, EventSchema, Level } from "./gen/signalpost/v1/event_ingest_pb.js";

export { Level };

/** What became of an accepted event: `eventId`, `duplicate`, `acceptTime`, `deliveryCount`, `bestEffortCount`. */
export type Accepted = EmitResult;

/** An immutable fact: something that happened. */
export interface Event {
  /** What happened: 1 to 128 characters of `[A-Za-z0-9_.-]`. */
  type: string;
  /** A JSON object, or its text, which is delivered byte for byte. At most 256 KiB. */
  data?: JsonObject | string | Uint8Array;
  /**
   * 1 to 128 characters of `[A-Za-z0-9_:-]`; one for one fact. Without it a new one is made before the first
   * attempt, so that the event can be sent again safely. A program that may crash before it remembers what it
   * has emitted derives the id from the fact.
   */
  id?: string;
  /** How severe it is; without it, `Level.INFO`. */
  level?: Level;
  /** When it happened; without it, the time of acceptance. */
  occurredAt?: Date;
}

/** The message of the API, with an id. */
export function toMessage(event: Event): Message {
  const message = create(EventSchema, { eventId: event.id ?? randomUUID(), type: event.type });
  if (event.level !== undefined) {
    message.level = event.level;
  }
  if (event.occurredAt !== undefined) {
    message.occurredAt = timestampFromDate(event.occurredAt);
  }
  if (event.data !== undefined) {
    message.data = { case: "jsonData", value: jsonText(event.data) };
  }
  return message;
}

function jsonText(data: JsonObject | string | Uint8Array): Uint8Array {
  return data instanceof Uint8Array ? data : Buffer.from(typeof data === "string" ? data : JSON.stringify(data));
}
