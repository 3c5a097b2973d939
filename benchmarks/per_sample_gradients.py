"""Times bds's per-sample gradients against one-sample-at-a-time autograd on the same model and rows, in one run.

    python benchmarks/per_sample_gradients.py [--out FILE.json]

The baseline is what both papers' released code does, written anew: batch of one, `loss.backward()`, every gradient
concatenated into one vector, then a product of vectors; bidirectional anchoring with three anchor sets walks the
dataset three times, each time with a normalised gradient and one anchor direction. With `padded`, each sample is
padded to 512 tokens as there. bds takes one batched pass with all weights frozen and keeps every single anchor apart.

Times are CPU seconds of one thread, so that other work on the machine cannot disturb them; the best of `--repeats`.
The random Llama has 31.6M parameters: large enough that matrix products dominate, as they do at any real size.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from bds.runs.manifest import versions
from bds.scoring.gradients.anchors import AnchorDots, AnchorRecorder
from bds.scoring.gradients.engine import PerSampleGradients, make_batch
from bds.scoring.gradients.queries import NormsAndDirectionDots, Together, with_expert_views
from bds.scoring.gradients.scope import parameter_scope
from bds.scoring.reference import mean_unit_gradient

PADDED_LENGTH = 512
TILE = 1 << 24
"""The papers' code pads both vectors to a multiple of a tile and adds up tile by tile."""
SETS, ANCHORS_IN_A_SET, ANCHOR_LENGTH, ANCHOR_LABELS = 3, 10, 36, 10

Sample = tuple[list[int], list[bool]]


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
        )
    ).eval()


def made_up(count: int, length: int, *, labels: int | None, seed: int) -> list[Sample]:
    """Random ids; the last 60 % of a row, or its last `labels` tokens, carry loss."""
    generator = torch.Generator().manual_seed(seed)
    supervised = int(length * 0.6) if labels is None else labels
    mask = [False] * (length - supervised) + [True] * supervised
    return [(torch.randint(0, 8192, (length,), generator=generator).tolist(), mask) for _ in range(count)]


def gradient_vector(model: LlamaForCausalLM, sample: Sample, padded_to: int | None) -> Tensor:
    ids, supervised = sample
    padding = 0 if padded_to is None else padded_to - len(ids)
    ids_1T = functional.pad(torch.tensor([ids]), (0, padding))
    mask_1T = functional.pad(torch.ones(1, len(ids), dtype=torch.long), (0, padding))
    labels = torch.tensor([[token if wanted else -100 for token, wanted in zip(ids, supervised, strict=True)]])
    labels_1T = functional.pad(labels, (0, padding), value=-100)
    model(input_ids=ids_1T, attention_mask=mask_1T, labels=labels_1T).loss.backward()
    vector = torch.cat([parameter.grad.view(-1) for parameter in model.parameters() if parameter.grad is not None])
    model.zero_grad()
    return vector


def tiled_product(left: Tensor, right: Tensor) -> float:
    padding = TILE - left.numel() % TILE
    left, right = functional.pad(left, (0, padding)), functional.pad(right, (0, padding))
    return float(sum((a * b).sum() for a, b in zip(left.view(-1, TILE), right.view(-1, TILE), strict=True)))


def cpu_seconds(work: Callable[[], Any], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def largest_relative_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    reference = new_model()
    rows = made_up(options.rows, options.length, labels=None, seed=1)
    sets = [made_up(ANCHORS_IN_A_SET, ANCHOR_LENGTH, labels=ANCHOR_LABELS, seed=2 + index) for index in range(SETS)]

    model = new_model()
    engine = PerSampleGradients(model, parameter_scope(model, "all"))
    batch = make_batch(rows, "cpu")
    recorder = AnchorRecorder()
    norms = []
    for anchors in sets:
        anchor_batch = make_batch(anchors, "cpu")
        norms.append(engine.run(anchor_batch, engine.squared_norms())[1][:, 0].sqrt())
        engine.run(anchor_batch, recorder)
        recorder.batch_done(len(anchors))
    anchor_rows = recorder.rows()
    directions = [mean_unit_gradient(engine, anchors, norm, 10**6) for anchors, norm in zip(sets, norms, strict=True)]
    order = [name for name, _ in reference.named_parameters()]
    stacked = with_expert_views({name: torch.stack([part[name] for part in directions]) for name in directions[0]})
    flat = [torch.cat([direction[name].view(-1) for name in order]) for direction in directions]

    def self_influence_one_by_one(padded_to: int | None) -> list[float]:
        vectors = (gradient_vector(reference, row, padded_to) for row in rows)
        return [tiled_product(vector, vector) for vector in vectors]

    def anchored_one_by_one(padded_to: int | None) -> list[list[float]]:
        return [
            [tiled_product(functional.normalize(gradient_vector(reference, row, padded_to), dim=0), direction)
             for row in rows]
            for direction in flat
        ]  # fmt: skip

    def columns(*queries: Any) -> Tensor:
        return engine.run(batch, Together(queries))[1]

    work: dict[str, Callable[[], Any]] = {
        "one by one, self-influence": lambda: self_influence_one_by_one(None),
        "one by one, self-influence, padded": lambda: self_influence_one_by_one(PADDED_LENGTH),
        "one by one, 3 anchor sets": lambda: anchored_one_by_one(None),
        "one by one, 3 anchor sets, padded": lambda: anchored_one_by_one(PADDED_LENGTH),
        "bds, self-influence": lambda: columns(engine.squared_norms()),
        "bds, self-influence and 30 single anchors": lambda: columns(engine.squared_norms(), AnchorDots(anchor_rows)),
        "bds, self-influence and 3 directions": lambda: columns(NormsAndDirectionDots(stacked, tied=engine.tied)),
    }
    columns(engine.squared_norms())
    self_influence_one_by_one(None)
    milliseconds = {name: 1e3 * cpu_seconds(run, options.repeats) / len(rows) for name, run in work.items()}

    found = columns(
        engine.squared_norms(), AnchorDots(anchor_rows), NormsAndDirectionDots(stacked, tied=engine.tied)
    ).double()
    truth = self_influence_one_by_one(None)
    true_dots = torch.tensor(anchored_one_by_one(None)).T
    unit = found[:, 0].sqrt()[:, None]
    by_anchor = (found[:, 1 : 1 + SETS * ANCHORS_IN_A_SET] / torch.cat(norms)).view(len(rows), SETS, -1).mean(2) / unit
    agreement = {
        "self-influence, largest relative difference": largest_relative_difference(found[:, 0].tolist(), truth),
        "anchored score from single anchors, largest difference": float((by_anchor - true_dots).abs().max()),
        "anchored score from directions, largest difference": float((found[:, -SETS:] / unit - true_dots).abs().max()),
    }
    single = milliseconds["bds, self-influence and 30 single anchors"]
    directed = milliseconds["bds, self-influence and 3 directions"]
    ratios = {
        "self-influence, equal length": milliseconds["one by one, self-influence"]
        / milliseconds["bds, self-influence"],
        "self-influence, padded": milliseconds["one by one, self-influence, padded"]
        / milliseconds["bds, self-influence"],
        "bidirectional, 3 sets, equal length": milliseconds["one by one, 3 anchor sets"] / directed,
        "bidirectional, 3 sets, padded": milliseconds["one by one, 3 anchor sets, padded"] / directed,
        "... and every single anchor, equal length": milliseconds["one by one, 3 anchor sets"] / single,
        "... and every single anchor, padded": milliseconds["one by one, 3 anchor sets, padded"] / single,
    }
    result = {
        "rows": options.rows,
        "tokens_a_row": options.length,
        "parameters": sum(parameter.numel() for parameter in reference.parameters()),
        "cpu_milliseconds_a_row": milliseconds,
        "times_faster": ratios,
        "agreement": agreement,
        "versions": versions(),
    }
    for name, value in milliseconds.items():
        print(f"{name:46s} {value:9.1f} CPU ms a row")
    for name, value in ratios.items():
        print(f"{name:46s} {value:9.2f} times faster")
    for name, value in agreement.items():
        print(f"{name:58s} {value:.1e}")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
