// What an unmodified OpenAI SDK sees: one JSON object of facts on stdout for the scenario named first.
// The package lies in a directory of its own, so it is named by its path.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [scenario, base, packageDir] = process.argv.slice(2);
const require = createRequire(pathToFileURL(packageDir + "/package.json"));
const { OpenAI, APIError } = require("openai");

const client = (more = {}) => new OpenAI({ baseURL: base + "/v1", apiKey: "any", ...more });

function ask(api, { model = "demo/echo", prompt = "one two three", body = {}, options = {} } = {}) {
  return api.chat.completions.create({ model, messages: [{ role: "user", content: prompt }], ...body }, options);
}

async function failure(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    const { status, code, type, param } = error;
    return {
      class: error.constructor.name,
      status: status ?? null,
      code: code ?? null,
      type: type ?? null,
      param: param ?? null,
      request_id: Boolean(error.requestID),
    };
  }
  return null;
}

const answer = (reply) => ({ text: reply.choices[0].message.content, finish: reply.choices[0].finish_reason });

async function textOf(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  return { text };
}

const scenarios = {
  async whole() {
    const reply = await ask(client());
    return {
      object: reply.object,
      model: reply.model,
      role: reply.choices[0].message.role,
      ...answer(reply),
      tools: reply.choices[0].message.tool_calls ?? null,
      usage: [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens],
    };
  },

  async stream() {
    const facts = [];
    for (const include_usage of [false, true]) {
      const [usage, finishes] = [[], []];
      let [text, reasoning] = ["", ""];
      const body = { stream: true, stream_options: { include_usage } };
      for await (const chunk of await ask(client(), { model: "demo/tools", body })) {
        if (chunk.usage) usage.push([chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.choices.length]);
        for (const choice of chunk.choices) {
          text += choice.delta.content ?? "";
          reasoning += choice.delta.reasoning_content ?? "";
          if (choice.finish_reason) finishes.push(choice.finish_reason);
        }
      }
      facts.push({ text, usage, finishes, reasoning });
    }
    return facts;
  },

  async models() {
    const ids = [];
    for await (const model of client().models.list()) ids.push(model.id);
    return ids.sort();
  },

  async errors() {
    const api = client({ maxRetries: 2 });
    return {
      unknown_harness: await failure(() => ask(api, { model: "nobody/x" })),
      unknown_field: await failure(() => ask(api, { body: { temprature: 1 } })),
      bad_value: await failure(() => ask(api, { body: { timeout_ms: 0 } })),
      failed: await failure(() => ask(api, { model: "demo/fail" })),
      failed_in_a_stream: await failure(async () => textOf(await ask(api, { model: "demo/fail", body: { stream: true } }))),
      conflict: await failure(async () => {
        for (const prompt of ["a", "b"]) await ask(api, { prompt, options: { headers: { "X-Run-Id": "same" } } });
      }),
    };
  },

  // The SDK's time-out, shorter than the run: it asks again until the answer is there.
  async retry_after_timeout() {
    return answer(await ask(client({ timeout: 1000, maxRetries: 8 }), { model: "demo/slow", prompt: "3" }));
  },

  async stream_timeout() {
    return textOf(await ask(client({ timeout: 2000, maxRetries: 0 }), { model: "demo/slow", prompt: "3", body: { stream: true } }));
  },

  async retry() {
    return answer(await ask(client({ maxRetries: 5 })));
  },

  async retry_stream() {
    return textOf(await ask(client({ maxRetries: 5 }), { body: { stream: true } }));
  },

  async saturated() {
    return failure(() => ask(client({ maxRetries: 1 }), { body: { queue_timeout_ms: 0 } }));
  },

  // Two requests that are the same on purpose: one after the other, then two at once with time-outs and retries.
  async twice() {
    const texts = [answer(await ask(client())), answer(await ask(client()))];
    const patient = () => ask(client({ timeout: 1000, maxRetries: 8 }), { model: "demo/slow", prompt: "2" });
    const replies = await Promise.all([patient(), patient()]);
    return { texts: [...texts, ...replies.map(answer)], ids: new Set(replies.map((reply) => reply.id)).size };
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
