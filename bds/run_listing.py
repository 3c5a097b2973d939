"""`bds ls runs`: the runs below a folder or bucket, each as its own directory tells; a damaged one is told as such."""

from collections.abc import Iterator

from bds.errors import BdsError, PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC
from bds.runs.lease import LEASE
from bds.runs.manifest import MANIFEST
from bds.runs.messages import first_line
from bds.runs.status import run_state
from bds.status import how_far

_MARKS = {SPEC, LEASE, MANIFEST}
"""What makes a folder a run's, or what is left of one."""

_DEPTH = 2
"""Folders between the one that is listed and a run's: a study's own steps lie deeper and are told by `bds status`."""


def list_runs(folder: str) -> list[dict[str, str]]:
    """One dict of texts a run: run, kind, name, state, when and how far, the last begun first.

    Raises:
        PreflightError: there is no such folder, or no run in it.
    """
    found = [_row(uri) for uri in _runs_in(RunDirectory(folder))]
    if not found:
        raise PreflightError(f"there is no run in {folder}; name the folder that holds run directories")
    return sorted(found, key=lambda row: row["when"], reverse=True)


def _runs_in(place: RunDirectory, depth: int = 0) -> Iterator[str]:
    entries = place.entries()
    if _MARKS & entries.keys():
        yield place.uri
    elif depth < _DEPTH:
        for name, is_folder in entries.items():
            if is_folder and not name.startswith("."):
                yield from _runs_in(RunDirectory(f"{place.uri}/{name}"), depth + 1)


def _row(uri: str) -> dict[str, str]:
    try:
        state, _ = run_state(RunDirectory(uri))
    except (BdsError, AttributeError, TypeError, ValueError, KeyError) as error:
        return {"run": uri, "kind": "", "name": "", "state": "damaged", "when": "", "how far": first_line(error)}
    return {
        "run": uri,
        "kind": state.kind,
        "name": state.name,
        "state": state.state,
        "when": state.started[:19].replace("T", " "),
        "how far": how_far(uri),
    }
