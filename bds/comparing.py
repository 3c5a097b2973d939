"""`bds compare`: two finished evaluations against each other, from what they left on disk."""

from collections.abc import Sequence
from typing import Any

from bds.errors import PreflightError, SpecError
from bds.evaluation.comparison import RunRows, compare_runs
from bds.evaluation.study import Layout, Options
from bds.report.comparison import comparison_metrics, comparison_page, comparison_text
from bds.report.evaluation import METRICS
from bds.runs.directory import RunDirectory

ROWS = "rows.parquet"


def compare(run_a: str, run_b: str, pairs: Sequence[str] = ()) -> tuple[dict[str, Any], str, str]:
    """What A shows against B: the contrasts as JSON, the text for a terminal, and a page.

    Args:
        pairs: `GROUP_OF_A=GROUP_OF_B`; left out, each group that both have.

    Raises:
        SpecError: suites or judges of one name differ, or there is nothing to compare.
        PreflightError: a folder holds no finished evaluation.
    """
    a, (b, measured) = _read(run_a)[0], _read(run_b)
    primary, confidence = measured["primary_judge"], measured["confidence"]
    asked = [_pair(each) for each in pairs] or None
    found = compare_runs(a, b, Options(baseline=None, primary_judge=primary, confidence=confidence), asked)
    metrics = comparison_metrics(found, primary, confidence)
    return {**found, "verdict": metrics["verdict"]}, comparison_text(metrics), comparison_page(metrics)


def _read(run_dir: str) -> tuple[RunRows, dict[str, Any]]:
    run = RunDirectory(run_dir)
    try:
        metrics: dict[str, Any] = run.read_json(METRICS)
        rows = run.read_table(ROWS)
    except FileNotFoundError as error:
        raise PreflightError(
            f"{run_dir} holds no finished evaluation (it has no {METRICS} and {ROWS}); name the run directory of a "
            "`bds evaluate` that has ended"
        ) from error
    if "conditions" not in metrics:
        raise PreflightError(f"{run_dir} holds another kind of run; name the run directory of a `bds evaluate`")
    return RunRows(run_dir, rows, Layout.of_metrics(metrics)), metrics


def _pair(written: str) -> tuple[str, str]:
    a, separator, b = written.partition("=")
    if not separator or not a or not b:
        raise SpecError(f"--pair {written}: this names no two groups; write --pair GROUP_OF_A=GROUP_OF_B")
    return a, b
