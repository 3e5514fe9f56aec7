// Servers of tools for pi, which has no way of its own to take them: an extension for one run.
//
// Each server is a script that speaks the Model Context Protocol over its standard input and output. Its tools become
// pi's, as mcp__SERVER__TOOL. A server that does not start fails the extension, so that pi does not begin without it.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

// Written in front of this text: const SERVERS = [[name, script]…].

const VERSION = "2025-06-18";
const START_MS = 30_000;
const PAGES_MAX = 100;
const NAME_MAX = 64;

class Server {
  constructor(name, script) {
    this.name = name;
    this.asked = new Map();
    this.last = 0;
    // What it says on stderr is nobody's: it may be a secret.
    this.child = spawn("/bin/sh", [script], { stdio: ["pipe", "pipe", "ignore"] });
    this.child.on("error", (error) => this.gone(error.message));
    this.child.on("exit", (code, signal) => this.gone(`it ended with ${signal ?? code}`));
    this.child.stdin.on("error", () => {});
    createInterface({ input: this.child.stdout, crlfDelay: Infinity }).on("line", (line) => this.hears(line));
  }

  gone(why) {
    this.over ??= new Error(`server ${this.name} of tools is gone: ${why}`);
    for (const { reject } of this.asked.values()) reject(this.over);
    this.asked.clear();
  }

  say(message) {
    this.child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  }

  hears(line) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      return;
    }
    if (message === null || typeof message !== "object") return;
    if (message.method !== undefined) {
      // A question of the server: whether somebody is there, or something that it was not offered.
      if (message.method === "ping") this.say({ id: message.id, result: {} });
      else if (message.id !== undefined) this.say({ id: message.id, error: { code: -32601, message: "not offered" } });
      return;
    }
    const asked = this.asked.get(message.id);
    this.asked.delete(message.id);
    if (message.error) asked?.reject(new Error(String(message.error.message ?? "it gave no reason")));
    else asked?.resolve(message.result ?? {});
  }

  ask(method, params, signal) {
    if (this.over) return Promise.reject(this.over);
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.asked.set(id, { resolve, reject });
      const cancel = () => {
        this.asked.delete(id);
        this.say({ method: "notifications/cancelled", params: { requestId: id } });
        reject(new Error("cancelled"));
      };
      if (signal?.aborted) return cancel();
      signal?.addEventListener("abort", cancel, { once: true });
      this.say({ id, method, params });
    });
  }

  async start() {
    const clientInfo = { name: "longhaul", version: "1" };
    await this.ask("initialize", { protocolVersion: VERSION, capabilities: {}, clientInfo });
    this.say({ method: "notifications/initialized" });
    const tools = [];
    let cursor;
    for (let page = 0; page < PAGES_MAX; page += 1) {
      const told = await this.ask("tools/list", cursor === undefined ? {} : { cursor });
      tools.push(...(told.tools ?? []));
      cursor = told.nextCursor;
      if (cursor === undefined || cursor === null) break;
    }
    return tools;
  }
}

function block(part) {
  if (part?.type === "text") return { type: "text", text: String(part.text) };
  if (part?.type === "image") return { type: "image", data: part.data, mimeType: part.mimeType };
  return { type: "text", text: JSON.stringify(part) };
}

function offer(pi, server, tool) {
  pi.registerTool({
    name: `mcp__${server.name}__${tool.name}`.replace(/[^A-Za-z0-9_-]/g, "_").slice(0, NAME_MAX),
    label: `${server.name}: ${tool.name}`,
    description: tool.description ?? tool.name,
    parameters: { type: "object", properties: {}, ...tool.inputSchema },
    async execute(_callId, params, signal) {
      const result = await server.ask("tools/call", { name: tool.name, arguments: params ?? {} }, signal);
      const content = (result.content ?? []).map(block);
      if (result.isError) throw new Error(content.map((part) => part.text ?? part.type).join("\n"));
      return { content, details: {} };
    },
  });
}

export default async function (pi) {
  const servers = SERVERS.map(([name, script]) => new Server(name, script));
  const end = () => servers.forEach((server) => server.child.kill());
  process.once("exit", end);
  pi.on("session_shutdown", end);
  let late;
  const patience = new Promise((_, reject) => {
    late = setTimeout(() => reject(new Error("it did not answer in time")), START_MS);
  });
  try {
    for (const server of servers) {
      const tools = await Promise.race([server.start(), patience]).catch((error) => {
        throw new Error(`server ${server.name} of tools did not start: ${error.message}`);
      });
      tools.forEach((tool) => offer(pi, server, tool));
    }
  } catch (error) {
    end();
    throw error;
  } finally {
    clearTimeout(late);
  }
}
