"""The training curve: what each optimiser step reported, as the rows of a CSV file that gives back the same floats."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Literal, get_args

Kind = Literal["task", "alignment"]


@dataclass(frozen=True)
class Trained:
    """What one optimiser step took, all workers together."""

    rows: int
    tokens: int
    operations: float
    """Of floating point, by every parameter of the model."""


@dataclass(frozen=True)
class CurvePoint:
    """One optimiser step."""

    stage: str
    step: int
    """From 1, within the stage."""
    epoch: float
    """Epochs done after the step, within the stage; 1.5 is in the middle of the second."""
    kind: Kind
    """`alignment` for a step on a mitigation's refusals, `task` for one on the data."""
    loss: float
    """Mean cross-entropy per supervised token of the step's whole batch, in nats."""
    learning_rate: float
    gradient_norm: float | None
    samples_seen: int
    """After the step, over all stages so far."""


COLUMNS = tuple(field.name for field in fields(CurvePoint))


def curve_csv(points: Sequence[CurvePoint]) -> str:
    """A header and a line for each point; floats in the shortest decimals that read back as the same float."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_written(value) for value in astuple(point)] for point in points)
    return text.getvalue()


def read_curve(text: str) -> list[CurvePoint]:
    """The points that `curve_csv` wrote. Raises ValueError, naming the line, where the text is something else."""
    lines = csv.reader(io.StringIO(text, newline=""))
    header = next(lines, [])
    if header != list(COLUMNS):
        raise ValueError(f"a curve begins with the columns {', '.join(COLUMNS)}, not with {', '.join(header)!r}")
    points = []
    for line in lines:
        try:
            points.append(_point(*line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"line {lines.line_num} of the curve cannot be read: {error}") from error
    return points


def _written(value: str | int | float | None) -> str:
    if isinstance(value, float):
        return repr(float(value))  # a numpy float is a float, too, and its own repr names its type
    return "" if value is None else str(value)


def _point(
    stage: str,
    step: str,
    epoch: str,
    kind: str,
    loss: str,
    learning_rate: str,
    gradient_norm: str,
    samples_seen: str,
) -> CurvePoint:
    return CurvePoint(
        stage,
        int(step),
        float(epoch),
        _kind(kind),
        float(loss),
        float(learning_rate),
        float(gradient_norm) if gradient_norm else None,
        int(samples_seen),
    )


def _kind(text: str) -> Kind:
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        if text == kind:
            return kind
    raise ValueError(f"{text!r} is no kind of step; there are {' and '.join(kinds)}")
