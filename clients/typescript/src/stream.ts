/**
 * A stream of events that outlives its connections.
 *
 * `EventStream` holds what has no answer yet in a `Ledger`, sends it, and after a broken connection sends it again
 * on a new one.
 */

import { toBinary } from "@bufbuild/protobuf";
import { type ClientDuplexStream, type ServiceError, status as Code } from "@grpc/grpc-js";

import { Backoff, sleep } from "./backoff.js";
import { Refusal, StreamClosed } from "./errors.js";
import { type Accepted, type Event, toMessage } from "./event.js";
import {
  AcknowledgementMode,
  type EmitStreamRequest,
  type EmitStreamResponse,
  EventSchema,
} from "./gen/signalpost/v1/event_ingest_pb.js";
import { Ledger } from "./ledger.js";

/** The limits of a stream. */
export interface StreamOptions {
  /** The most events without an answer; sending waits beyond it. Default: 2000. */
  maxInFlight?: number;
  /** The most bytes of them; a larger event goes alone. Default: 16 MiB. */
  maxBytesInFlight?: number;
  /** How long the stream tries again without any progress before it ends with the last error. Default: 5 minutes. */
  patienceMs?: number;
  /**
   * How long to wait for an answer before the connection counts as broken. An organization's rate limit slows a
   * stream down, so this is long. Default: 2 minutes.
   */
  answerTimeoutMs?: number;
}

const DEFAULTS: Required<StreamOptions> = {
  maxInFlight: 2000,
  maxBytesInFlight: 16 * 1024 * 1024,
  patienceMs: 300_000,
  answerTimeoutMs: 120_000,
};

/** How long the server has for its last word after ours. */
const LAST_WORD_MS = 10_000;

type Call = ClientDuplexStream<EmitStreamRequest, EmitStreamResponse>;

interface Waiting {
  size: number;
  resolve: (accepted: Accepted) => void;
  reject: (error: Error) => void;
}

/** One connection's stream. */
interface Connection {
  call: Call;
  isFirst: boolean;
  mayWrite: boolean;
}

/**
 * Sends events and tells what became of each. Events keep their order as long as none has to wait for the server
 * to have room again.
 */
export class EventStream {
  readonly #open: () => Call;
  readonly #organizationId: string;
  readonly #options: Required<StreamOptions>;
  readonly #ledger = new Ledger<Waiting>();
  readonly #backoff = new Backoff();
  readonly #driver: Promise<void>;
  #bytes = 0;
  #closing = false;
  #ended = false;
  #error: Refusal | undefined;
  #resumeAt = 0;
  #progress = Date.now();
  #connection: Connection | undefined;
  #forRoom: (() => void)[] = [];
  #forWork: (() => void) | undefined;

  /** Made by `Client.stream`. */
  constructor(open: () => Call, organizationId: string, options: StreamOptions) {
    this.#open = open;
    this.#organizationId = organizationId;
    this.#options = { ...DEFAULTS, ...options };
    this.#driver = this.#drive();
  }

  /**
   * Sends an event. Waits while too much is in flight.
   *
   * `acknowledged` resolves when the event is durable, or rejects with a `Refusal` if it will never be accepted.
   * Nobody has to wait for it. Throws `StreamClosed` if the stream has ended.
   */
  async send(event: Event): Promise<{ acknowledged: Promise<Accepted> }> {
    const message = toMessage(event);
    const size = toBinary(EventSchema, message).length;
    while (!this.#closing && !this.#ended && !this.#fits(size)) {
      await new Promise<void>((resolve) => this.#forRoom.push(resolve));
    }
    if (this.#closing || this.#ended) {
      throw new StreamClosed("the stream is closed");
    }
    if (this.#ledger.size === 0) {
      this.#progress = Date.now();
    }
    this.#bytes += size;
    const acknowledged = new Promise<Accepted>((resolve, reject) => {
      this.#ledger.push(message, { size, resolve, reject });
    });
    // An answer that nobody waits for must not end the process.
    acknowledged.catch(() => undefined);
    this.#wakeRoom();
    this.#wake();
    return { acknowledged };
  }

  /** Waits until every event has its answer, and ends the stream. Throws the `Refusal` by which it ended before. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#wake();
    await this.#driver;
    if (this.#error !== undefined) {
      throw this.#error;
    }
  }

  #fits(size: number): boolean {
    const { maxInFlight, maxBytesInFlight } = this.#options;
    const count = this.#ledger.size;
    return count === 0 || (count < maxInFlight && this.#bytes + size <= maxBytesInFlight);
  }

  /** One at a time, so that those who wait longest come first. */
  #wakeRoom(): void {
    if (this.#ended || this.#closing) {
      this.#forRoom.splice(0).forEach((wake) => wake());
    } else if (this.#fits(0)) {
      this.#forRoom.shift()?.();
    }
  }

  #wake(): void {
    this.#forWork?.();
    this.#pump();
  }

  get #isDone(): boolean {
    return this.#closing && this.#ledger.size === 0;
  }

  async #drive(): Promise<void> {
    while (await this.#hasWork()) {
      const refusal = await this.#attempt();
      if (refusal === undefined) {
        continue;
      }
      if (!refusal.mayReopen || Date.now() - this.#progress >= this.#options.patienceMs) {
        this.#error = refusal;
        break;
      }
      await sleep(this.#backoff.next(refusal.retryAfterMs));
    }
    this.#ended = true;
    this.#ledger.drain().forEach((waiting) => waiting.reject(this.#error ?? new StreamClosed("the stream is closed")));
    this.#wakeRoom();
  }

  /** Waits for an event, if none is there. False when the stream is closed and all is answered. */
  async #hasWork(): Promise<boolean> {
    while (this.#ledger.size === 0 && !this.#closing) {
      await new Promise<void>((resolve) => (this.#forWork = resolve));
      this.#forWork = undefined;
    }
    return this.#ledger.size > 0;
  }

  /** Works on one connection. Resolves to why it ended, or to nothing when all is done. */
  async #attempt(): Promise<Refusal | undefined> {
    this.#ledger.rewind();
    this.#resumeAt = 0;
    const call = this.#open();
    this.#connection = { call, isFirst: true, mayWrite: true };
    let watch: NodeJS.Timeout | undefined;
    try {
      return await new Promise<Refusal | undefined>((resolve) => {
        call.on("data", (response: EmitStreamResponse) => this.#acknowledge(response));
        call.on("drain", () => this.#drained());
        call.on("error", (error: ServiceError) => resolve(Refusal.ofCall(error)));
        call.on("end", () => resolve(this.#isDone ? undefined : unavailable("the server ended the stream")));
        watch = this.#watch(resolve);
        this.#pump();
      });
    } finally {
      clearInterval(watch);
      this.#connection = undefined;
      call.cancel();
    }
  }

  /** Ends the wait for a server that does not answer, or does not end its side after ours. */
  #watch(end: (why: Refusal | undefined) => void): NodeJS.Timeout {
    const opened = Date.now();
    return setInterval(() => {
      const silent = Date.now() - Math.max(this.#progress, opened);
      if (this.#isDone && silent > LAST_WORD_MS) {
        end(undefined);
      } else if (this.#ledger.size > 0 && silent > this.#options.answerTimeoutMs) {
        end(unavailable("the server does not answer"));
      }
    }, 1000);
  }

  #drained(): void {
    if (this.#connection !== undefined) {
      this.#connection.mayWrite = true;
      this.#pump();
    }
  }

  /** Sends what the connection takes; ends our side when all is answered. */
  #pump(): void {
    const connection = this.#connection;
    if (connection === undefined) {
      return;
    }
    while (connection.mayWrite && Date.now() >= this.#resumeAt) {
      const request = this.#ledger.nextUnsent();
      if (request === undefined) {
        break;
      }
      if (connection.isFirst) {
        request.organizationId = this.#organizationId;
        request.acknowledgementMode = AcknowledgementMode.PER_EVENT;
        connection.isFirst = false;
      }
      connection.mayWrite = connection.call.write(request);
    }
    if (this.#isDone) {
      connection.call.end();
    }
  }

  #acknowledge(response: EmitStreamResponse): void {
    const { answers, putBack } = this.#ledger.acknowledge(response);
    if (answers.length > 0) {
      this.#progress = Date.now();
      this.#backoff.reset();
    }
    for (const [waiting, answer] of answers) {
      this.#bytes -= waiting.size;
      answer instanceof Refusal ? waiting.reject(answer) : waiting.resolve(answer);
      this.#wakeRoom();
    }
    if (putBack) {
      const pause = this.#backoff.next();
      this.#resumeAt = Date.now() + pause;
      setTimeout(() => this.#pump(), pause + 1);
    }
    this.#pump();
  }
}

function unavailable(message: string): Refusal {
  return new Refusal(Code.UNAVAILABLE, message);
}
