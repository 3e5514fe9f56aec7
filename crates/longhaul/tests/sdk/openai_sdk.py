"""What an unmodified OpenAI SDK sees: one JSON object of facts on stdout for the scenario named first."""

import concurrent.futures
import json
import sys

import openai
from openai import OpenAI

scenario, base = sys.argv[1], sys.argv[2]


def client(**more):
    return OpenAI(base_url=base + "/v1", api_key="any", **more)


def ask(api, model="demo/echo", prompt="one two three", **more):
    return api.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], **more)


def failure(call):
    try:
        call()
    except openai.APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code, "type": error.type,
                "param": error.param, "request_id": bool(error.request_id)}
    except openai.APIError as error:
        return {"class": type(error).__name__, "code": error.code, "type": error.type}
    return None


def answer(reply):
    return {"text": reply.choices[0].message.content, "finish": reply.choices[0].finish_reason}


def whole():
    reply = ask(client())
    return {"object": reply.object, "model": reply.model, "role": reply.choices[0].message.role, **answer(reply),
            "tools": reply.choices[0].message.tool_calls,
            "usage": [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens]}


def stream():
    facts = []
    for include in (False, True):
        text, usage, finishes, reasoning = "", [], [], ""
        for chunk in ask(client(), model="demo/tools", stream=True, stream_options={"include_usage": include}):
            if chunk.usage is not None:
                usage.append([chunk.usage.prompt_tokens, chunk.usage.completion_tokens, len(chunk.choices)])
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                finishes += [choice.finish_reason] if choice.finish_reason else []
        facts.append({"text": text, "usage": usage, "finishes": finishes, "reasoning": reasoning})
    return facts


def models():
    return sorted(model.id for model in client().models.list())


def errors():
    api = client(max_retries=2)

    def streamed():
        for _ in ask(api, model="demo/fail", stream=True):
            pass

    return {
        "unknown_harness": failure(lambda: ask(api, model="nobody/x")),
        "unknown_field": failure(lambda: ask(api, extra_body={"temprature": 1})),
        "bad_value": failure(lambda: ask(api, extra_body={"timeout_ms": 0})),
        "failed": failure(lambda: ask(api, model="demo/fail")),
        "failed_in_a_stream": failure(streamed),
        "conflict": failure(lambda: [ask(api, prompt=p, extra_headers={"X-Run-Id": "same"}) for p in ("a", "b")]),
    }


def retry_after_timeout():
    """The SDK's read time-out, shorter than the run: it asks again until the answer is there."""
    return answer(ask(client(timeout=1.0, max_retries=8), model="demo/slow", prompt="3"))


def stream_timeout():
    """A stream whose first byte is in time never times out."""
    text = ""
    for chunk in ask(client(timeout=2.0, max_retries=0), model="demo/slow", prompt="3", stream=True):
        text += chunk.choices[0].delta.content or ""
    return {"text": text}


def retry():
    return answer(ask(client(max_retries=5)))


def retry_stream():
    text = ""
    for chunk in ask(client(max_retries=5), stream=True):
        text += chunk.choices[0].delta.content or ""
    return {"text": text}


def saturated():
    return failure(lambda: ask(client(max_retries=1), extra_body={"queue_timeout_ms": 0}))


def twice():
    """Two requests that are the same on purpose: one after the other, then two at once with time-outs and retries."""
    texts = [answer(ask(client())) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ask, client(timeout=1.0, max_retries=8), "demo/slow", "2") for _ in range(2)]
        replies = [call.result() for call in calls]
    return {"texts": texts + [answer(reply) for reply in replies], "ids": len({reply.id for reply in replies})}


print(json.dumps(globals()[scenario]()))
