/**
 * Is a webhook genuine, and what does it say? One function for all six contracts.
 *
 * Copy this file into your receiver and keep what your contract needs. Three rules matter more than the rest: verify
 * the bytes as they came and parse them afterwards; compare in constant time (`timingSafeEqual` does); remember
 * event ids, because a delivery can come more than once.
 */

import { createHmac, createPublicKey, timingSafeEqual, verify as verifySignature } from "node:crypto";

/** How far the clocks of sender and receiver may be apart, in seconds. Older requests may be recordings. */
export const TOLERANCE = 300;

export type Contract = "SEMAPHOR" | "STALWART" | "WORKSPACE" | "OBSERVER" | "STANDARD_WEBHOOKS" | "CLOUDEVENTS";

/** An event that was received. */
export interface Received {
  /** The same for every repetition. */
  id: string;
  type: string;
}

/** Why a request is turned away; answer 401. */
export class NotGenuine extends Error {}

/** Header names and values, one after the other, as `request.rawHeaders` has them. */
export type RawHeaders = readonly string[];

/**
 * Verifies a request and then reads its events.
 *
 * `secrets` are all that are valid at present: one, or two while they rotate. `now` is in seconds since 1970.
 */
export function verify(
  contract: Contract,
  secrets: readonly string[],
  rawHeaders: RawHeaders,
  body: Buffer,
  now: number,
): Received[] {
  const headers = single(rawHeaders);
  const usable = secrets.filter((secret) => secret !== "");
  switch (contract) {
    case "SEMAPHOR":
      matches(header(headers, "x-semaphor-signature"), usable.map((secret) => hex(secret, body)));
      break;
    case "WORKSPACE":
      matches(header(headers, "x-webhook-signature"), usable.map((secret) => hex(secret, body)));
      break;
    case "OBSERVER":
      matches(header(headers, "x-observer-signature"), usable.map((secret) => hex(secret, body)));
      break;
    case "STALWART":
      matches(header(headers, "x-signature"), usable.map((secret) => hmac(secret, body).toString("base64")));
      break;
    default:
      standard(usable, headers, body, now);
  }
  return read(contract, headers, body);
}

// [plain]
function hmac(key: string | Buffer, text: Buffer): Buffer {
  return createHmac("sha256", key).update(text).digest();
}

/** The key is the bytes of the secret's text. */
function hex(secret: string, body: Buffer): string {
  return `sha256=${hmac(secret, body).toString("hex")}`;
}

function same(one: Buffer, other: Buffer): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}

function matches(signature: string, expected: string[]): void {
  if (!expected.some((one) => same(Buffer.from(signature), Buffer.from(one)))) {
    throw new NotGenuine("the signature does not match");
  }
}
// [/plain]

// [standard]
/**
 * Standard Webhooks: HMAC-SHA256 (`v1`, secret `whsec_…`) or Ed25519 (`v1a`, public key `whpk_…`) of id, time and
 * body. One of several signatures has to match, as two secrets sign while they rotate.
 */
function standard(secrets: string[], headers: Map<string, string>, body: Buffer, now: number): void {
  const time = header(headers, "webhook-timestamp");
  if (!/^\d+$/.test(time) || Math.abs(Number(time) - now) > TOLERANCE) {
    throw new NotGenuine("the timestamp is too old, too new or no number");
  }
  const signed = Buffer.concat([Buffer.from(`${header(headers, "webhook-id")}.${time}.`), body]);
  for (const entry of header(headers, "webhook-signature").split(" ")) {
    const [version, text = ""] = entry.split(",", 2);
    const signature = Buffer.from(text, "base64");
    if (secrets.some((secret) => entryHolds(version, secret, signature, signed))) {
      return;
    }
  }
  throw new NotGenuine("the signature does not match");
}

function entryHolds(version: string | undefined, secret: string, signature: Buffer, signed: Buffer): boolean {
  const key = Buffer.from(secret.slice(secret.indexOf("_") + 1), "base64");
  if (version === "v1" && secret.startsWith("whsec_")) {
    return same(signature, hmac(key, signed));
  }
  if (version === "v1a" && secret.startsWith("whpk_")) {
    const jwk = { kty: "OKP", crv: "Ed25519", x: key.toString("base64url") };
    return verifySignature(null, signed, createPublicKey({ key: jwk, format: "jwk" }), signature);
  }
  return false;
}
// [/standard]

/** Headers by lower-case name. One that is there twice is refused: another program may believe the other one. */
function single(rawHeaders: RawHeaders): Map<string, string> {
  const found = new Map<string, string>();
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!.toLowerCase();
    if (found.has(name)) {
      throw new NotGenuine(`the header ${name} is there twice`);
    }
    found.set(name, rawHeaders[at + 1]!);
  }
  return found;
}

function header(headers: Map<string, string>, name: string): string {
  const value = headers.get(name);
  if (value === undefined) {
    throw new NotGenuine(`the header ${name} is missing`);
  }
  return value;
}

/** The events of a request that is genuine. */
function read(contract: Contract, headers: Map<string, string>, body: Buffer): Received[] {
  const content = parse(body);
  switch (contract) {
    case "SEMAPHOR":
      return [received(content?.event_id, content?.event_type)];
    case "STALWART":
      return all(content?.events);
    case "WORKSPACE": // this body has no id of its own
      return [received(header(headers, "signalpost-event-id"), content?.event)];
    case "OBSERVER":
      return [received(content?.id, content?.type)];
    case "STANDARD_WEBHOOKS":
      return [received(header(headers, "webhook-id"), content?.type)];
    case "CLOUDEVENTS": // in one of three modes
      switch (header(headers, "content-type")) {
        case "application/cloudevents-batch+json":
          return all(content);
        case "application/cloudevents+json":
          return [received(content?.id, content?.type)];
        default:
          return [received(header(headers, "ce-id"), header(headers, "ce-type"))];
      }
  }
}

function parse(body: Buffer): any {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch {
    throw new NotGenuine("the body is not JSON");
  }
}

function all(events: unknown): Received[] {
  if (!Array.isArray(events)) {
    throw new NotGenuine("the body has no events");
  }
  return events.map((event) => received(event?.id, event?.type));
}

function received(id: unknown, type: unknown): Received {
  if (typeof id !== "string" || typeof type !== "string") {
    throw new NotGenuine("an event has no id or no type");
  }
  return { id, type };
}
