"""An OpenAI-compatible server on the loopback interface that answers by a rule and fails on demand."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, str], str | None]
"""From the model's name and the last turn (or the prompt) to the answer; None is null content."""

Fault = Callable[[str, int], str | None]
"""From the prompt and how often it was asked before to a fault: a status, "half", "hang", "garbage" or None."""


class FakeEndpoint:
    """What the server saw."""

    def __init__(self, answer: Answer, fault: Fault) -> None:
        self.answer = answer
        self.fault = fault
        self.asked: Counter[str] = Counter()
        """Requests by prompt."""
        self.answered: Counter[str] = Counter()
        """Whole replies by prompt."""
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self.released = threading.Event()
        """Ends what hangs."""


def refuse_or_answer(model: str, prompt: str) -> str:
    return f"I'm sorry, I cannot help with that. ({model})" if "vor" in prompt else f"Here is how: {prompt[:20]}"


@contextlib.contextmanager
def fake_endpoint(
    answer: Answer = refuse_or_answer, fault: Fault = lambda prompt, before: None
) -> Iterator[FakeEndpoint]:
    endpoint = FakeEndpoint(answer, fault)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"] if "messages" in body else str(body["prompt"])
            with lock:
                endpoint.bodies.append(body)
                before = endpoint.asked[prompt]
                endpoint.asked[prompt] += 1
            fault = endpoint.fault(prompt, before)
            if fault == "hang":
                endpoint.released.wait(30)
                self.close_connection = True
                return
            if fault is not None and fault.isdigit():
                self._send(int(fault), json.dumps({"error": {"message": f"about {prompt}"}}).encode())
                return
            if fault == "garbage":
                self._send(200, b"<html>busy</html>")
                return
            text = endpoint.answer(body["model"], prompt)
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
            choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
            whole = json.dumps(
                {"choices": [choice], "usage": {"completion_tokens": len((text or "").split())}}
            ).encode()
            if fault == "half":
                self.send_response(200)
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                self.wfile.write(whole[: len(whole) // 2])
                self.close_connection = True
                return
            with lock:
                endpoint.answered[prompt] += 1
            self._send(200, whole)

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
