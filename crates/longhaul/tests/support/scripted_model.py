#!/usr/bin/env python3
"""A model server on loopback whose replies are scripted: for running real coding-agent CLIs in tests.

Speaks, streamed and not:  OpenAI Chat Completions   POST …/chat/completions
                           OpenAI Responses          POST …/responses
                           Anthropic Messages        POST …/messages, …/messages/count_tokens
                           Gemini                    POST …/models/M:generateContent, :streamGenerateContent, :countTokens
and GET …/models.  What comes before these in the path is ignored, so any base URL will do.

    scripted_model.py [--port 0] [--script FILE] [--log FILE] [--max-seconds 600]

prints one line, `http://127.0.0.1:PORT`.  One server can hold many scripts: a base URL of
http://127.0.0.1:PORT/s/NAME uses (or makes) script NAME, no prefix is NAME "default".
    PUT  /s/NAME    body: a script      load it and set its counter to 0
    GET  /s/NAME    its log: one record a request (api, model, turn, tools, last, …); ?bodies=1 adds the request bodies

A script is {"turns": [TURN…], "by": "count"|"history", "side": TURN|false} or just [TURN…].
  by     "count": each request takes the next turn.  "history": the turn's number is the number of assistant messages
         in the request, so many conversations can share one script, and a resumed one goes on where it was.
         After the last turn, the last one repeats.
  side   the reply to a request that offers no tools (titles, summaries, probes); it takes no turn.  false: none is special.
A TURN, every key optional:
  reasoning: text   text: text or [chunk…]   tools: [{"shell": "cmd"} | {"name":…, "args": {…}}…]   (Responses: also "namespace")
         {"shell": …} is turned into whichever shell tool the request offers.
  usage: {"input":100,"output":20,"cached":0,"reasoning":0}
  delay: s before the first byte   chunk_delay: s between stream events
  error: HTTP status   message: its text   retry_after: s   times: n (this error n times, then the next turn)
  gate: DIR   before stream event i (i > 0) wait until the file DIR/i or DIR/all is there
  drop: n   close the connection after n stream events         hang: s   send nothing more for s, after the events
  error_event: text   an error inside the stream, after the events, where the API has one
"""
import argparse, json, os, re, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SHELL_TOOLS = {  # tool name -> how its arguments are made of a command line
    "Bash": lambda c: {"command": c, "description": "run a command"},
    "bash": lambda c: {"command": c, "description": "run a command"},
    "Shell": lambda c: {"command": c},
    "exec_command": lambda c: {"cmd": c},
    "shell_command": lambda c: {"command": c},
    "shell": lambda c: {"command": ["bash", "-lc", c]},
    "local_shell": lambda c: {"command": ["bash", "-lc", c]},
    "run_shell_command": lambda c: {"command": c, "description": "run a command", "is_background": False},
    "execute_command": lambda c: {"command": c},
    "shell__exec": lambda c: {"command": c},
}
ident = lambda p: p + uuid.uuid4().hex[:20]
dumps = lambda o: json.dumps(o, ensure_ascii=False, separators=(",", ":"))


def pieces(text):
    """The stream chunks of a text: as given, or words in threes."""
    return list(text) if isinstance(text, list) else re.findall(r"(?:\S+\s*){1,3}", text)


class Reply:
    def __init__(self, turn, offered, model):
        self.id, self.model = uuid.uuid4().hex[:20], model
        self.reasoning = turn.get("reasoning", "")
        self.chunks = pieces(turn.get("text", ""))
        self.text = "".join(self.chunks)
        self.usage = {"input": 100, "output": 20, "cached": 0, "reasoning": 0, **turn.get("usage", {})}
        self.error_event = turn.get("error_event")
        self.tools = []
        for t in turn.get("tools", []):
            if "shell" in t:
                name = next((n for n in SHELL_TOOLS if n in offered), "bash")
                t = {**t, "name": name, "args": SHELL_TOOLS[name](t["shell"])}
            self.tools.append({"id": t.get("id", ident("call_")), "name": t["name"], "args": dumps(t.get("args", {})), "namespace": t.get("namespace")})


class Chat:
    """OpenAI Chat Completions."""
    @staticmethod
    def offered(req): return [t.get("function", {}).get("name", "") for t in req.get("tools") or []]
    @staticmethod
    def history(req): return req.get("messages") or []
    @staticmethod
    def error(status, msg):
        kind = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}.get(status, "server_error")
        return {"error": {"message": msg, "type": kind, "code": None}}

    def usage(r):
        u = r.usage
        return {"prompt_tokens": u["input"], "completion_tokens": u["output"], "total_tokens": u["input"] + u["output"],
                "prompt_tokens_details": {"cached_tokens": u["cached"]},
                "completion_tokens_details": {"reasoning_tokens": u["reasoning"]}}

    @staticmethod
    def events(r, req):
        def chunk(delta, finish=None, **more):
            return None, {"id": "chatcmpl-" + r.id, "object": "chat.completion.chunk", "created": 1700000000, "model": r.model,
                          "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
        yield chunk({"role": "assistant", "content": ""})
        for p in pieces(r.reasoning):
            yield chunk({"reasoning_content": p})
        for p in r.chunks:
            yield chunk({"content": p})
        for i, t in enumerate(r.tools):
            yield chunk({"tool_calls": [{"index": i, "id": t["id"], "type": "function", "function": {"name": t["name"], "arguments": ""}}]})
            half = len(t["args"]) // 2
            for part in (t["args"][:half], t["args"][half:]):
                yield chunk({"tool_calls": [{"index": i, "function": {"arguments": part}}]})
        if r.error_event:
            yield None, Chat.error(500, r.error_event)
            return
        yield chunk({}, "tool_calls" if r.tools else "stop")
        last = chunk({})[1]
        yield None, {**last, "choices": [], "usage": Chat.usage(r)}
        yield None, "[DONE]"

    @staticmethod
    def body(r, req):
        msg = {"role": "assistant", "content": r.text or None}
        if r.reasoning:
            msg["reasoning_content"] = r.reasoning
        if r.tools:
            msg["tool_calls"] = [{"id": t["id"], "type": "function", "function": {"name": t["name"], "arguments": t["args"]}} for t in r.tools]
        return {"id": "chatcmpl-" + r.id, "object": "chat.completion", "created": 1700000000, "model": r.model, "usage": Chat.usage(r),
                "choices": [{"index": 0, "message": msg, "finish_reason": "tool_calls" if r.tools else "stop"}]}


class Responses:
    """OpenAI Responses."""
    @staticmethod
    def offered(req):
        names = []
        for t in req.get("tools") or []:
            names += [u.get("name", "") for u in t["tools"]] if t.get("type") == "namespace" else [t.get("name") or t.get("type", "")]
        return names
    @staticmethod
    def history(req):
        """One assistant entry for each past model turn: its items run until the next input of another kind."""
        i, out = req.get("input") or [], []
        for m in i if isinstance(i, list) else [{"role": "user"}]:
            mine = m.get("role") == "assistant" or m.get("type") in ("reasoning", "function_call", "custom_tool_call", "local_shell_call")
            if not (mine and out and out[-1]["role"] == "assistant"):
                out.append({**m, "role": "assistant" if mine else m.get("role", "tool")})
        return out
    error = Chat.error

    def output(r):
        out = []
        if r.reasoning:
            out.append({"type": "reasoning", "id": "rs_" + r.id, "summary": [{"type": "summary_text", "text": r.reasoning}], "encrypted_content": "opaque"})
        if r.text:
            out.append({"type": "message", "id": "msg_" + r.id, "role": "assistant", "status": "completed",
                        "content": [{"type": "output_text", "text": r.text, "annotations": []}]})
        for t in r.tools:
            out.append({"type": "function_call", "id": ident("fc_"), "call_id": t["id"], "name": t["name"], "arguments": t["args"], "status": "completed",
                        **({"namespace": t["namespace"]} if t["namespace"] else {})})
        return out

    @staticmethod
    def body(r, req, output=None, status="completed"):
        u = r.usage
        return {"id": "resp_" + r.id, "object": "response", "created_at": 1700000000, "status": status, "model": r.model, "error": None,
                "output": Responses.output(r) if output is None else output,
                "usage": {"input_tokens": u["input"], "input_tokens_details": {"cached_tokens": u["cached"]},
                          "output_tokens": u["output"], "output_tokens_details": {"reasoning_tokens": u["reasoning"]},
                          "total_tokens": u["input"] + u["output"]} if status == "completed" else None}

    @staticmethod
    def events(r, req):
        seq = [0]
        def ev(type_, **data):
            seq[0] += 1
            return type_, {"type": type_, "sequence_number": seq[0], **data}
        yield ev("response.created", response=Responses.body(r, req, [], "in_progress"))
        items = Responses.output(r)
        for n, item in enumerate(items):
            at = {"output_index": n, "item_id": item["id"]}
            if item["type"] == "reasoning":
                yield ev("response.output_item.added", output_index=n, item={**item, "summary": []})
                yield ev("response.reasoning_summary_part.added", **at, summary_index=0, part={"type": "summary_text", "text": ""})
                for p in pieces(r.reasoning):
                    yield ev("response.reasoning_summary_text.delta", **at, summary_index=0, delta=p)
                yield ev("response.reasoning_summary_text.done", **at, summary_index=0, text=r.reasoning)
                yield ev("response.reasoning_summary_part.done", **at, summary_index=0, part=item["summary"][0])
            elif item["type"] == "message":
                yield ev("response.output_item.added", output_index=n, item={**item, "content": [], "status": "in_progress"})
                yield ev("response.content_part.added", **at, content_index=0, part={"type": "output_text", "text": "", "annotations": []})
                for p in r.chunks:
                    yield ev("response.output_text.delta", **at, content_index=0, delta=p)
                yield ev("response.output_text.done", **at, content_index=0, text=r.text)
                yield ev("response.content_part.done", **at, content_index=0, part=item["content"][0])
            else:
                yield ev("response.output_item.added", output_index=n, item={**item, "arguments": "", "status": "in_progress"})
                yield ev("response.function_call_arguments.delta", **at, delta=item["arguments"])
                yield ev("response.function_call_arguments.done", **at, arguments=item["arguments"])
            yield ev("response.output_item.done", output_index=n, item=item)
        if r.error_event:
            bad = Responses.body(r, req, [], "failed")
            yield ev("response.failed", response={**bad, "error": {"code": "server_error", "message": r.error_event}})
            return
        yield ev("response.completed", response=Responses.body(r, req, items))


class Anthropic:
    """Anthropic Messages."""
    ERR = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
           413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}
    @staticmethod
    def offered(req): return [t.get("name", "") for t in req.get("tools") or []]
    @staticmethod
    def history(req): return req.get("messages") or []
    @staticmethod
    def error(status, msg): return {"type": "error", "error": {"type": Anthropic.ERR.get(status, "api_error"), "message": msg}}

    @staticmethod
    def body(r, req):
        u = r.usage
        content = [{"type": "thinking", "thinking": r.reasoning, "signature": "c2ln"}] if r.reasoning else []
        content += [{"type": "text", "text": r.text}] if r.text else []
        content += [{"type": "tool_use", "id": t["id"].replace("call_", "toolu_"), "name": t["name"], "input": json.loads(t["args"])} for t in r.tools]
        return {"id": "msg_" + r.id, "type": "message", "role": "assistant", "model": r.model, "content": content,
                "stop_reason": "tool_use" if r.tools else "end_turn", "stop_sequence": None,
                "usage": {"input_tokens": u["input"] - u["cached"], "cache_creation_input_tokens": 0,
                          "cache_read_input_tokens": u["cached"], "output_tokens": u["output"]}}

    @staticmethod
    def events(r, req):
        def ev(type_, **data): return type_, {"type": type_, **data}
        whole = Anthropic.body(r, req)
        yield ev("message_start", message={**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}})
        for n, block in enumerate(whole["content"]):
            kind = block["type"]
            empty = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}, "tool_use": {"input": {}}}[kind]
            yield ev("content_block_start", index=n, content_block={**block, **empty})
            if kind == "thinking":
                deltas = [{"type": "thinking_delta", "thinking": p} for p in pieces(r.reasoning)] + [{"type": "signature_delta", "signature": "c2ln"}]
            elif kind == "text":
                deltas = [{"type": "text_delta", "text": p} for p in r.chunks]
            else:
                deltas = [{"type": "input_json_delta", "partial_json": dumps(block["input"])}]
            for d in deltas:
                yield ev("content_block_delta", index=n, delta=d)
            yield ev("content_block_stop", index=n)
        if r.error_event:
            yield ev("error", error={"type": "overloaded_error", "message": r.error_event})
            return
        yield ev("message_delta", delta={"stop_reason": whole["stop_reason"], "stop_sequence": None}, usage=whole["usage"])
        yield ev("message_stop")


class Gemini:
    """Gemini generateContent."""
    @staticmethod
    def offered(req): return [f.get("name", "") for t in req.get("tools") or [] for f in t.get("functionDeclarations") or []]
    @staticmethod
    def history(req): return [{**m, "role": "assistant" if m.get("role") == "model" else "user"} for m in req.get("contents") or []]
    @staticmethod
    def error(status, msg):
        return {"error": {"code": status, "message": msg, "status": {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}.get(status, "INVALID_ARGUMENT")}}

    def wrap(r, parts, done):
        c = {"content": {"role": "model", "parts": parts}, "index": 0}
        out = {"candidates": [c], "modelVersion": r.model, "responseId": r.id}
        if done:
            u = r.usage
            c["finishReason"] = "STOP"
            out["usageMetadata"] = {"promptTokenCount": u["input"], "candidatesTokenCount": u["output"], "cachedContentTokenCount": u["cached"],
                                    "thoughtsTokenCount": u["reasoning"], "totalTokenCount": u["input"] + u["output"] + u["reasoning"]}
        return out

    def parts(r):
        out = [{"text": p, "thought": True} for p in pieces(r.reasoning)] + [{"text": p} for p in r.chunks]
        return out + [{"functionCall": {"id": t["id"], "name": t["name"], "args": json.loads(t["args"])}} for t in r.tools]

    @staticmethod
    def body(r, req): return Gemini.wrap(r, Gemini.parts(r), True)

    @staticmethod
    def events(r, req):
        parts = Gemini.parts(r)
        for n, p in enumerate(parts):
            yield None, Gemini.wrap(r, [p], n == len(parts) - 1 and not r.error_event)
        if r.error_event:
            yield None, Gemini.error(500, r.error_event)


class Script:
    def __init__(self, data=None):
        data = data or [{"text": "Hello from the scripted model."}]
        data = {"turns": data} if isinstance(data, list) else data
        self.turns, self.by, self.side = data["turns"], data.get("by", "count"), data.get("side", {"text": "side reply"})
        self.at, self.tries, self.log, self.lock = 0, 0, [], threading.Lock()

    def take(self, offered, history):
        """(turn number or None for a side request, the turn)"""
        if not offered and self.side is not False:
            return None, self.side
        with self.lock:
            n = self.at + (0 if self.by == "count" else sum(m.get("role") == "assistant" for m in history))
            n = min(n, len(self.turns) - 1)
            turn = self.turns[n]
            if "times" in turn:
                self.tries += 1
                if self.tries >= turn["times"]:
                    self.at, self.tries = self.at + 1, 0
            elif self.by == "count":
                self.at = n + 1
            return n, turn


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            out = b""
            while n := int(self.rfile.readline().split(b";")[0], 16):
                out += self.rfile.read(n)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def script(self):
        """(its name, the rest of the path); the script is made when first named."""
        self.url = urlsplit(self.path)
        m = re.match(r"/s/([^/]+)(.*)", self.url.path)
        name, rest = m.groups() if m else ("default", self.url.path)
        if name not in self.server.scripts:
            self.server.scripts[name] = Script()
        return name, rest

    def send(self, obj, status=200, **headers):
        data = dumps(obj).encode()
        self.send_response(status)
        for k, v in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(k.replace("_", "-"), v)
        self.end_headers()
        self.wfile.write(data)

    def do_HEAD(self): self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()

    def do_PUT(self):
        name, _ = self.script()
        self.server.scripts[name] = Script(json.loads(self.read_body()))
        self.send({"ok": True})

    def do_GET(self):
        name, rest = self.script()
        if rest.endswith("/models"):
            return self.send({"object": "list", "data": [{"id": "scripted", "object": "model", "type": "model", "display_name": "scripted"}], "models": []})
        if self.url.path.startswith("/s/") and rest in ("", "/"):
            full = "bodies" in parse_qs(self.url.query)
            return self.send([r if full else {k: v for k, v in r.items() if k != "body"} for r in self.server.scripts[name].log])
        self.note(name, rest, "unknown")
        self.send({"error": {"message": "not found: " + rest}}, 404)

    def note(self, name, path, api, **more):
        rec = {"t": round(time.time() - self.server.began, 3), "script": name, "method": self.command, "path": path, "api": api, **more}
        self.server.scripts[name].log.append(rec)
        if self.server.log_file:
            self.server.log_file.write(dumps({k: v for k, v in rec.items() if k != "body"}) + "\n")
            self.server.log_file.flush()
        return rec

    def do_POST(self):
        name, path = self.script()
        raw = self.read_body()
        try:
            req = json.loads(raw or b"{}")
        except ValueError:
            req = {}
        if path.endswith(("/count_tokens", ":countTokens")):
            self.note(name, path, "count")
            n = len(raw) // 4
            return self.send({"input_tokens": n, "totalTokens": n})
        stream = bool(req.get("stream"))
        if path.endswith("/chat/completions"): api = Chat
        elif path.endswith("/responses"): api = Responses
        elif path.endswith("/messages"): api = Anthropic
        elif m := re.search(r"/models/([^/:]+):(generateContent|streamGenerateContent)$", path):
            api, req["model"], stream = Gemini, m[1], m[2].startswith("stream")
        else:
            self.note(name, path, "unknown")
            return self.send({"error": {"message": "not found: " + path}}, 404)
        script, offered, history = self.server.scripts[name], api.offered(req), api.history(req)
        n, turn = script.take(offered, history)
        rec = self.note(name, path, api.__name__, model=req.get("model"), turn=n, stream=stream, messages=len(history),
                        offered=offered, auth=self.headers.get("Authorization") or self.headers.get("x-api-key") or self.headers.get("x-goog-api-key"),
                        agent=self.headers.get("User-Agent"), last=dumps(history[-1])[-300:] if history else "", body=req)
        time.sleep(turn.get("delay", 0))
        if "error" in turn:
            more = {"Retry-After": str(turn["retry_after"])} if "retry_after" in turn else {}
            return self.send(api.error(turn["error"], turn.get("message", "scripted error")), turn["error"], **more)
        reply = Reply(turn, offered, req.get("model", "scripted"))
        if not stream:
            return self.send(api.body(reply, req))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for i, (event, data) in enumerate(api.events(reply, req)):
                if i == turn.get("drop"):
                    rec["dropped"] = True
                    self.close_connection = True
                    return self.connection.shutdown(2)
                if i:
                    time.sleep(turn.get("chunk_delay", 0))
                    while "gate" in turn and not any(os.path.exists(f"{turn['gate']}/{k}") for k in (i, "all")):
                        time.sleep(0.005)
                frame = (f"event: {event}\n" if event else "") + f"data: {data if isinstance(data, str) else dumps(data)}\n\n"
                frame = frame.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
            time.sleep(turn.get("hang", 0))
            self.wfile.write(b"0\r\n\r\n")
            rec["done"] = True
        except OSError:
            rec["client_gone"] = True
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    def handle_error(self, *a): pass  # a client that went away


def serve(port=0, script=None, log=None):
    server = Server(("127.0.0.1", port), Handler)
    server.began, server.scripts = time.time(), {"default": Script(script)}
    server.log_file = open(log, "a") if log else None
    return server


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("--port", type=int, default=0)
    a.add_argument("--script")
    a.add_argument("--log")
    a.add_argument("--max-seconds", type=float, default=600)
    a = a.parse_args()
    server = serve(a.port, json.load(open(a.script)) if a.script else None, a.log)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    timer = threading.Timer(a.max_seconds, server.shutdown)
    timer.daemon = True
    timer.start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
