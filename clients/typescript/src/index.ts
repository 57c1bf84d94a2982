/**
 * The client of Signalpost: hand it events, and they are delivered as signed webhooks.
 *
 * The rest of the API is in `signalpost/v1/*` as generated, and reached by `destinations`, `deliveries` and
 * `organizations` of a client.
 */

export { Client, type ClientOptions } from "./client.js";
export { type Stub } from "./stub.js";
export { type Tls } from "./target.js";
export { Refusal, StreamClosed, type FieldViolation } from "./errors.js";
export { type Accepted, type Event, Level } from "./event.js";
export { EventStream, type StreamOptions } from "./stream.js";
