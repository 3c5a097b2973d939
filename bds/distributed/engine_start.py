"""A vLLM engine of Ray Data's whose start may fail: the reason comes back as data, in one line.

Ray prints the traceback of an actor's constructor to stdout and tries it again. And where vLLM's own process fails, as
it does when memory runs out, its exception says no more than that; the reason stands in the actor's log.
"""

import os
import re
from collections.abc import AsyncIterator
from typing import Any

ERROR = "__inference_error__"
"""Ray Data LLM's column: a row in which it is not empty passes every stage as it is."""

NOT_STARTED = "the engine did not start: "
"""How the error of a row begins that no engine was there for."""

_LOG_END = 1 << 16
_LOGGED_BY = r"^(?:\(\S+ pid=\d+\)\s)?(?:ERROR\s.*?\]\s)?"
_EXCEPTION = re.compile(_LOGGED_BY + r"((?:\w+\.)*\w+(?:Error|Exception): .+)$", re.MULTILINE)
_LONGEST = 400


def reporting_its_start(engine: Any) -> Any:
    """The class of Ray Data LLM's engine stage, but that a start which failed is the error of every row."""

    class Engine(engine):
        def __init__(self, **arguments: Any) -> None:
            self._failure = ""
            try:
                super().__init__(**arguments)
            except Exception as error:  # vLLM raises whatever its parts raise
                self._failure = NOT_STARTED + _reason(error)

        async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
            if not self._failure:
                async for row in super().udf(batch):
                    yield row
                return
            for row in batch:
                yield {self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN], ERROR: self._failure}

    return Engine


def _reason(error: Exception) -> str:
    """Of an exception of this process its first two lines, of vLLM's own process what it logged last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = f"{type(error).__name__}: {' '.join(lines[:2])}"
    logged = _EXCEPTION.findall(_end_of_log()) if "core" in own.lower() else []
    return (logged[-1] if logged else own).partition(" [type=")[0][:_LONGEST].rstrip(" .")


def _end_of_log() -> str:
    """What this process and its children wrote last to stderr; empty where that is no file."""
    try:
        path = os.readlink("/proc/self/fd/2")
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - _LOG_END))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
