"""Scorers for the Ray tests: the example's scores, with a log of every call and accidents at chosen shards."""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bds.errors import BdsError, PreflightError
from tests.unit.runs_example import score

Scored = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Accidents:
    """First rows of the shards to which something happens."""

    die_once: int = -1
    die_always: int = -1
    raise_once: int = -1
    raise_always: int = -1
    user_mistake: int = -1
    seconds: float = 0.0


def load(calls: str, accidents: Accidents) -> Callable[[pl.DataFrame], Scored]:
    return functools.partial(score_with_accidents, calls, accidents)


def load_nothing(calls: str) -> Callable[[pl.DataFrame], Scored]:
    with open(calls, "a") as file:
        file.write("load\n")
    raise PreflightError("model.path: there is no model in /nowhere")


def load_with_a_bug() -> Callable[[pl.DataFrame], Scored]:
    raise RuntimeError("size mismatch\nand much more")


def score_with_accidents(calls: str, accidents: Accidents, table: pl.DataFrame) -> Scored:
    first_row = int(table["row_index"][0])
    # One short write to a file opened for appending is whole, whoever else writes.
    with open(calls, "a") as file:
        file.write(f"{first_row} {os.getpid()}\n")
    earlier = first_rows_called(calls).count(first_row) - 1
    time.sleep(accidents.seconds)
    if first_row == accidents.die_always or (first_row == accidents.die_once and earlier == 0):
        os._exit(1)
    if first_row == accidents.raise_always or (first_row == accidents.raise_once and earlier == 0):
        raise RuntimeError("a batch broke")
    if first_row == accidents.user_mistake:
        raise BdsError("the tokenizer of the model is gone")
    return score(table)


def first_rows_called(calls: str) -> list[int]:
    return [int(line.split()[0]) for line in Path(calls).read_text().splitlines()]


def pids_called(calls: str) -> set[int]:
    return {int(line.split()[1]) for line in Path(calls).read_text().splitlines()}
