/** The README's example runs as it stands. */

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";

import { Server } from "./binary.js";

test("the example of the readme emits and is answered", async (context) => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const code = readme.split("```typescript\n")[1]!.split("```")[0]!;
  const server = await Server.make();
  await server.start();
  const said: string[] = [];
  context.mock.method(console, "log", (line: string) => said.push(line));
  // Within the package, so that it finds the package by its name.
  const program = new URL("./readme.mjs", import.meta.url);
  writeFileSync(program, code.replace("http://127.0.0.1:8080", server.target));
  await import(program.href);
  assert.match(said.join(), /^[0-9a-f-]{36}$/);
  await server.remove();
});
