"""The report of a study: study.json, completed with its verdict, and the files that are made of it alone.

report.html is the page, report.md the same in Markdown, charts/ every picture with the numbers it is drawn from.
"""

import json
from collections.abc import MutableMapping
from typing import Any

from bds.report.study_verdict import study_verdict
from bds.runs.directory import RunDirectory, readable_json

RESULTS = "study.json"
PAGE = "report.html"
MARKDOWN = "report.md"
CHARTS = "charts"


def write_study_report(run: RunDirectory, results: MutableMapping[str, Any]) -> str:
    """Sets results["verdict"] and writes all files. The same results give the same bytes.

    Returns:
        Where report.html is.
    """
    # Names are in another order once they are read from the file, and the same sentences are wanted then.
    results["verdict"] = study_verdict(json.loads(readable_json(dict(results))))
    run.write_json(RESULTS, dict(results))
    return _write_pages(run)


def rewrite_study_report(run: RunDirectory) -> str:
    """Writes all files again from study.json, computing nothing but the sentences; where report.html is.

    Raises:
        FileNotFoundError: the study has not come as far as its report.
    """
    results: dict[str, Any] = run.read_json(RESULTS)
    return write_study_report(run, results)


def _write_pages(run: RunDirectory) -> str:
    from bds.report.study_document import Study
    from bds.report.study_markdown import study_markdown
    from bds.report.study_page import render_study, study_charts  # matplotlib and Jinja take half a second to import

    study = Study(run.read_json(RESULTS))
    charts = study_charts(study)
    files = {name: content for chart in charts.all for name, content in chart.files.items()}
    for name in run.list(CHARTS):
        if name not in files:
            run.delete(name)  # of an earlier report, which had other charts
    for name, content in files.items():
        run.write_bytes(name, content)
    run.write_bytes(MARKDOWN, study_markdown(study, charts).encode())
    run.write_bytes(PAGE, render_study(study, charts).encode())
    return run.url_of(PAGE)
