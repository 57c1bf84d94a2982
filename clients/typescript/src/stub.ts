/** Typed calls of a generated service over gRPC. */

import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Client as Channel, type ClientDuplexStream, Metadata } from "@grpc/grpc-js";

import { Refusal } from "./errors.js";

export interface CallOptions {
  /** How long the call may take; without it, as long as it likes. */
  timeoutMs?: number;
}

type Call<M> =
  M extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: CallOptions) => Promise<MessageShape<O>>
    : M extends DescMethodServerStreaming<infer I, infer O>
      ? (request: MessageInitShape<I>, options?: CallOptions) => AsyncIterable<MessageShape<O>>
      : never;

/** The calls of a service: unary ones as promises, streams of answers as iterables. They throw `Refusal`. */
export type Stub<S extends DescService> = { [K in keyof S["method"]]: Call<S["method"][K]> };

/** Makes the calls of a service. */
export function stub<S extends DescService>(service: S, channel: Channel, metadata: Metadata): Stub<S> {
  const calls = service.methods.map((method) => [
    method.localName,
    method.methodKind === "unary" ? unary(method, channel, metadata) : streaming(method, channel, metadata),
  ]);
  return Object.fromEntries(calls) as Stub<S>;
}

const path = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;

const encode =
  <D extends DescMessage>(schema: D) =>
  (message: MessageShape<D>): Buffer =>
    Buffer.from(toBinary(schema, message));

const decode =
  <D extends DescMessage>(schema: D) =>
  (bytes: Buffer): MessageShape<D> =>
    fromBinary(schema, bytes);

const deadline = (options: CallOptions = {}): { deadline?: number } =>
  options.timeoutMs === undefined ? {} : { deadline: Date.now() + options.timeoutMs };

function unary(method: DescMethod, channel: Channel, metadata: Metadata) {
  return (request: MessageInitShape<DescMessage>, options?: CallOptions) =>
    new Promise<MessageShape<DescMessage>>((resolve, reject) => {
      channel.makeUnaryRequest(
        path(method),
        encode(method.input),
        decode(method.output),
        create(method.input, request),
        metadata,
        deadline(options),
        (error, answer) => (error === null && answer !== undefined ? resolve(answer) : reject(Refusal.ofCall(error!))),
      );
    });
}

function streaming(method: DescMethod, channel: Channel, metadata: Metadata) {
  return async function* (request: MessageInitShape<DescMessage>, options?: CallOptions) {
    const call = channel.makeServerStreamRequest(
      path(method),
      encode(method.input),
      decode(method.output),
      create(method.input, request),
      metadata,
      deadline(options),
    );
    try {
      yield* call;
    } catch (error) {
      throw Refusal.ofCall(error as Parameters<typeof Refusal.ofCall>[0]);
    } finally {
      call.cancel();
    }
  };
}

/** A stream in both directions. */
export function duplex<I extends DescMessage, O extends DescMessage>(
  method: DescMethod & { input: I; output: O },
  channel: Channel,
  metadata: Metadata,
): ClientDuplexStream<MessageShape<I>, MessageShape<O>> {
  return channel.makeBidiStreamRequest(path(method), encode(method.input), decode(method.output), metadata, {});
}
