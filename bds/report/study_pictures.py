"""The charts of a study that compare fine-tunes: who breaks whom, by selection, by amount, and with a defence."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bds.report.evaluation_figures import RateLine, rate_picture
from bds.report.evaluation_measured import Series, series_of
from bds.report.evaluation_words import words_of
from bds.report.study_charts import Chart, make_chart
from bds.report.study_curve_figures import Curve, curve_picture
from bds.report.study_defence_figures import Point, defence_picture
from bds.report.study_document import RANKED, Study
from bds.report.study_heat_maps import transfer_picture
from bds.report.study_words import average_told, name_of, note_of, title_of

LINES_A_CHART = 16
"""Cells of one picture; a target with more has several."""

_CURVE_OF = ("dataset", "target", "recipe", "mitigation", "then")
"""What is alike in all lines of a dose picture."""

_RATE_OF = ("dataset", "target", "mitigation", "then")


def transfer_charts(study: Study) -> list[Chart]:
    """One for every matrix, the strongest first."""
    charts = []
    for matrix in study.matrices:
        series = series_of(matrix)
        words = words_of(series.metric)
        chosen = study.input_label(matrix)
        means = [
            f"{name} {average_told(matrix['averages'][key], words)}"
            for name, key in (("its own choice on average", "own"), ("another's choice", "transfer"))
            if matrix["averages"][key]["entries"]
        ]
        picture = transfer_picture(f"Transfer of {chosen}: {name_of(series)} above the control", matrix, words)
        charts.append(
            make_chart(
                ("transfer", *_names(matrix, ("dataset", "selection", "recipe", "mitigation", "then")), series.suite),
                chosen,
                picture,
                [
                    {
                        **{name: matrix[name] for name in ("dataset", "selection", "recipe", "mitigation", "then")},
                        **series._asdict(),
                        **entry,
                    }
                    for entry in matrix["entries"]
                ],
                note=note_of(series),
                caption=f"A model fine-tuned on {'; on '.join(means)}." if means else "",
            )
        )
    return charts


def selection_charts(study: Study, series: Series) -> list[Chart]:
    """The cells of every target and dataset, the highest first; the model before fine-tuning opens each picture.

    The first pictures of all targets stand before the second ones.
    """
    datasets = dict.fromkeys(cell["dataset"] for cell in study.cells.values())
    parts = [
        (place, chart)
        for dataset in datasets
        for target in study.targets
        for place, chart in enumerate(_of_target(study, target, dataset, series))
    ]
    return [chart for _, chart in sorted(parts, key=lambda part: part[0])]


def dose_charts(study: Study) -> list[Chart]:
    """All ways of choosing from one dataset, of one target and recipe, over the number of samples."""
    return _curve_charts(study, study.document["doses"], _CURVE_OF, "dose")


def rate_charts(study: Study) -> list[Chart]:
    """The same over the learning rate."""
    return _curve_charts(study, study.document["rates"], _RATE_OF, "rates")


def defence_charts(study: Study) -> list[Chart]:
    """Attack success against over-refusal and against right answers, of every target and input."""
    charts = []
    for chart in study.document["defences"]:
        of_input = study.input_label(chart) + (f" by {chart['scorer']}" if chart["scorer"] else "")
        for key, metric, axis in (
            ("accuracy", "correct", "right answers to harmless questions"),
            ("over_refusal", "over_refusal", "harmless prompts refused"),
        ):
            shown = [each for each in chart["points"] if _is_known(each, "attack_success") and _is_known(each, key)]
            if len(shown) < 2:
                continue
            points = [
                Point(each["name"], _ends(each[key]), _ends(each["attack_success"]), _kind(each)) for each in shown
            ]
            title = f"{chart['target']}: {of_input}"
            success = words_of("attack_success")
            charts.append(
                make_chart(
                    ("defences", key, chart["target"], *_names(chart, ("dataset", "selection", "scorer", "recipe"))),
                    title,
                    defence_picture(f"Attack success over {axis}, {title}", axis, points, words_of(metric), success),
                    [_point_row(chart, each, key) for each in shown],
                    note=f"attack success over {axis}",
                    caption="Best is low and to the right." if key == "accuracy" else "Best is low and to the left.",
                )
            )
    return charts


def _of_target(study: Study, target: str, dataset: str, series: Series) -> Iterator[Chart]:
    words = words_of(series.metric)
    base = study.base(target, series)
    cells = study.strongest([cell for cell in study.of_target(target) if cell["dataset"] == dataset], series)
    size = math.ceil(len(cells) / max(1, math.ceil(len(cells) / LINES_A_CHART)))
    parts = [cells[start : start + size] for start in range(0, len(cells), size)] if cells else []
    for place, part in enumerate(parts):
        lines = [] if base is None else [_line("before fine-tuning", base, baseline=True)]
        rows = [] if base is None else [_measured_row(None, target, base, series)]
        for cell in part:
            measured = study.measured(cell["id"], series)
            assert measured is not None, "the strongest were measured"
            lines.append(_line(study.label(cell, dataset=False), measured, control=study.is_control(cell)))
            rows.append(_measured_row(cell, target, measured, series))
        further = f" ({place + 1} of {len(parts)})" if len(parts) > 1 else ""
        yield make_chart(
            ("selections", target, dataset, series.suite, *([str(place + 1)] if place else [])),
            f"{target}: {dataset}{further}",
            rate_picture(f"{title_of(series)} of {target} after training on {dataset}", lines, words, None),
            rows,
            note=note_of(series),
        )


def _line(name: str, measured: Mapping[str, Any], *, baseline: bool = False, control: bool = False) -> RateLine:
    seeds = tuple(value for value in measured["by_seed"].values() if value is not None)
    return RateLine(name, measured["value"], measured["low"], measured["high"], seeds, None, baseline, control)


def _measured_row(
    cell: Mapping[str, Any] | None, target: str, measured: Mapping[str, Any], series: Series
) -> dict[str, Any]:
    names = ("dataset", "selection", "scorer", "recipe", "mitigation", "then")
    seeds = "; ".join(f"{name}={value}" for name, value in measured["by_seed"].items() if value is not None)
    what = {"selection": "before fine-tuning"} if cell is None else {name: cell[name] for name in names}
    return {
        "target": target,
        **{name: what.get(name) for name in names},
        **series._asdict(),
        **{name: measured[name] for name in ("value", "low", "high", "seeds", "method")},
        "by_seed": seeds,
        "cell": cell and cell["id"],
    }


def _curve_charts(study: Study, curves: Sequence[Mapping[str, Any]], by: Sequence[str], kind: str) -> list[Chart]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for curve in curves:
        groups.setdefault((series_of(curve), *(curve[name] for name in by)), []).append(curve)
    order = {series: place for place, series in enumerate(study.series)}
    charts = []
    for key, members in sorted(groups.items(), key=lambda item: order.get(item[0][0], len(order))):
        series: Series = key[0]
        chosen = dict(zip(by, key[1:], strict=True))
        base = study.base(chosen["target"], series)
        lines = [Curve(_way(study, each), _is_control(study, each), each["points"]) for each in members]
        lines.sort(key=lambda line: (line.control, -max(point["value"] or 0.0 for point in line.points)))
        title = f"{chosen['target']}: {study.input_label(chosen)}"
        along = members[0]["along"]
        base_value = None if base is None else base["value"]
        charts.append(
            make_chart(
                (kind, *_names(chosen, by), series.suite),
                title,
                curve_picture(
                    f"{title_of(series)} over the {along.replace('_', ' ')}, {title}",
                    lines,
                    along,
                    words_of(series.metric),
                    base=base_value,
                ),
                [_curve_row(each, point, by, series) for each in members for point in each["points"]],
                note=note_of(series),
            )
        )
    return charts


def _way(study: Study, curve: Mapping[str, Any]) -> str:
    """What tells the lines of one picture apart."""
    scorer = f" by {curve['scorer']}" if curve["scorer"] is not None else ""
    if curve["along"] == "learning_rate":
        return f"{curve['selection']}{scorer}"
    detector = f", {curve['detector']}" if curve["detector"] else ""
    return f"{curve['kind'].replace('_', ' ')}{scorer}{detector}"


def _is_control(study: Study, curve: Mapping[str, Any]) -> bool:
    kind = curve.get("kind") or study.document["selections"].get(curve["selection"], {}).get("kind", "")
    return kind not in RANKED


def _curve_row(curve: Mapping[str, Any], point: Mapping[str, Any], by: Sequence[str], series: Series) -> dict[str, Any]:
    way = ("kind", "detector", "scorer") if curve["along"] == "samples" else ("selection", "scorer")
    seeds = "; ".join(f"{name}={value}" for name, value in point["by_seed"].items() if value is not None)
    return {
        **{name: curve[name] for name in (*by, *way)},
        **series._asdict(),
        **{name: point[name] for name in (curve["along"], "value", "low", "high", "seeds")},
        "by_seed": seeds,
        "cell": point["cell"],
    }


def _is_known(point: Mapping[str, Any], key: str) -> bool:
    return point[key] is not None and point[key]["value"] is not None


def _ends(measured: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return measured["value"], measured["low"], measured["high"]


def _kind(point: Mapping[str, Any]) -> str:
    return "base" if point["cell"] is None else "undefended" if point["undefended"] else "defended"


def _point_row(chart: Mapping[str, Any], point: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {
        **{name: chart[name] for name in ("target", "dataset", "selection", "scorer", "recipe", "then")},
        "defence": point["name"],
        "undefended": point["undefended"],
        **{f"attack_success_{name}": point["attack_success"][name] for name in ("value", "low", "high")},
        **{f"{key}_{name}": point[key][name] for name in ("value", "low", "high")},
        "cell": point["cell"],
    }


def _names(owner: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [str(owner[name]) for name in names if owner[name] and not (name == "mitigation" and owner[name] == "none")]
