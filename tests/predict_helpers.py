"""A server that speaks TensorFlow Serving's REST predict, for tests: it can fail in every way.

with predict_server(answer, drop_every=20) as server:
    kd.load_teacher(server.address)
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


class Server(ThreadingHTTPServer):
    """Answers `:predict` with `answer(images)`; the attributes say how it fails.

    Attributes:
      asked: the images of every request that was answered, as arrays.
      failures: replies to the next requests, (status, body, headers); 'drop' cuts the connection.
      drop_every: every so many requests the connection is cut after the answer was computed.
      headers_seen: of the last request.
    """

    daemon_threads = True
    # The tests end by closing connections that are kept alive.
    block_on_close = False

    def __init__(self, answer, *, dtype=None, size=(8, 8), drop_every=None, version="1"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.dtype, self.size, self.drop_every = answer, dtype, size, drop_every
        self.version = version
        self.asked, self.failures, self.headers_seen = [], [], {}
        self.lock, self.num_requests, self.num_dropped = threading.Lock(), 0, 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1/models/net"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        server = self.server
        server.headers_seen = dict(self.headers)
        if server.dtype is None:
            self.reply(404, {"error": "no metadata here"})
        elif self.path.endswith("/metadata"):
            sizes = (-1, *server.size, 3)
            shape = {"dim": [{"size": str(size), "name": ""} for size in sizes]}
            inputs = {"image": {"dtype": server.dtype, "tensor_shape": shape, "name": "x:0"}}
            signature = {"serving_default": {"inputs": inputs, "outputs": {}}}
            self.reply(200, {"metadata": {"signature_def": {"signature_def": signature}}})
        else:
            status = [{"version": server.version, "state": "AVAILABLE", "status": {}}]
            self.reply(200, {"model_version_status": status})

    def do_POST(self):
        server = self.server
        server.headers_seen = dict(self.headers)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.num_requests += 1
            number = server.num_requests
            failure = server.failures.pop(0) if server.failures else None
        if failure == "drop":
            self.close_connection = True
            return
        if failure is not None:
            self.reply(*failure)
            return
        images = np.array(json.loads(body)["instances"])
        with server.lock:
            server.asked.append(images)
            rows = server.answer(images)
        if server.drop_every and number % server.drop_every == 0:
            server.num_dropped += 1
            self.close_connection = True
            return
        self.reply(200, rows if isinstance(rows, dict) else {"predictions": rows})


@contextlib.contextmanager
def predict_server(answer, **options):
    """Runs a server on a free port of this machine."""
    server = Server(answer, **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
