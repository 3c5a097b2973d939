"""The report of a study: study.json, completed with its verdict, and the pages that are made of it alone."""

from collections.abc import MutableMapping
from typing import Any

from bds.runs.directory import RunDirectory

RESULTS = "study.json"
PAGE = "report.html"


def write_study_report(run: RunDirectory, results: MutableMapping[str, Any]) -> str:
    """Writes study.json and the pages. The same results give the same bytes.

    Returns:
        Where report.html is.
    """
    run.write_json(RESULTS, dict(results))
    return run.url_of(PAGE)


def rewrite_study_report(run: RunDirectory) -> str:
    """Writes the pages again from study.json, computing nothing; where report.html is.

    Raises:
        FileNotFoundError: the study has not come as far as its report.
    """
    results: dict[str, Any] = run.read_json(RESULTS)
    return write_study_report(run, results)
