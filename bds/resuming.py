"""`bds resume`: the spec of a run, from its own directory, ready to be run again or submitted."""

import shlex
from dataclasses import dataclass

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.status import run_state
from bds.spec.identity import AnySpec
from bds.spec.load import resolved_spec
from bds.spec.overrides import Override
from bds.spec.paths import is_uri

_OF_THE_CLUSTER = ("", "auto")
"""Addresses that mean the cluster that a process is already on."""


@dataclass(frozen=True)
class Resumable:
    """A run that nobody works on."""

    spec: AnySpec
    local: bool
    """It was run without Ray."""


def resumable(uri: str) -> Resumable:
    """The spec of a run, which its directory may have moved from.

    Raises:
        PreflightError: the directory holds no run, or an attempt at it is alive.
        SpecError: it was written by another version of bds.
    """
    run = RunDirectory(uri)
    state, spec = run_state(run)
    if state.state == "running":
        raise PreflightError(
            f"attempt {state.attempt} at {run.uri} is alive on {state.host} (process {state.pid}); look at it with "
            f"`bds status {run.uri}`"
        )
    overrides = []
    if (spec.get("run") or {}).get("dir") is not None and spec["run"]["dir"] != run.uri:
        overrides.append(Override(("run", "dir"), run.uri if is_uri(uri) else str(run.uri), "RUN"))
    if (spec.get("resources") or {}).get("address") in _OF_THE_CLUSTER:
        overrides.append(Override(("resources", "address"), None, "RUN"))
    local = "--local" in shlex.split(state.command)
    return Resumable(resolved_spec(spec, run.url_of("spec.resolved.json"), overrides), local)
