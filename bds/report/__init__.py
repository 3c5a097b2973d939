"""The audit's report: metrics.json and one self-contained HTML page."""

import json
from collections.abc import Callable

from bds.report.flagged import rows_to_explain
from bds.report.inputs import AnchorSetInfo, DetectorInfo, LayerChoice, Manifest, ReportInputs, SelectionInfo
from bds.report.metrics import build_metrics

REPORT_FILES = ("metrics.json", "report.html")

__all__ = [
    "REPORT_FILES",
    "AnchorSetInfo",
    "DetectorInfo",
    "LayerChoice",
    "Manifest",
    "ReportInputs",
    "SelectionInfo",
    "build_metrics",
    "rows_to_explain",
    "write_report",
]


def write_report(inputs: ReportInputs, write: Callable[[str, bytes], None]) -> None:
    """Writes REPORT_FILES through `write(name, content)`; the same inputs give the same bytes."""
    from bds.report.page import render_page  # matplotlib and Jinja take half a second to import

    metrics = build_metrics(inputs)
    metrics_file, page_file = REPORT_FILES
    write(metrics_file, (json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write(page_file, render_page(inputs, metrics).encode())
