"""A made-up server for what tests/fake_endpoint.py does not have: log-probabilities of a prompt, a list of models and
keys."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "made-up"


@dataclass
class Asked:
    """What the server was asked, in order of arrival."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextlib.contextmanager
def scoring_server(
    logprob: Callable[[Sequence[int], int], float], *, max_model_len: int | None = None, status: int = 200
) -> Iterator[Asked]:
    """A server of MODEL that is up inside the block.

    Args:
        logprob: of the token at a position of a prompt.
        status: of every reply to a prompt.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send({"data": [{"id": MODEL, "max_model_len": max_model_len}]}, 200)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.bodies.append(body)
            told.keys.append(self.headers["Authorization"])
            (tokens,) = body["prompt"]
            values = [None, *(logprob(tokens, position) for position in range(1, len(tokens))), -9.0]
            best = [None if value is None else {"best": value} for value in values]
            choice = {"index": 0, "text": "", "logprobs": {"token_logprobs": values, "top_logprobs": best}}
            self._send({"choices": [choice]}, status)

        def _send(self, value: dict[str, Any], status: int) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told = Asked(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
