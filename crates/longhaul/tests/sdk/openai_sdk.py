"""What an unmodified OpenAI SDK sees: one JSON object of facts on stdout for the scenario named first."""

import concurrent.futures
import json
import sys
import time

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


def told(response):
    usage = response.usage and [response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens]
    return {"status": response.status, "text": response.output_text, "kinds": [item.type for item in response.output],
            "model": response.model, "metadata": response.metadata, "usage": usage,
            "error": response.error and [response.error.code, response.error.type]}


def responses():
    api = client()
    whole = api.responses.create(model="demo/echo", input="one two three", metadata={"a": "b"}, store=False)
    # The SDK's own accumulator, which checks the order and the identity of all items.
    with api.responses.stream(model="demo/tools", input="x") as stream:
        done = [event.text for event in stream if event.type == "response.output_text.done"]
        final = stream.get_final_response()
    begun = api.responses.create(model="demo/slow", input="1", background=True)
    first, ended = begun.status, begun
    while ended.status in ("queued", "in_progress"):
        time.sleep(0.1)
        ended = api.responses.retrieve(begun.id)
    return {"whole": told(whole), "done": done, "final": told(final), "waited": first in ("queued", "in_progress"),
            "background": ended.background, "ended": told(ended)}


def responses_in_turns():
    """On from a response that named no conversation, and on from that; what each was asked, page by page."""
    api = client()
    first = api.responses.create(model="demo/echo", input="one")
    said = [{"role": "user", "content": text} for text in ("two", "three", "four")]
    second = api.responses.create(model="demo/echo", input=said, previous_response_id=first.id)
    third = api.responses.create(model="demo/echo", input="five", previous_response_id=second.id)
    pages = list(api.responses.input_items.list(second.id, limit=2, order="asc"))
    return {"texts": [first.output_text, third.output_text],
            "previous": [reply.previous_response_id for reply in (second, third)] == [first.id, second.id],
            "conversations": [first.conversation is None, second.conversation.id == third.conversation.id],
            "items": [[item.role, item.content[0].type, item.content[0].text] for item in pages],
            "newest": [item.content[0].text for item in api.responses.input_items.list(first.id)],
            "branch": failure(lambda: api.responses.create(model="demo/echo", input="x", previous_response_id=first.id))}


def responses_resumed():
    """A background stream that breaks, however often, goes on after the last event that came."""
    api, seen, text, breaks, response, final = client(max_retries=8), [], "", 0, None, None
    while final is None:
        try:
            if response is None:
                stream = api.responses.create(model="demo/slow", input="3", background=True, stream=True)
            else:
                stream = api.responses.retrieve(response, stream=True, starting_after=seen[-1])
            for event in stream:
                seen.append(event.sequence_number)
                if event.type == "response.created":
                    response = event.response.id
                elif event.type == "response.output_text.delta":
                    text += event.delta
                elif event.type in ("response.completed", "response.failed", "response.incomplete"):
                    final = event.response
        except openai.APIError:
            pass
        breaks += final is None
    return {"dense": seen == list(range(len(seen))), "text": text, "final": told(final), "breaks": breaks}


def responses_cancelled():
    api = client()
    begun = api.responses.create(model="demo/slow", input="600", background=True)
    while not (api.responses.retrieve(begun.id).output):
        time.sleep(0.05)
    cancelled = api.responses.cancel(begun.id)
    last = [event for event in api.responses.retrieve(begun.id, stream=True)][-1]
    api.responses.delete(begun.id)
    return {"status": cancelled.status, "items": [item.status for item in cancelled.output], "last": last.type,
            "last_status": last.response.status, "deleted": failure(lambda: api.responses.retrieve(begun.id))}


def responses_errors():
    api = client(max_retries=2)

    def create(**more):
        return api.responses.create(**{"model": "demo/echo", "input": "x", **more})

    failed = create(model="demo/fail", background=True)
    while failed.status in ("queued", "in_progress"):
        time.sleep(0.05)
        failed = api.responses.retrieve(failed.id)
    streamed = [event.type for event in create(model="demo/fail", stream=True)]
    return {
        "unknown_harness": failure(lambda: create(model="nobody/x")),
        "unknown_field": failure(lambda: create(extra_body={"temprature": 1})),
        "other_model": failure(lambda: create(previous_response_id=failed.id)),
        "nobody": failure(lambda: api.responses.retrieve("resp_nobody")),
        "failed": failure(lambda: create(model="demo/fail")),
        "failed_later": told(failed),
        "failed_in_a_stream": streamed[-1],
    }


def responses_quiet():
    """A stream in which nothing is said for so long that the connection is kept alive."""
    stream = client().responses.retrieve("resp_quiet", stream=True)
    return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


def responses_retry():
    """The SDK's read time-out, shorter than the run: it asks again until the answer is there."""
    return told(client(timeout=1.0, max_retries=8).responses.create(model="demo/slow", input="3"))


print(json.dumps(globals()[scenario]()))
