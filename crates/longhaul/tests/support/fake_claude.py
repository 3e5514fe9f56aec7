"""Speaks Claude's stream-json protocol without a model: the prompt is a list of commands, one a line.

    ask NAME COMMAND   asks whether the tool Bash may run COMMAND, waits for the answer, tells it as text
    wait FILE          waits until FILE exists, in its directory
    take               waits for a message and tells it as text
    say TEXT           says it
    deaf FILE          takes notice of nothing it is sent until FILE exists, in its directory
    rest               gives a result and goes on

One that goes on with a session takes its commands from the file `resumed`, in its directory, if that is there.

Every line that it reads goes to the file `heard`, before anything is done about it. Then a result, and on to the end of
its input."""
import json, os, sys, threading, time, queue

def out(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()

lines = queue.Queue()
gate = None

def read():
    for line in sys.stdin:
        while gate and not os.path.exists(gate):
            time.sleep(0.01)
        with open("heard", "a") as heard:
            heard.write(line)
        message = json.loads(line)
        if message["type"] == "user" and "uuid" in message:
            out(type="command_lifecycle", command_uuid=message["uuid"], state="queued")
        if message["type"] == "control_request":
            out(type="control_response", response={"subtype": "success", "request_id": message["request_id"]})
            say("interrupted")
            out(type="result", subtype="error_during_execution", is_error=True, terminal_reason="aborted_tools")
            os._exit(1)
        lines.put(message)
    lines.put(None)

said = 0

def say(text):
    global said
    said += 1
    message = {"id": "m%d" % said, "content": [{"type": "text", "text": text}]}
    out(type="assistant", message=message, parent_tool_use_id=None)

def next_of(kind, fits):
    kept = []
    while True:
        message = lines.get()
        if message is None:
            sys.exit(3)
        if message["type"] == kind and fits(message):
            for one in kept:
                lines.put(one)
            return message
        kept.append(message)

threading.Thread(target=read, daemon=True).start()
prompt = next_of("user", lambda m: "uuid" not in m)["message"]["content"][0]["text"]
out(type="system", subtype="init", session_id="s-fake")
if "--resume" in sys.argv and os.path.exists("resumed"):
    prompt = open("resumed").read()
for command in prompt.splitlines():
    verb, _, rest = command.partition(" ")
    if verb == "ask":
        name, _, command = rest.partition(" ")
        request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": command}, "tool_use_id": "t-" + name}
        out(type="control_request", request_id=name, request=request)
        answer = next_of("control_response", lambda m: m["response"]["request_id"] == name)["response"]["response"]
        say("%s: %s" % (name, answer["behavior"] + (" " + answer["message"] if "message" in answer else "")))
    elif verb == "wait":
        while not os.path.exists(rest):
            time.sleep(0.01)
    elif verb == "take":
        message = next_of("user", lambda m: "uuid" in m)
        out(type="command_lifecycle", command_uuid=message["uuid"], state="started")
        say("took " + message["message"]["content"][0]["text"])
        out(type="command_lifecycle", command_uuid=message["uuid"], state="completed")
    elif verb == "say":
        say(rest)
    elif verb == "deaf":
        gate = rest
    elif verb == "rest":
        out(type="result", subtype="success", is_error=False, result="done")
out(type="result", subtype="success", is_error=False, result="done")
while lines.get() is not None:
    pass
