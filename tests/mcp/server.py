#!/usr/bin/env python3
"""An MCP server that does as it is told, for tests. Standard library only.

stdio:  server.py
HTTP:   server.py --http PORT   (0 picks one; the first line on stdout is "listening on http://…/mcp")

Environment:
  MCP_LOG=path            one line of JSON for each message that came in
  MCP_EFFECTS=path        once_effect appends a line here
  MCP_DIE_AT_START=path   leaves at once while this file exists
  MCP_HANG_AT_START=path  says nothing while this file exists
  MCP_GATE=path           gate answers when this file exists
  MCP_REFUSE_LIST=path    answers tools/list with an error while this file exists
  MCP_FREEZE_LIST=path    removes this file when asked for its tools, and stops for good
  MCP_PREFIX=name         put in front of what echo says
  MCP_TOOL=name           has this tool as well
  MCP_MALFORMED=1         lists tools that are none among the others
  MCP_SESSIONS=404|400    HTTP: gives each client a session, and answers so to those that it does not know

Over HTTP, each line of the log also has the request's headers, as "_headers".
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

out_lock = threading.Lock()
cancelled = threading.Condition()
cancelled_ids = set()
changed = False
sessions = set()


def tool(name, description, properties=None, **annotations):
    listed = {
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": properties or {}},
    }
    if annotations:
        listed["annotations"] = annotations
    return listed


def tools():
    text = {"text": {"type": "string"}}
    numbers = {"a": {"type": "number"}, "b": {"type": "number"}}
    size = {"bytes": {"type": "integer"}}
    listed = [
        tool("echo", "Says the text again.", text),
        tool("add", "Adds two numbers.", numbers, readOnlyHint=True),
        tool("set", "Sets a value.", text, idempotentHint=True),
        tool("once_effect", "Does something that must not be done twice.", text),
        tool("meta", "Says what came in _meta.", readOnlyHint=True),
        tool("fail", "Fails."),
        tool("refuse", "Answers with an error of the protocol."),
        tool("hang", "Never answers."),
        tool("gate", "Answers as soon as the file MCP_GATE is there."),
        tool("freeze", "Stops the server, which stays where it is."),
        tool("crash", "Kills the server."),
        tool("last", "Answers, and then kills the server."),
        tool("spawn", "Starts a process that outlives the server and holds its pipes."),
        tool("garbage", "Writes what is no message, and then answers."),
        tool("noise", "Sends progress and logs and writes to stderr, and then answers."),
        tool("huge", "Answers with many bytes.", size),
        tool("image", "Answers with a picture."),
        tool("change", "Changes the list of tools."),
        tool("odd name!", "Has a name that models do not accept."),
    ]
    if os.environ.get("MCP_TOOL"):
        listed.append(tool(os.environ["MCP_TOOL"], "Is there if it is named.", readOnlyHint=True))
    if os.environ.get("MCP_MALFORMED"):
        listed[1:1] = [{"name": "no_schema"}, "no tool", {"inputSchema": {}}, {"name": "odd", "inputSchema": []}]
    if changed:
        listed.append(tool("appeared", "Was not there before.", readOnlyHint=True))
    return listed


def log(message):
    path = os.environ.get("MCP_LOG")
    if path:
        with open(path, "a") as file:
            file.write(json.dumps(message) + "\n")


def text_result(text, **more):
    return {"content": [{"type": "text", "text": text}], **more}


def call(id, params, send):
    """Returns the result of a call, or None if there will be none."""
    global changed
    name, arguments = params["name"], params.get("arguments") or {}
    if name == "echo":
        return text_result(os.environ.get("MCP_PREFIX", "") + arguments["text"])
    if name == "add":
        return text_result(str(arguments["a"] + arguments["b"]))
    if name in ("set", "once_effect"):
        path = os.environ.get("MCP_EFFECTS")
        if path:
            with open(path, "a") as file:
                file.write(name + " " + arguments.get("text", "") + "\n")
        return text_result("done")
    if name == "meta":
        return text_result(json.dumps(params.get("_meta") or {}, sort_keys=True))
    if name == "fail":
        return text_result("it did not work", isError=True)
    if name == "refuse":
        raise ValueError("not like this")
    if name == "hang":
        with cancelled:
            cancelled.wait_for(lambda: id in cancelled_ids)
        return None
    if name == "gate":
        while not os.path.exists(os.environ["MCP_GATE"]):
            time.sleep(0.01)
        return text_result("through")
    if name == "crash":
        os._exit(3)
    if name == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
        # The signal may reach another thread first, and this one would go on for a moment.
        time.sleep(600)
    if name == os.environ.get("MCP_TOOL"):
        return text_result("named")
    if name == "spawn":
        subprocess.Popen(["sleep", "600"])
        return text_result("spawned")
    if name == "last":
        send({"jsonrpc": "2.0", "id": id, "result": text_result("last words")})
        os._exit(0)
    if name == "garbage":
        sys.stdout.write('this is no JSON\n{"jsonrpc":"2.0"}\n[1,2\n\n{"jsonrpc":"2.0","id":987654,"result":{}}\n')
        return text_result("after garbage")
    if name == "noise":
        token = (params.get("_meta") or {}).get("progressToken", 0)
        for step in range(50):
            progress = {"progressToken": token, "progress": step}
            send({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
            entry = {"level": "info", "data": "step %d" % step}
            send({"jsonrpc": "2.0", "method": "notifications/message", "params": entry})
        sys.stderr.write("x" * 1_000_000 + "\nlast words\n")
        sys.stderr.flush()
        return text_result("after noise")
    if name == "huge":
        if arguments.get("noisy"):
            send({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": ""}})
        return text_result("h" * arguments.get("bytes", 100_000_000))
    if name == "image":
        picture = {"type": "image", "data": PNG, "mimeType": "image/png"}
        return {"content": [{"type": "text", "text": "a dot"}, picture]}
    if name == "change":
        changed = True
        send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        return text_result("changed")
    if name == "appeared":
        return text_result("here")
    if name == "odd name!":
        return text_result("odd")
    raise ValueError("no such tool: " + name)


def answer(message, send):
    """Answers one message. Returns None where there is nothing to say."""
    method, id, params = message.get("method"), message.get("id"), message.get("params") or {}
    if method == "notifications/cancelled":
        with cancelled:
            cancelled_ids.add(params.get("requestId"))
            cancelled.notify_all()
    if id is None or method is None:
        return None
    try:
        if method == "initialize":
            result = {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "scripted", "version": "1"},
            }
        elif method == "ping":
            result = {}
        elif method == "tools/list" and os.path.exists(os.environ.get("MCP_REFUSE_LIST", "")):
            raise ValueError("no list today")
        elif method == "tools/list":
            if os.path.exists(os.environ.get("MCP_FREEZE_LIST", "")):
                os.remove(os.environ["MCP_FREEZE_LIST"])
                os.kill(os.getpid(), signal.SIGSTOP)
            # Two pages, so that clients have to turn them.
            listed = tools()
            if params.get("cursor") == "2":
                result = {"tools": listed[2:]}
            else:
                result = {"tools": listed[:2], "nextCursor": "2"}
        elif method == "tools/call":
            result = call(id, params, send)
            if result is None:
                return None
        else:
            return {"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}}
    except Exception as error:
        return {"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": str(error)}}
    return {"jsonrpc": "2.0", "id": id, "result": result}


def stdio():
    def send(message):
        with out_lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def serve(message):
        reply = answer(message, send)
        if reply is not None:
            send(reply)

    for line in sys.stdin:
        message = json.loads(line)
        log(message)
        threading.Thread(target=serve, args=(message,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, status, body=b"", kind=None, session="one"):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Mcp-Session-Id", session)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(405)

    def logged(self, message):
        log({**message, "_headers": {name.lower(): value for name, value in self.headers.items()}})

    def do_DELETE(self):
        self.logged({"method": "DELETE"})
        self.reply(200)

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.logged(message)
        session = "one"
        if os.environ.get("MCP_SESSIONS"):
            if message.get("method") == "initialize":
                session = uuid.uuid4().hex
                sessions.add(session)
            elif self.headers.get("Mcp-Session-Id") not in sessions:
                lost = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
                body = json.dumps({"jsonrpc": "2.0", "error": lost, "id": None}).encode()
                return self.reply(int(os.environ["MCP_SESSIONS"]), body, "application/json")
            else:
                session = self.headers["Mcp-Session-Id"]
        sent = []
        reply = answer(message, sent.append)
        if reply is None:
            self.reply(202, session=session)
        elif sent:
            frames = "".join("data: %s\n\n" % json.dumps(each) for each in sent + [reply])
            self.reply(200, frames.encode(), "text/event-stream", session)
        else:
            self.reply(200, json.dumps(reply).encode(), "application/json", session)


def http(port):
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print("listening on http://127.0.0.1:%d/mcp" % server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if os.path.exists(os.environ.get("MCP_DIE_AT_START", "")):
        sys.exit(4)
    while os.path.exists(os.environ.get("MCP_HANG_AT_START", "")):
        time.sleep(0.01)
    if "--http" in sys.argv:
        http(int(sys.argv[sys.argv.index("--http") + 1]))
    else:
        stdio()
