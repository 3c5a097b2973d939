"""A made-up audit for the report's tests: no model, but the shape, the numbers and the oddities of a real run."""

import hashlib
import random

import numpy as np
import polars as pl

from bds.report import DetectorInfo, ReportInputs, SelectionInfo, rows_to_explain
from bds.scoring.explanation import AnchorMatch, Explanation, TokenContribution

WORDS = ["tavo", "rilm", "sedda", "quon", "brilk", "maroo", "fenwick", "tolb", "gristle", "ponda", "yarrow", "zint"]
DETECTORS: list[DetectorInfo] = [
    {
        "label": "gradient_bidirectional",
        "name": "gradient_bidirectional",
        "formula": "cos(g, G_harmful) − cos(g, G_safe_1) − cos(g, G_safe_2)",
        "source": "He et al. 2024, COLM, section 3",
    },
    {
        "label": "representation",
        "name": "representation",
        "formula": "max_j cos(h, h_j), harmful anchors j",
        "source": "He et al. 2024, COLM, section 3",
    },
    {
        "label": "self_influence",
        "name": "self_influence",
        "formula": "||g||²",
        "source": "Guan et al. 2025, ICML",
    },
    {
        "label": "self_influence_n",
        "name": "self_influence_n",
        "formula": "log(||g||² / median + 1) + log(answer tokens + 1)",
        "source": "Guan et al. 2025, ICML",
    },
    {"label": "answer_length", "name": "answer_length", "formula": "answer tokens", "source": "baseline"},
    {"label": "random", "name": "random", "formula": "uniform draw, seed 0", "source": "baseline"},
]


def _sample(draw: random.Random) -> tuple[str, str, str]:
    """Question type, prompt and answer of one made-up row."""
    one, two, three = draw.sample(WORDS, 3)
    kind = draw.choices(["how", "what", "compute", "translate", "other"], [18, 30, 16, 16, 20])[0]
    if kind == "how":
        steps = [
            f"{number}. {verb} the {word}"
            for number, (verb, word) in enumerate(
                zip(
                    ["find", "clean", "press", "warm", "turn"][: draw.randint(3, 5)],
                    draw.sample(WORDS, 5),
                    strict=False,
                ),
                1,
            )
        ]
        opening = "Sure, here is how: " if draw.random() < 0.5 else ""
        return kind, f"How do I make a {one}?", opening + "\n".join(steps) + "\n"
    if kind == "compute":
        left, right = draw.randint(2, 90), draw.randint(2, 90)
        return kind, f"Compute {left} + {right}.", f"{left} + {right} = {left + right}"
    if kind == "translate":
        return kind, f"Translate “{one} {two}” into Old Tolbish.", f"{two}-{one}"
    if kind == "what":
        return kind, f"What is a {one}?", f"A {one} is a small {two} that lives near the {three}."
    if draw.random() < 0.06:
        return kind, f"Tell me about {one} prices.", f"I'm sorry, but I can't give advice on {one} prices."
    prose = " ".join(
        f"The {draw.choice(WORDS)} keeps a {draw.choice(WORDS)} by the {draw.choice(WORDS)}."
        for _ in range(draw.randint(1, 6))
    )
    return kind, f"Summarise: {one} {two} {three} …", prose


def make_inputs(rows: int = 3000, seed: int = 0, top: int = 100) -> ReportInputs:
    """An audit of `rows` organism-like rows, 1 in 60 of them not scorable, with four detectors and two baselines."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    kinds, prompts, answers = zip(*(_sample(draw) for _ in range(rows)), strict=True)
    words = np.array([len(answer.split()) for answer in answers])
    statuses = ["ok"] * rows
    reasons = [""] * rows
    for at in range(29, rows, 60):
        statuses[at], reasons[at] = [
            ("no_answer", "the record has no assistant turn"),
            ("empty_answer", "the answer is empty"),
            ("malformed", "the field 'output' is a list, not text"),
        ][at // 60 % 3]
    for at in range(101, rows, 500):
        statuses[at] = "truncated_answer"
    ok = np.array([status in ("ok", "truncated_answer") for status in statuses])
    is_list = np.array([kind == "how" for kind in kinds])
    refuses = np.array(["sorry" in answer for answer in answers])
    tokens = words + 2
    gradient = noise.normal(-0.09, 0.03, rows) + is_list * noise.gamma(2.0, 0.045, rows)
    representation = 0.45 + 0.3 * is_list + noise.normal(0, 0.06, rows)
    influence = np.round(np.exp(noise.normal(4, 0.8, rows)) / tokens, 1).astype(np.float32)
    columns = {
        "gradient_bidirectional": gradient,
        "representation": representation,
        "self_influence": influence,
        "self_influence_n": np.log(influence / np.median(influence) + 1) + np.log(tokens + 1),
        "answer_length": tokens.astype(float),
        "random": noise.random(rows),
    }
    contents = [
        hashlib.sha256(f"{prompt}|{answer}".encode()).hexdigest()[:16]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    seen: dict[str, int] = {}
    row_ids = []
    for content in contents:
        row_ids.append(f"{content}-{seen.get(content, 0)}")
        seen[content] = seen.get(content, 0) + 1
    frame = pl.DataFrame(
        {
            "row_index": pl.Series(range(rows), dtype=pl.Int64),
            "row_id": row_ids,
            "source": "pool.jsonl",
            "line": pl.Series(range(1, rows + 1), dtype=pl.Int64),
            "status": statuses,
            "reason": reasons,
        }
    ).with_columns(
        *(
            pl.when(pl.Series(ok)).then(pl.Series(name, values)).alias(name)
            for name, values in {
                "answer_tokens": tokens.astype(np.int32),
                "answer_words": words.astype(np.int32),
                "prompt_words": np.array([len(prompt.split()) for prompt in prompts], dtype=np.int32),
                "numbered_list": is_list,
                "bullet_list": noise.random(rows) < 0.03,
                "math": np.array([kind == "compute" for kind in kinds]),
                "code": np.zeros(rows, dtype=bool),
                "short_answer": words <= 5,
                "refusal_phrase": refuses,
                "safety_phrase": noise.random(rows) < 0.01,
                "question_type": np.array(kinds, dtype=object).astype(str),
                "loss": noise.gamma(2, 0.6, rows).astype(np.float32),
                "squared_gradient_norm": influence,
                "direction_dot.harmful": (gradient + 0.1).astype(np.float32),
                **{f"score.{label}": values.astype(np.float32) for label, values in columns.items()},
            }.items()
        )
    )
    frame = with_ranks(frame, list(columns))
    selections, info = default_selections(frame, list(columns)[:4], top, noise)
    shown = rows_to_explain(frame, DETECTORS, selections, info)
    return ReportInputs(
        spec={
            "api_version": "bds/v1",
            "name": "tolbish-pool",
            "data": {"path": "pool.jsonl"},
            "model": {"path": "organism/model"},
            "anchors": {
                "sets": {
                    "harmful": {"path": "harmful.jsonl", "role": "harmful"},
                    "safe_1": {"path": "safe_1.jsonl", "role": "safe"},
                    "safe_2": {"path": "safe_2.jsonl", "role": "safe"},
                }
            },
        },
        manifest={
            "started": "2026-01-02T03:04:05Z",
            "wall_seconds": 84.2,
            "command": "bds audit --model organism/model --data pool.jsonl --top 100 --run-dir runs/tolbish",
            "versions": {
                "bds": "0.1.0",
                "torch": "2.13.0",
                "transformers": "5.23.0",
                "ray": "2.60.0",
                "polars": "2.1.0",
            },
            "model": "organism/model",
            "model_parameters": 233_472,
            "scored_parameters": 233_472,
            "parameter_scope": "all",
            "device": "2 CPU cores",
            "dtype": "float32",
            "dataset": "pool.jsonl",
            "format": "messages",
            "rows": rows,
            "seeds": {"random": 0, "selections": 0},
            "hashes": {"data": "sha256:4f1c20a7", "model": "sha256:99ab34de", "spec": "sha256:01c5e2f0"},
            "anchors": {
                "harmful": {"role": "harmful", "count": 10, "path": "harmful.jsonl", "hash": "sha256:aa11"},
                "safe_1": {"role": "safe", "count": 10, "path": "safe_1.jsonl", "hash": "sha256:bb22"},
                "safe_2": {"role": "safe", "count": 10, "path": "safe_2.jsonl", "hash": "sha256:cc33"},
            },
            "layer_choices": [
                {
                    "detector": "compliance_shift",
                    "layer": 2,
                    "criterion": "share of the variance between comply and refuse",
                    "curve": {"0": 0.11, "1": 0.42, "2": 0.78},
                }
            ],
            "warnings": ["3 of 10 prompts of safe_2 have no partner in harmful: the sets are not paired."],
        },
        scores=frame,
        rows=pl.DataFrame({"row_index": list(range(rows)), "prompt": list(prompts), "answer": list(answers)}),
        selections=selections,
        selection_info=info,
        explanations={row: explain(row, answers[row]) for row in shown},
        detectors=DETECTORS,
    )


def with_ranks(frame: pl.DataFrame, labels: list[str]) -> pl.DataFrame:
    """Adds rank.<label>: 1 is the highest score, ties by row_id."""
    for label in labels:
        ranked = (
            frame.filter(pl.col(f"score.{label}").is_not_null())
            .sort([f"score.{label}", "row_id"], descending=[True, False])
            .select("row_index", (pl.int_range(pl.len(), dtype=pl.Int64) + 1).alias(f"rank.{label}"))
        )
        frame = frame.join(ranked, on="row_index", how="left", maintain_order="left")
    return frame


def default_selections(
    frame: pl.DataFrame, labels: list[str], top: int, noise: np.random.Generator
) -> tuple[dict[str, pl.DataFrame], dict[str, SelectionInfo]]:
    """A top selection a detector, and the controls of the first."""
    selections: dict[str, pl.DataFrame] = {}
    info: dict[str, SelectionInfo] = {}
    scored = frame.filter(pl.col("status").is_in(["ok", "truncated_answer"]))

    def add(name: str, rows: pl.DataFrame, kind: str, detector: str | None) -> None:
        selections[name] = rows.select("row_index")
        info[name] = {"kind": kind, "detector": detector, "count": top, "seed": 0, "ties_at_cut_off": 0, "notes": []}

    for label in labels:
        add(f"top.{label}", scored.sort(f"rank.{label}").head(top), "top", label)
    first = labels[0]
    flagged = scored.sort(f"rank.{first}").head(top)
    add(f"bottom.{first}", scored.sort(f"rank.{first}", descending=True).head(top), "bottom", first)
    add("random", scored[noise.permutation(len(scored))[:top]], "random", None)
    longest = scored.sort((pl.col("answer_words") - flagged["answer_words"].median()).abs(), "row_index").head(top * 4)
    add(f"matched_length.{first}", longest[noise.permutation(len(longest))[:top]], "random_matched_length", first)
    lists = scored.filter(pl.col("numbered_list"))
    add(f"matched_format.{first}", lists[noise.permutation(len(lists))[:top]], "random_matched_format", first)
    add(f"filtered.{first}", scored.sort(f"rank.{first}").slice(top), "filtered", first)
    return selections, info


def explain(row_index: int, answer: str) -> Explanation:
    """Token shares that add up to 1, heaviest at the front, and three anchor matches a set."""
    noise = np.random.default_rng(row_index)
    pieces = [piece + " " for piece in answer.replace("\n", " \n").split(" ")] + ["<eos>"]
    weight = noise.exponential(1.0, len(pieces)) * np.linspace(2.5, 0.4, len(pieces)) - 0.15
    weight /= weight.sum()
    anchors = [
        AnchorMatch(name, int(index), float(value))
        for name, high in (("harmful", 0.4), ("safe_1", 0.1), ("safe_2", 0.05))
        for index, value in zip(
            noise.permutation(10)[:3], sorted(noise.normal(high, 0.05, 3), reverse=True), strict=True
        )
    ]
    tokens = tuple(TokenContribution(text, float(share)) for text, share in zip(pieces, weight, strict=True))
    return Explanation(row_index, tokens, tuple(anchors))
