"""The report of an evaluation: metrics.json, completed with its verdict, and report.html, which is made of it alone."""

from collections.abc import MutableMapping
from typing import Any

from bds.report.evaluation_verdict import evaluation_verdict
from bds.runs.directory import RunDirectory

METRICS = "metrics.json"
PAGE = "report.html"


def write_evaluation_report(run: RunDirectory, metrics: MutableMapping[str, Any]) -> str:
    """Sets metrics["verdict"] and writes both files. The same metrics give the same bytes.

    Returns:
        Where report.html is.
    """
    metrics["verdict"] = evaluation_verdict(metrics)
    run.write_json(METRICS, dict(metrics))
    return _write_page(run)


def rewrite_evaluation_report(run: RunDirectory) -> str:
    """Writes both files again from metrics.json, computing nothing but the sentences; where report.html is.

    Raises:
        FileNotFoundError: the run has not come as far as its report.
    """
    metrics: dict[str, Any] = run.read_json(METRICS)
    return write_evaluation_report(run, metrics)


def _write_page(run: RunDirectory) -> str:
    from bds.report.evaluation_page import render_evaluation  # matplotlib and Jinja take half a second to import

    run.write_bytes(PAGE, render_evaluation(run.read_json(METRICS)).encode())
    return run.url_of(PAGE)
