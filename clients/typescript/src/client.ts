/** The client: calls with deadlines, repeated while that is safe. */

import { create } from "@bufbuild/protobuf";
import { Client as Channel, type Metadata, status as Code } from "@grpc/grpc-js";

import { Backoff, sleep } from "./backoff.js";
import { Refusal } from "./errors.js";
import { type Accepted, type Event, toMessage } from "./event.js";
import { DeliveryAdmin } from "./gen/signalpost/v1/delivery_admin_pb.js";
import { DestinationAdmin } from "./gen/signalpost/v1/destination_admin_pb.js";
import { EmitBatchRequestSchema, EmitRequestSchema, EventIngest } from "./gen/signalpost/v1/event_ingest_pb.js";
import { OrganizationAdmin } from "./gen/signalpost/v1/organization_admin_pb.js";
import { EventStream, type StreamOptions } from "./stream.js";
import { type CallOptions, duplex, type Stub, stub } from "./stub.js";
import { metadataOf, readTarget, type Tls } from "./target.js";

export interface ClientOptions {
  /** The organization that the events belong to. */
  organization: string;
  /**
   * Goes with each call as `authorization: Bearer …`. Use it with `https://`: in the clear, everyone on the way can
   * read it.
   */
  token?: string;
  /** TLS other than the default, for an `https://` target. */
  tls?: Tls;
  /** How long `emit` and `emitBatch` may take, repetitions included. Default: 30 seconds. */
  deadlineMs?: number;
}

/** Emits events of one organization. */
export class Client {
  /** The generated stubs, without deadlines and repetitions of their own. */
  readonly ingest: Stub<typeof EventIngest>;
  readonly destinations: Stub<typeof DestinationAdmin>;
  readonly deliveries: Stub<typeof DeliveryAdmin>;
  readonly organizations: Stub<typeof OrganizationAdmin>;
  readonly #channel: Channel;
  readonly #metadata: Metadata;
  readonly #organizationId: string;
  readonly #deadlineMs: number;

  /** Of the server at `http://HOST:PORT` or `https://HOST:PORT`; all addresses of the name are used. */
  constructor(target: string, options: ClientOptions) {
    if (options.organization === "") {
      throw new TypeError("organization is missing; give the organization's id");
    }
    const to = readTarget(target, options.tls);
    this.#metadata = metadataOf(options.token);
    this.#channel = new Channel(to.address, to.credentials, to.options);
    this.#organizationId = options.organization;
    this.#deadlineMs = options.deadlineMs ?? 30_000;
    this.ingest = stub(EventIngest, this.#channel, this.#metadata);
    this.destinations = stub(DestinationAdmin, this.#channel, this.#metadata);
    this.deliveries = stub(DeliveryAdmin, this.#channel, this.#metadata);
    this.organizations = stub(OrganizationAdmin, this.#channel, this.#metadata);
  }

  /**
   * Emits one event. The answer means that it and its deliveries are on disk.
   *
   * Repeats the call while the server is unavailable, until the deadline. Throws `Refusal`; with the code
   * `DEADLINE_EXCEEDED` it is not known whether the event was accepted, and emitting it again with its id is safe.
   */
  async emit(event: Event): Promise<Accepted> {
    const request = create(EmitRequestSchema, { organizationId: this.#organizationId, event: toMessage(event) });
    const { result } = await this.#repeated((options) => this.ingest.emit(request, options));
    if (result === undefined) {
      throw new Refusal(Code.INTERNAL, "the answer has no result");
    }
    return result;
  }

  /** Emits 1 to 1000 events with one call. Each has its own result, in order. */
  async emitBatch(events: Iterable<Event>): Promise<(Accepted | Refusal)[]> {
    const messages = Array.from(events, toMessage);
    const request = create(EmitBatchRequestSchema, { organizationId: this.#organizationId, events: messages });
    const { results } = await this.#repeated((options) => this.ingest.emitBatch(request, options));
    return results.map(({ result }) => {
      switch (result.case) {
        case "accepted":
          return result.value;
        case "error":
          return Refusal.ofEvent(result.value);
        default:
          return new Refusal(Code.INTERNAL, "the answer has no result");
      }
    });
  }

  /** Opens a stream, which carries many more events a second than single calls. */
  stream(options: StreamOptions = {}): EventStream {
    const open = () => duplex(EventIngest.method.emitStream, this.#channel, this.#metadata);
    return new EventStream(open, this.#organizationId, options);
  }

  /** Ends the connections. Close streams before. */
  close(): void {
    this.#channel.close();
  }

  async #repeated<A>(call: (options: CallOptions) => Promise<A>): Promise<A> {
    const end = Date.now() + this.#deadlineMs;
    const backoff = new Backoff();
    for (;;) {
      try {
        return await call({ timeoutMs: Math.max(end - Date.now(), 1) });
      } catch (error) {
        if (!(error instanceof Refusal) || !error.mayRepeat) {
          throw error;
        }
        const pause = backoff.next(error.retryAfterMs);
        if (Date.now() + pause >= end) {
          const message = `no answer within ${this.#deadlineMs} ms; the last one was: ${error.message}`;
          throw new Refusal(Code.DEADLINE_EXCEEDED, message, { reason: error.reason });
        }
        await sleep(pause);
      }
    }
  }
}
