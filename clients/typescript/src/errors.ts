/** Why something did not work, for programs and for people. */

import { fromBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema, type Duration, DurationSchema } from "@bufbuild/protobuf/wkt";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { type ServiceError, status as Code } from "@grpc/grpc-js";

import { ErrorReason } from "./gen/signalpost/v1/error_reason_pb.js";
import { type EventError } from "./gen/signalpost/v1/event_ingest_pb.js";

/** A field that breaks a rule. */
export interface FieldViolation {
  /** Its path in the request, for example `event.type`. */
  field: string;
  /** What is wrong and what would be right. */
  description: string;
}

/** The stream was closed, or has ended by an error that `close` throws. */
export class StreamClosed extends Error {
  override name = "StreamClosed";
}

interface Details {
  reason?: string | undefined;
  violations?: FieldViolation[];
  retryAfterMs?: number | undefined;
}

/** The server refused, or could not be reached until the deadline. */
export class Refusal extends Error {
  override name = "Refusal";
  /** The reason for programs, as in `ErrorReason`, for example `QUEUE_FULL`. */
  readonly reason: string | undefined;
  /** Every violated field. */
  readonly violations: readonly FieldViolation[];
  /** How long the server asks to wait before the call is repeated. */
  readonly retryAfterMs: number | undefined;

  constructor(
    /** The status code. */
    readonly code: Code,
    message: string,
    details: Details = {},
  ) {
    super(`${message} (${Code[code] ?? code}${details.reason === undefined ? "" : `, ${details.reason}`})`);
    this.reason = details.reason;
    this.violations = details.violations ?? [];
    this.retryAfterMs = details.retryAfterMs;
  }

  /** Whether the same event may be accepted when it is sent again. */
  get isTransient(): boolean {
    return this.code === Code.UNAVAILABLE || this.code === Code.RESOURCE_EXHAUSTED;
  }

  /** Whether a call that writes by event id is worth repeating: the server says so, or the connection broke. */
  get mayRepeat(): boolean {
    return this.code === Code.UNAVAILABLE || (this.code === Code.INTERNAL && this.message.includes("RST_STREAM"));
  }

  /** Whether a stream that ended so is worth opening again: everything but what a person has to change. */
  get mayReopen(): boolean {
    return !PERMANENT.has(this.code);
  }

  /** The error of one event of a batch or a stream. */
  static ofEvent(error: EventError): Refusal {
    const violations = error.fieldViolations.map(({ field, description }) => ({ field, description }));
    return new Refusal(error.code, error.message, { reason: ErrorReason[error.reason], violations });
  }

  /** The error of a call as a whole. */
  static ofCall(error: ServiceError): Refusal {
    const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
    return new Refusal(error.code, error.details, Buffer.isBuffer(details) ? readDetails(details) : {});
  }
}

const PERMANENT: ReadonlySet<Code> = new Set([
  Code.INVALID_ARGUMENT,
  Code.NOT_FOUND,
  Code.ALREADY_EXISTS,
  Code.PERMISSION_DENIED,
  Code.UNAUTHENTICATED,
  Code.FAILED_PRECONDITION,
  Code.OUT_OF_RANGE,
  Code.UNIMPLEMENTED,
]);

/** `google.rpc.Status` and what it holds; these few fields are not worth a dependency. */
function readDetails(status: Uint8Array): Details {
  const details: Details = {};
  for (const bytes of fields(status).get(3) ?? []) {
    const any: Any = fromBinary(AnySchema, bytes);
    const inner = fields(any.value);
    switch (any.typeUrl.split("/").pop()) {
      case "google.rpc.ErrorInfo":
        details.reason = text(inner, 1);
        break;
      case "google.rpc.BadRequest":
        details.violations = (inner.get(1) ?? []).map(fields).map((one) => {
          return { field: text(one, 1), description: text(one, 2) };
        });
        break;
      case "google.rpc.RetryInfo":
        details.retryAfterMs = (inner.get(1) ?? []).map((one) => milliseconds(fromBinary(DurationSchema, one)))[0];
        break;
    }
  }
  return details;
}

function milliseconds(duration: Duration): number {
  return Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

/** The length-delimited fields of a message, by number. */
function fields(message: Uint8Array): Map<number, Uint8Array[]> {
  const found = new Map<number, Uint8Array[]>();
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (wire === WireType.LengthDelimited) {
      found.set(number, [...(found.get(number) ?? []), reader.bytes()]);
    } else {
      reader.skip(wire, number);
    }
  }
  return found;
}

function text(found: Map<number, Uint8Array[]>, number: number): string {
  return new TextDecoder().decode(found.get(number)?.[0]);
}
