/**
 * A receiver that verifies webhooks of one contract and prints their events.
 *
 *     WEBHOOK_SECRET=s3cret node dist/examples/receive.js WORKSPACE 127.0.0.1 9000
 *
 * It speaks HTTP, for behind the proxy that ends TLS: Signalpost itself calls HTTPS only.
 */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { fileURLToPath } from "node:url";

import { type Contract, NotGenuine, type Received, verify } from "./verify.js";

/** Larger than any request of a destination with the default settings. */
const BODY_MAX_BYTES = 2 * 1024 * 1024;

/** A handler that gives genuine events to `take` and answers once it returns. */
export function receiver(contract: Contract, secrets: string[], take: (events: Received[]) => void | Promise<void>) {
  return async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    try {
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of request) {
        size += chunk.length;
        if (size > BODY_MAX_BYTES) {
          response.writeHead(413, { connection: "close" }).end();
          return;
        }
        chunks.push(chunk);
      }
      const events = verify(contract, secrets, request.rawHeaders, Buffer.concat(chunks), Date.now() / 1000);
      // 2xx ends the delivery; anything else is tried again.
      await take(events);
      response.writeHead(204).end();
    } catch (error) {
      console.error(error instanceof NotGenuine ? `refused: ${error.message}` : error);
      response.writeHead(error instanceof NotGenuine ? 401 : 500).end();
    }
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [contract, host = "127.0.0.1", port = "9000"] = process.argv.slice(2);
  const show = (events: Received[]) => events.forEach((event) => console.log(event.type, event.id));
  createServer(receiver(contract as Contract, [process.env["WEBHOOK_SECRET"] ?? ""], show)).listen(Number(port), host);
}
