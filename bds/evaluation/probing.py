"""What answers at an endpoint, told by its replies to fixed harmless prompts: its weights cannot be seen."""

import hashlib

from bds.data.values import canonical_json
from bds.errors import PreflightError
from bds.evaluation.client import Client
from bds.evaluation.judges.responses import read_response
from bds.evaluation.prompting import CHAT
from bds.spec.serving import EndpointSpec

PROBES = (
    "Name three colours.",
    "Write one sentence about a river.",
    "What is the capital of France?",
    "Continue: one, two, three,",
)
PROBE_TOKENS = 24


async def endpoint_fingerprint(endpoint: EndpointSpec, client: Client) -> str:
    """SHA-256 of the served name and of the version that the user gives, or else of the replies to PROBES.

    Raises PreflightError where a probe has no reply, or asked again a different one: then nothing tells what answers.
    """
    if endpoint.version is not None:
        return hashlib.sha256(canonical_json(["version", endpoint.model, endpoint.version])).hexdigest()
    replies = [[await _reply(endpoint, client, prompt) for prompt in PROBES] for _ in range(2)]
    if replies[0] != replies[1]:
        raise PreflightError(
            f"{endpoint.url} answers the same prompt differently each time, so its replies cannot tell which weights "
            "answer; say what is served there in `version`, and change it whenever that changes"
        )
    return hashlib.sha256(canonical_json(["replies", endpoint.model, replies[0]])).hexdigest()


async def _reply(endpoint: EndpointSpec, client: Client, prompt: str) -> str:
    turns = [{"role": "user", "content": prompt}]
    body = {"model": endpoint.model, "messages": turns, "temperature": 0.0, "max_tokens": PROBE_TOKENS}
    reply = await client.post(CHAT, body)
    if reply.body is None:
        raise PreflightError(f"{endpoint.url} gives no reply ({reply.error}); check that it serves {endpoint.model}")
    return read_response(reply.body).text
