"""The fine-tunes of a run on one page: finetunes.json (what the page is made of), summary.json and report.html.

A result is what a fine-tune's result.json holds, a failure its id and names with a reason, and a curve the rows of its
curve.csv, all as plain dictionaries.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from bds.report.finetunes_summary import finetunes_summary
from bds.runs.directory import RunDirectory

INPUTS = "finetunes.json"
SUMMARY = "summary.json"
PAGE = "report.html"

POINTS_DRAWN = 200
"""Most points of one line; a longer curve is drawn as means of equal groups of steps, and curve.csv has them all."""


def write_finetune_report(
    run: RunDirectory,
    results: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Writes the three files of the report. The same inputs give the same bytes.

    Args:
        results: of the finished fine-tunes.
        failures: of the others.
        curves: by the id of the fine-tune.

    Returns:
        Where report.html is.
    """
    lines = {name: curve_lines(points) for name, points in curves.items()}
    run.write_json(INPUTS, {"results": list(results), "failures": list(failures), "curves": lines})
    return rewrite_finetune_report(run)


def rewrite_finetune_report(run: RunDirectory) -> str:
    """Writes summary.json and report.html from finetunes.json, recomputing nothing; where report.html is.

    Raises:
        FileNotFoundError: the run has not come as far as its report.
    """
    from bds.report.finetunes_page import render_finetunes  # matplotlib and Jinja take half a second to import

    inputs: dict[str, Any] = run.read_json(INPUTS)
    summary = finetunes_summary(inputs["results"], inputs["failures"])
    run.write_json(SUMMARY, summary)
    name = run.uri.replace("\\", "/").rstrip("/").rpartition("/")[2]
    page = render_finetunes(name, inputs["results"], inputs["failures"], inputs["curves"], summary)
    run.write_bytes(PAGE, page.encode())
    return run.url_of(PAGE)


def curve_lines(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A curve as lines to draw, one for each stage and kind of step: stage, kind, samples_seen and loss."""
    lines = []
    for stage, kind in dict.fromkeys((point["stage"], point["kind"]) for point in points):
        own = [point for point in points if (point["stage"], point["kind"]) == (stage, kind)]
        groups = [own[start:end] for start, end in _equal_parts(len(own), min(len(own), POINTS_DRAWN))]
        lines.append(
            {
                "stage": stage,
                "kind": kind,
                "samples_seen": [group[-1]["samples_seen"] for group in groups],
                "loss": [sum(point["loss"] for point in group) / len(group) for group in groups],
            }
        )
    return lines


def _equal_parts(items: int, parts: int) -> Iterator[tuple[int, int]]:
    """Bounds of parts whose sizes differ by one at most."""
    return pairwise(items * part // parts for part in range(parts + 1))
