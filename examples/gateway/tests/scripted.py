"""The parts that all tests with a provider's own client share: a server that answers by a script, and a running gateway."""

import http.server
import json
import subprocess
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks chunked HTTP/1.1, and logs nothing."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_):
        pass

    def read(self):
        return json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"null")

    def answer(self, status, content_type, frames, cut=False, headers=()):
        """A content type of None is left out; a `cut` answer has no end."""
        self.send_response(status)
        for name, value in [("content-type", content_type), ("transfer-encoding", "chunked"), *headers]:
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        for frame in frames:
            data = frame.encode() if isinstance(frame, str) else frame
            if data:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
        if not cut:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        self.close_connection |= cut

    def json(self, status, value):
        self.answer(status, "application/json", [json.dumps(value)])


class Mcp(Handler):
    """An MCP server with one tool, `now`, over streamable HTTP without streams."""

    def do_GET(self):
        self.json(405, {})

    do_DELETE = do_GET

    def do_POST(self):
        request = self.read()
        results = {
            "initialize": {
                "protocolVersion": (request.get("params") or {}).get("protocolVersion"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "clock", "version": "1"},
            },
            "tools/list": {"tools": [{"name": "now", "inputSchema": {"type": "object", "properties": {}}}]},
            "tools/call": {"content": [{"type": "text", "text": "12:00"}]},
        }
        if "id" not in request:
            return self.answer(202, "application/json", [])
        self.json(200, {"jsonrpc": "2.0", "id": request["id"], "result": results.get(request["method"], {})})


class Gateway:
    """A running gateway; `client` makes a client of it from its address."""

    def __init__(self, path, *arguments, client=None):
        command = [path, "--listen", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.client = client and client(self.address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)


class Server(http.server.ThreadingHTTPServer):
    """Ignores clients that leave."""

    daemon_threads = True

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)


def serve(handler):
    """Serves in the background, and returns the address."""
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def raises(kind, action):
    """The error of this kind with which the action ends."""
    try:
        action()
    except kind as raised:
        return raised
    raise AssertionError(f"no {kind.__name__}")
