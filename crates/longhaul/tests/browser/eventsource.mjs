// A page of the server's own origin that follows one run with EventSource in headless Chromium.
// Without event types it asks for frames without names and listens with onmessage alone.
// Prints what the page sees, a JSON object a line: {open}, {error: readyState}, {note, data}, {id, type, data}.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packageDir, chromium, profile, base, run, ...types] = process.argv.slice(2);
const require = createRequire(pathToFileURL(packageDir + "/package.json"));
const playwright = require("playwright-core");

const context = await playwright.chromium.launchPersistentContext(profile, {
  executablePath: chromium,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
  ],
});
// Whoever started this script ends it by closing its stdin.
process.stdin.resume();
process.stdin.on("end", () => context.close().finally(() => process.exit(0)));

const page = context.pages()[0] ?? (await context.newPage());
await page.exposeFunction("report", (line) => process.stdout.write(line + "\n"));
await page.goto(base + "/livez");
await page.evaluate(
  ([run, types]) => {
    const unnamed = types.length === 0;
    const source = new EventSource(`/v1/runs/${run}/events${unnamed ? "?client=eventsource" : ""}`);
    const say = (facts) => window.report(JSON.stringify(facts));
    source.onopen = () => say({ open: true });
    source.onerror = () => say({ error: source.readyState });
    source.onmessage = (event) => {
      const type = unnamed ? JSON.parse(event.data).type : undefined;
      if (!type || type === "hello") say({ note: type ?? "message", data: event.data });
      else say({ id: event.lastEventId, type, data: event.data });
    };
    if (unnamed) return;
    for (const note of ["hello", "draining"]) {
      source.addEventListener(note, (event) => say({ note, data: event.data }));
    }
    for (const type of types) {
      source.addEventListener(type, (event) => say({ id: event.lastEventId, type, data: event.data }));
    }
  },
  [run, types],
);
