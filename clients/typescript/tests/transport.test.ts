/** Credentials on the wire, against a gRPC server that is not Signalpost's. */

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  Metadata,
  type sendUnaryData,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  status as Code,
} from "@grpc/grpc-js";
import { Client } from "signalpost";
import {
  EmitRequestSchema,
  type EmitRequest,
  EmitResponseSchema,
  type EmitResponse,
  type EmitStreamRequest,
  EmitStreamRequestSchema,
  type EmitStreamResponse,
  EmitStreamResponseSchema,
} from "signalpost/v1/event_ingest";

import { certificate } from "./binary.js";

const METHOD = { requestStream: false, responseStream: false };

const SERVICE = {
  Emit: {
    ...METHOD,
    path: "/signalpost.v1.EventIngest/Emit",
    requestSerialize: (message: EmitRequest) => Buffer.from(toBinary(EmitRequestSchema, message)),
    requestDeserialize: (bytes: Buffer) => fromBinary(EmitRequestSchema, bytes),
    responseSerialize: (message: EmitResponse) => Buffer.from(toBinary(EmitResponseSchema, message)),
    responseDeserialize: (bytes: Buffer) => fromBinary(EmitResponseSchema, bytes),
  },
  EmitStream: {
    requestStream: true,
    responseStream: true,
    path: "/signalpost.v1.EventIngest/EmitStream",
    requestSerialize: (message: EmitStreamRequest) => Buffer.from(toBinary(EmitStreamRequestSchema, message)),
    requestDeserialize: (bytes: Buffer) => fromBinary(EmitStreamRequestSchema, bytes),
    responseSerialize: (message: EmitStreamResponse) => Buffer.from(toBinary(EmitStreamResponseSchema, message)),
    responseDeserialize: (bytes: Buffer) => fromBinary(EmitStreamResponseSchema, bytes),
  },
};

const isKnown = (metadata: Metadata) => metadata.get("authorization")[0] === "Bearer t0ken";
const NO_TOKEN = { code: Code.UNAUTHENTICATED, details: "no token" };

function service(): Server {
  const server = new Server();
  server.addService(SERVICE, {
    Emit: (call: { request: EmitRequest; metadata: Metadata }, answer: sendUnaryData<EmitResponse>) => {
      const result = { eventId: call.request.event?.eventId ?? "" };
      isKnown(call.metadata) ? answer(null, create(EmitResponseSchema, { result })) : answer(NO_TOKEN);
    },
    EmitStream: (call: ServerDuplexStream<EmitStreamRequest, EmitStreamResponse>) => {
      if (!isKnown(call.metadata)) {
        call.emit("error", NO_TOKEN);
        return;
      }
      call.on("data", ({ sequence }: EmitStreamRequest) => {
        call.write(create(EmitStreamResponseSchema, { acknowledgedSequence: sequence }));
      });
      call.on("end", () => call.end());
    },
  });
  return server;
}

test("token and client certificate reach the server", async () => {
  const folder = mkdtempSync(join(tmpdir(), "signalpost-client-"));
  const files = certificate(folder);
  const [chain, key] = [readFileSync(files.chain), readFileSync(files.key)];
  rmSync(folder, { recursive: true });
  const server = service();
  const credentials = ServerCredentials.createSsl(chain, [{ cert_chain: chain, private_key: key }], true);
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", credentials, (error, port) => (error === null ? resolve(port) : reject(error))),
  );
  const target = `https://127.0.0.1:${port}`;
  const tls = { ca: chain, certificate: chain, key };

  const known = new Client(target, { organization: "acme", token: "t0ken", tls });
  assert.equal((await known.emit({ type: "fine", id: "one" })).eventId, "one");
  const stream = known.stream();
  const { acknowledged } = await stream.send({ type: "fine", id: "two" });
  assert.equal((await acknowledged).eventId, "two");
  await stream.close();

  const wrong = new Client(target, { organization: "acme", token: "wrong", tls });
  await assert.rejects(wrong.emit({ type: "fine" }), { code: Code.UNAUTHENTICATED });
  const refused = wrong.stream();
  const { acknowledged: never } = await refused.send({ type: "fine" });
  await assert.rejects(refused.close(), /no token/);
  await assert.rejects(never, /no token/, "nobody waits for ever");

  const stranger = new Client(target, { organization: "acme", tls: { ca: chain }, deadlineMs: 1000 });
  await assert.rejects(stranger.emit({ type: "fine" }), /no answer within/);
  [known, wrong, stranger].forEach((client) => client.close());
  server.forceShutdown();
});
