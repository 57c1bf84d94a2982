/** The real server, for tests: started, killed and stopped as a process. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
const TARGET = process.env["CARGO_TARGET_DIR"] ?? join(ROOT, "target");
const BINARY = process.env["SIGNALPOST"] ?? join(TARGET, "debug/signalpost");

/** A certificate for loopback, and its key. */
export function certificate(folder: string): { chain: string; key: string } {
  const [chain, key] = [join(folder, "certificate.pem"), join(folder, "key.pem")];
  const make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  const names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
  const end = ["-addext", "basicConstraints=critical,CA:FALSE"];
  const files = ["-keyout", key, "-out", chain];
  execFileSync("openssl", [...make, "-subj", "/CN=localhost", ...names, ...end, ...files], { stdio: "ignore" });
  return { chain, key };
}

/** A port that nobody listens on. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** A server on a store of its own and a port that stays the same over restarts. */
export class Server {
  #process: ChildProcess | undefined;

  private constructor(
    readonly folder: string,
    readonly target: string,
    readonly tls: { cert: Buffer; key: Buffer },
  ) {}

  /** Prepares it; `start` starts it. */
  static async make(): Promise<Server> {
    if (!existsSync(BINARY)) {
      throw new Error(`${BINARY} is not there; run \`cargo build\` first, or set SIGNALPOST`);
    }
    const folder = mkdtempSync(join(tmpdir(), "signalpost-client-"));
    const { chain, key } = certificate(folder);
    const port = await freePort();
    const lines = [
      `listen.grpc = "127.0.0.1:${port}"`,
      'listen.health = "127.0.0.1:0"',
      'listen.metrics = "off"',
      `store.path = "${folder}/store"`,
      'store.min_free = "16MiB"',
      'egress.allow = ["127.0.0.0/8"]',
      `egress.ca_file = "${chain}"`,
      "delivery.enterprise_telemetry_enabled = true",
    ];
    writeFileSync(join(folder, "signalpost.toml"), lines.join("\n") + "\n");
    return new Server(folder, `http://127.0.0.1:${port}`, { cert: readFileSync(chain), key: readFileSync(key) });
  }

  /** Resolves when it is ready. */
  async start(): Promise<void> {
    const log = openSync(join(this.folder, "log"), "a");
    const child = spawn(BINARY, ["serve", "--config", join(this.folder, "signalpost.toml")], {
      stdio: ["ignore", "pipe", log],
      env: {},
    });
    this.#process = child;
    for await (const line of createInterface(child.stdout!)) {
      if (line.includes("grpc=")) {
        return;
      }
    }
    throw new Error(`not ready: ${readFileSync(join(this.folder, "log"), "utf8").slice(-2000)}`);
  }

  /** Sends the signal and waits for the end. */
  async stop(how: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const exited = once(child, "exit");
      child.kill(how);
      await exited;
    }
  }

  /** Stops it and removes its things. */
  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.folder, { recursive: true });
  }
}
