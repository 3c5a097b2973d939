"""lm-eval as a program of its own: what it is given of this process, and its end when this process is told to stop.

In this process it would shut Ray down (its vLLM engine does), and a crash of it would be ours.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from bds.errors import PreflightError
from bds.runs.interrupts import interruptible

_NEEDED = ("lm_eval", "aiohttp", "requests", "tenacity", "tqdm")
"""lm-eval and what its engine for servers imports; without its `api` extra lm-eval installs and then fails."""

_PATHS = (
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "NLTK_DATA",
)
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_KEPT = frozenset((*_PATHS, *_CERTIFICATES, *_PROXIES, "USER", "LANG", "LC_ALL", "OMP_NUM_THREADS"))
_HUB, _HUB_TOKEN = "HF_", "HF_TOKEN"

_SECONDS_TO_END = 10.0


def require_lm_eval() -> None:
    """Raises PreflightError where lm-eval or a package that it asks servers with is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise PreflightError(
            f"utility tasks are run by lm-eval, and {', '.join(missing)} is not installed: "
            'pip install "benign-data-safety[lm-eval]"'
        )


def program(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter. -P: nothing in the working folder replaces a package."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment(base_url: str | None = None, api_key: str | None = None) -> dict[str, str]:
    """The variables of the child: what finds programs, packages, caches and proxies, and of secrets only its key.

    The hub's token goes with them only where the hub may be asked (HF_HUB_OFFLINE is not set). The server at
    `base_url` is asked directly, whatever proxy leads to the hub. The child sees no GPU: it asks servers.
    """
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_HUB)}
    if kept.get("HF_HUB_OFFLINE", "0") not in {"", "0"}:
        kept.pop(_HUB_TOKEN, None)
    kept |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    host = urlsplit(base_url).hostname if base_url is not None else None
    if host is not None:
        direct = kept.get("NO_PROXY", kept.get("no_proxy", ""))
        kept["NO_PROXY"] = kept["no_proxy"] = f"{direct},{host}" if direct else host
    if api_key is not None:
        kept["OPENAI_API_KEY"] = api_key
    return kept


def run_program(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], on_output: Callable[[str], None]
) -> int:
    """Runs a program to its end and returns its exit status, below 0 where a signal ended it.

    Its files are for their owner only. Whatever raises here, SIGINT and SIGTERM included, ends its process group.

    Args:
        folder: its working folder.
        on_output: called with each line of its stdout and stderr; a carriage return ends a line, too.
    """
    with interruptible():
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            umask=0o077,
        )
        assert child.stdout is not None, "it was asked for"
        try:
            for line in child.stdout:
                on_output(line.rstrip("\n"))
            return child.wait()
        finally:
            _end(child)
            child.stdout.close()


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
