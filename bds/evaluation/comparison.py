"""Two evaluations against each other: "contrasts" and "compared" of compare.json.

Only the same prompts by the same judges are compared; what differs is refused, not adjusted for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from bds.errors import SpecError
from bds.evaluation.contrasts import contrasts
from bds.evaluation.prompt_values import prompt_values
from bds.evaluation.study import Arm, Layout, Options, arms_of, groups_of, in_order, reported, suite_kinds

_SHOWN = 12
"""Characters of a hash."""

_WAYS_OUT = {
    "suite": "its prompts differ; evaluate both runs with the same file",
    "judge": "its model, its wording or its reading of replies differs; judge both runs with the same one",
}


@dataclass(frozen=True)
class RunRows:
    """The measurements of one evaluation."""

    name: str
    """Told behind the names of its groups."""
    rows: pl.DataFrame
    """rows.parquet."""
    layout: Layout


def compare_runs(
    a: RunRows, b: RunRows, options: Options, groups: Sequence[tuple[str, str]] | None = None
) -> dict[str, Any]:
    """The contrasts of groups of A with groups of B, on the suites and judges that both runs have.

    `compared` names the runs, suites and judges, what only one of the runs has, and the pairs of groups, each with
    `same_weights`: then it is an A/A comparison, whose difference is the noise of measuring.

    Args:
        options: `baseline` is not read; the primary judge heads the comparison where both runs have it.
        groups: pairs of a group of A and one of B; left out, each group that both have with itself, or where each run
            has a single group, these two.

    Raises:
        SpecError: a suite or a judge of one name is not the same in both, there is nothing to compare or no such group,
            or both runs have one name.
    """
    if a.name == b.name:
        raise SpecError(f"both runs are {a.name}; give two different ones")
    suites = _common(a, b, "suite", "suite_sha256", b.layout.suites)
    judges = _common(a, b, "judge", "judge_fingerprint", b.layout.judges)
    if not suites or not judges:
        raise SpecError(f"{a.name} and {b.name} have no suite and judge in common, so there is nothing to compare")
    pairs = _pairs(a, b, groups)
    sides = [_labelled(run, suites, judges) for run in (a, b)]
    rows = pl.concat([side.rows for side in sides])
    layout = Layout(
        conditions=[name for side in sides for name in side.layout.conditions],
        suites=[*b.layout.suites],
        judges=[*b.layout.judges],
        scales={**a.layout.scales, **b.layout.scales},
    )
    arms = arms_of(rows, layout)
    labelled = [(_label(one, a), _label(other, b)) for one, other in pairs]
    values = prompt_values(reported(rows, layout), layout)
    members = groups_of(arms)
    return {
        "contrasts": contrasts(values, arms, labelled, suite_kinds(rows), options),
        "compared": {
            "a": a.name,
            "b": b.name,
            "suites": suites,
            "judges": judges,
            "only_in_a": _left_out(a, suites, judges),
            "only_in_b": _left_out(b, suites, judges),
            "pairs": [
                {"a": one, "b": other, "same_weights": _fingerprints(members[one]) == _fingerprints(members[other])}
                for one, other in labelled
            ],
        },
    }


def _common(a: RunRows, b: RunRows, column: str, hashes: str, order: Sequence[str]) -> list[str]:
    """Names that both have. Raises SpecError where one of them stands for two things."""
    of_a, of_b = (dict(run.rows.select(column, hashes).unique().sort(column, hashes).iter_rows()) for run in (a, b))
    common = [name for name in in_order(of_b, order) if name in of_a]
    for name in common:
        if of_a[name] != of_b[name]:
            raise SpecError(
                f"the {column} {name} of {a.name} ({of_a[name][:_SHOWN]}) is not that of {b.name} "
                f"({of_b[name][:_SHOWN]}): {_WAYS_OUT[column]}"
            )
    return common


def _pairs(a: RunRows, b: RunRows, asked: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    of_a, of_b = (list(groups_of(arms_of(run.rows, run.layout))) for run in (a, b))
    for name, known, run in [each for one, other in asked or () for each in ((one, of_a, a), (other, of_b, b))]:
        if name not in known:
            raise SpecError(f"{run.name} has no group {name}; it has {', '.join(known)}")
    if asked is not None:
        return list(asked)
    if len(of_a) == len(of_b) == 1:
        return [(of_a[0], of_b[0])]
    pairs = [(name, name) for name in of_a if name in of_b]
    if not pairs:
        raise SpecError(
            f"{a.name} ({', '.join(of_a)}) and {b.name} ({', '.join(of_b)}) share no group's name; say which groups to "
            "compare"
        )
    return pairs


def _labelled(run: RunRows, suites: Sequence[str], judges: Sequence[str]) -> RunRows:
    """What is compared of a run, its conditions and groups told from the other's."""
    rows = run.rows.filter(pl.col("suite").is_in(suites), pl.col("judge").is_in(judges)).with_columns(
        pl.col("condition", "group") + _label("", run)
    )
    conditions = [_label(name, run) for name in run.layout.conditions]
    return RunRows(run.name, rows, replace(run.layout, conditions=conditions))


def _left_out(run: RunRows, suites: Sequence[str], judges: Sequence[str]) -> dict[str, list[str]]:
    return {
        "suites": sorted(set(run.rows["suite"]) - set(suites)),
        "judges": sorted(set(run.rows["judge"]) - set(judges)),
    }


def _label(group: str, run: RunRows) -> str:
    return f"{group} ({run.name})"


def _fingerprints(arms: Sequence[Arm]) -> set[str]:
    return {arm.fingerprint for arm in arms}
