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

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const going = (response) => ["queued", "in_progress"].includes(response.status);

const told = (response) => ({
  status: response.status,
  text: response.output_text,
  kinds: response.output.map((item) => item.type),
  model: response.model,
  metadata: response.metadata,
  usage: response.usage && [response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens],
  error: response.error && [response.error.code, response.error.type],
});

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

  async responses() {
    const api = client();
    const body = { model: "demo/echo", input: "one two three", metadata: { a: "b" }, store: false };
    const whole = await api.responses.create(body);
    // The SDK's own accumulator.
    const done = [];
    const stream = api.responses.stream({ model: "demo/tools", input: "x" });
    for await (const event of stream) if (event.type === "response.output_text.done") done.push(event.text);
    const final = await stream.finalResponse();
    const begun = await api.responses.create({ model: "demo/slow", input: "1", background: true });
    let ended = begun;
    while (going(ended)) {
      await pause(100);
      ended = await api.responses.retrieve(begun.id);
    }
    return {
      whole: told(whole),
      done,
      final: told(final),
      waited: going(begun),
      background: ended.background,
      ended: told(ended),
    };
  },

  // A background stream that breaks, however often, goes on after the last event that came.
  async responses_resumed() {
    const api = client({ maxRetries: 8 });
    const seen = [];
    let [text, breaks, response, final] = ["", 0, null, null];
    while (!final) {
      try {
        const stream = response
          ? await api.responses.retrieve(response, { stream: true, starting_after: seen.at(-1) })
          : await api.responses.create({ model: "demo/slow", input: "3", background: true, stream: true });
        for await (const event of stream) {
          seen.push(event.sequence_number);
          if (event.type === "response.created") response = event.response.id;
          if (event.type === "response.output_text.delta") text += event.delta;
          if (/^response\.(completed|failed|incomplete)$/.test(event.type)) final = event.response;
        }
      } catch (error) {
        // What fetch says of a broken body is no error of the SDK's own.
        if (!(error instanceof APIError || error instanceof TypeError)) throw error;
      }
      if (!final) breaks += 1;
    }
    const textOfFinal = final.output.flatMap((item) => item.content ?? []).map((part) => part.text);
    final.output_text ??= textOfFinal.join("");
    return { dense: seen.every((number, at) => number === at), text, final: told(final), breaks };
  },

  // On from a response that named no conversation, and on from that; what each was asked, page by page.
  async responses_in_turns() {
    const api = client();
    const create = (more) => api.responses.create({ model: "demo/echo", ...more });
    const first = await create({ input: "one" });
    const said = ["two", "three", "four"].map((content) => ({ role: "user", content }));
    const second = await create({ input: said, previous_response_id: first.id });
    const third = await create({ input: "five", previous_response_id: second.id });
    const items = [];
    for await (const item of api.responses.inputItems.list(second.id, { limit: 2, order: "asc" }))
      items.push([item.role, item.content[0].type, item.content[0].text]);
    const newest = [];
    for await (const item of api.responses.inputItems.list(first.id)) newest.push(item.content[0].text);
    return {
      texts: [first.output_text, third.output_text],
      previous: second.previous_response_id === first.id && third.previous_response_id === second.id,
      conversations: [!first.conversation, second.conversation.id === third.conversation.id],
      items,
      newest,
      branch: await failure(() => create({ input: "x", previous_response_id: first.id })),
    };
  },

  async responses_cancelled() {
    const api = client();
    const begun = await api.responses.create({ model: "demo/slow", input: "600", background: true });
    while (!(await api.responses.retrieve(begun.id)).output.length) await pause(50);
    const cancelled = await api.responses.cancel(begun.id);
    let last;
    for await (const event of await api.responses.retrieve(begun.id, { stream: true })) last = event;
    await api.responses.delete(begun.id);
    return {
      status: cancelled.status,
      items: cancelled.output.map((item) => item.status),
      last: last.type,
      last_status: last.response.status,
      deleted: await failure(() => api.responses.retrieve(begun.id)),
    };
  },

  async responses_errors() {
    const api = client({ maxRetries: 2 });
    const create = (more) => api.responses.create({ model: "demo/echo", input: "x", ...more });
    let failed = await create({ model: "demo/fail", background: true });
    while (going(failed)) {
      await pause(50);
      failed = await api.responses.retrieve(failed.id);
    }
    let streamed;
    for await (const event of await create({ model: "demo/fail", stream: true })) streamed = event.type;
    return {
      unknown_harness: await failure(() => create({ model: "nobody/x" })),
      unknown_field: await failure(() => create({ temprature: 1 })),
      other_model: await failure(() => create({ previous_response_id: failed.id })),
      nobody: await failure(() => api.responses.retrieve("resp_nobody")),
      failed: await failure(() => create({ model: "demo/fail" })),
      failed_later: told(failed),
      failed_in_a_stream: streamed,
    };
  },

  // A stream in which nothing is said for so long that the connection is kept alive.
  async responses_quiet() {
    let text = "";
    for await (const event of await client().responses.retrieve("resp_quiet", { stream: true }))
      if (event.type === "response.output_text.delta") text += event.delta;
    return text;
  },

  async responses_retry() {
    return told(await client({ timeout: 1000, maxRetries: 8 }).responses.create({ model: "demo/slow", input: "3" }));
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
