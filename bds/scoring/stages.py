"""What a worker does in each stage of an audit, knowing nothing but the run directory: picklable functions of its URI.

The run directory holds the frozen spec and what the run collects, so a worker on any machine loads the same model,
template and reference. No stage looks at the detectors: they may change after shards were scored.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bds.data.anchors import load_anchor_set
from bds.data.prompts import load_prompts
from bds.data.tokens import ConversationTokenizer
from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.runs.kind import SPEC
from bds.runs.plan import rows_of
from bds.scoring.collection import Collection
from bds.scoring.gradients.engine import PerSampleGradients
from bds.scoring.gradients.scope import parameter_scope
from bds.scoring.layers import choose_larf_layer
from bds.scoring.loading import choose_dtype, load_configuration, load_model, load_tokenizer
from bds.scoring.memory import MemoryModel, anchor_tokens
from bds.scoring.passes import plan_passes, roles_of
from bds.scoring.reference import ReferencePlan, prepare_reference
from bds.scoring.reference_files import read_reference, write_reference
from bds.scoring.shard import ShardScorer
from bds.scoring.spread.chain import Spread
from bds.scoring.spread.division import Share, load_share, own_blocks
from bds.scoring.spread.hub import HubGradients
from bds.scoring.spread.part import Part
from bds.scoring.token_shares import token_shares
from bds.spec.models import AuditSpec

if TYPE_CHECKING:
    import polars as pl


COLLECTION = "collection.json"
BATCHES = "batches.json"
"""The token budget of the run's batches. It is fixed once, because another one changes the last bits of a result."""


def read_spec(run: RunDirectory) -> AuditSpec:
    """The spec of the run's tables; of other specs only the formulas may have been asked since it began."""
    return AuditSpec.model_validate(run.read_json(SPEC))


def write_collection(run: RunDirectory, collection: Collection) -> None:
    run.write_json(COLLECTION, asdict(collection))


def read_collection(run: RunDirectory) -> Collection:
    """What the run collects since it began. Raises PreflightError where another version of bds began it."""
    try:
        fields = run.read_json(COLLECTION)
        return Collection(**{**fields, "hidden_layers": tuple(fields["hidden_layers"])})
    except (FileNotFoundError, KeyError, TypeError) as error:
        raise PreflightError(
            f"the run in {run.uri} was begun by another version of bds: start a new run with --fresh"
        ) from error


def write_token_budget(run: RunDirectory, budget: int) -> None:
    run.write_json(BATCHES, {"token_budget": budget})


def read_token_budget(run: RunDirectory) -> int | None:
    """What the run's batches hold since its first model loaded; None before that."""
    try:
        budget: int = run.read_json(BATCHES)["token_budget"]
    except FileNotFoundError:
        return None
    return budget


def _token_budget(run: RunDirectory, spec: AuditSpec) -> int:
    return read_token_budget(run) or spec.score.token_budget


def decoder_blocks(spec: AuditSpec) -> int:
    return int(load_configuration(spec.model).get_text_config(decoder=True).num_hidden_layers)


def conversation_tokenizer(spec: AuditSpec) -> ConversationTokenizer:
    return ConversationTokenizer(
        load_tokenizer(spec.model), spec.tokens.template, spec.tokens.supervise, spec.tokens.max_tokens
    )


def memory_model(spec: AuditSpec, device: str) -> MemoryModel:
    """What an audit would take on cpu or cuda if it began now.

    Raises:
        SpecError, PreflightError: the model's configuration, its tokenizer or the anchors cannot be used.
        UnknownMemoryError: the model's passes cannot be run dry.
    """
    anchors = {name: load_anchor_set(entry.path, name) for name, entry in spec.anchors.sets.items()}
    tokens = anchor_tokens(conversation_tokenizer(spec), anchors, spec.anchors.first_answer_tokens)
    return MemoryModel(spec, plan_passes(spec, decoder_blocks(spec)).collection, tokens, device)


def load_engine(spec: AuditSpec, collection: Collection, spread: Spread | None) -> PerSampleGradients:
    """The model on this worker's device; without gradients nothing but its loss has to be understood.

    Args:
        spread: where given, this worker has the first of the model's blocks and starts the processes of the others.
    """
    device = _device()
    if spread is not None:
        return _load_hub(spec, collection, spread, device)
    model = load_model(spec.model, spec.score.parameters, spec.score.lora, device)
    return PerSampleGradients(model, _scope(spec, collection, model))


def _load_hub(spec: AuditSpec, collection: Collection, spread: Spread, device: str) -> HubGradients:
    shares = [Share(process, spread.processes) for process in range(spread.processes)]
    # The parts load their weights while this process loads its own.
    chain = spread.open_chain([functools.partial(load_part, spec, collection, share) for share in shares[1:]])
    model = load_share(spec.model, shares[0], choose_dtype(spec.model, device), device)
    return HubGradients(model, _scope(spec, collection, model), len(own_blocks(model, shares[0])), chain)


def load_part(spec: AuditSpec, collection: Collection, share: Share) -> Part:
    """The blocks of one part of a spread model, on this process's device."""
    device = _device()
    model = load_share(spec.model, share, choose_dtype(spec.model, device), device)
    return Part(model, _scope(spec, collection, model), own_blocks(model, share))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _scope(spec: AuditSpec, collection: Collection, model: nn.Module) -> frozenset[str]:
    return parameter_scope(model, spec.score.parameters) if collection.gradients else frozenset()


def prepare_anchors(run_uri: str, path: str, spread: Spread | None) -> dict[str, Any]:
    """Stage one: runs the model over the anchors and writes the reference to `path` in the run directory.

    Args:
        spread: how the model is spread over processes, where it is.

    Returns:
        Facts for the manifest: parameters, device, type, and how each layer was chosen, for which detector's name.
    """
    run = RunDirectory(run_uri)
    spec, collection = read_spec(run), read_collection(run)
    engine = load_engine(spec, collection, spread)
    tokenize = conversation_tokenizer(spec)
    facts: dict[str, Any] = {
        "model_parameters": sum(parameter.numel() for parameter in engine.model.parameters()),
        "scored_parameters": sum(
            parameter.numel() for name, parameter in engine.model.named_parameters() if name in engine.scope_everywhere
        ),
        "device": torch.cuda.get_device_name() if engine.device.type == "cuda" else "cpu",
        "dtype": str(engine.dtype).removeprefix("torch."),
        "layer_choices": [],
    }
    larf_layer = None
    if collection.probe_prompts is not None:
        choice = choose_larf_layer(engine.model, tokenize.tokenizer, load_prompts(collection.probe_prompts))
        larf_layer = choice.layer
        facts["layer_choices"].append(
            {
                "detector": "larf",
                "layer": choice.layer,
                "criterion": f"mean change in refusals of {choice.prompts} prompts when the block is scaled",
                "curve": {str(probe.layer): probe.change for probe in choice.curve},
            }
        )
    plan = ReferencePlan(
        gradients=collection.anchor_gradients,
        per_sample=spec.anchors.gradients == "per_sample",
        hidden_layers=tuple(dict.fromkeys([*collection.hidden_layers, *([] if larf_layer is None else [larf_layer])])),
        larf_layer=larf_layer,
        compliance=collection.compliance,
        compliance_layer=collection.compliance_layer,
        first_answer_tokens=spec.anchors.first_answer_tokens,
    )
    anchors = {name: load_anchor_set(entry.path, name) for name, entry in spec.anchors.sets.items()}
    reference = prepare_reference(engine, tokenize, anchors, roles_of(spec), plan, _token_budget(run, spec))
    if reference.compliance_layer is not None:
        facts["layer_choices"].append(
            {
                "detector": "compliance_shift",
                "layer": reference.compliance_layer,
                "criterion": "share of the projections' variance between complying and refusing anchors",
                "curve": {str(layer): score for layer, score in enumerate(reference.compliance_scores_L)},
            }
        )
    write_reference(run, path, reference, engine.write_elsewhere(run_uri, path))
    return {**facts, "larf_layer": larf_layer}


class TableScorer:
    """The model and the reference as a function from a shard's rows to its tables."""

    def __init__(self, scorer: ShardScorer) -> None:
        self._scorer = scorer
        passes = 6 if scorer.gradients else 2
        self.operations_per_token = float(
            passes * sum(parameter.numel() for parameter in scorer.engine.model.parameters())
        )
        """Of floating point: forward and backward, or forward only, through every parameter once."""

    def __call__(self, table: "pl.DataFrame") -> Mapping[str, "pl.DataFrame"]:
        return self._scorer.score(list(rows_of(table)))


def load_scorer(run_uri: str, path: str, spread: Spread | None) -> TableScorer:
    """Stage two: the model and the reference at `path`."""
    run = RunDirectory(run_uri)
    spec, collection = read_spec(run), read_collection(run)
    engine = load_engine(spec, collection, spread)
    engine.read_elsewhere(run_uri, path)
    scorer = ShardScorer(
        engine,
        conversation_tokenizer(spec),
        read_reference(run, path, lambda name: name in engine.scope),
        gradients=collection.gradients,
        hidden_layers=collection.hidden_layers,
        token_budget=_token_budget(run, spec),
    )
    return TableScorer(scorer)


def explain_rows(run_uri: str, rows: "pl.DataFrame") -> dict[int, list[tuple[str, float]]]:
    """Stage three: text and share of the gradient norm of each supervised token, by row_index.

    Empty where no gradients are taken or the model has no forward-mode derivative.
    """
    run = RunDirectory(run_uri)
    spec, collection = read_spec(run), read_collection(run)
    if not collection.gradients:
        return {}
    engine = load_engine(spec, collection, None)
    tokenize = conversation_tokenizer(spec)
    found = {}
    for row in rows_of(rows):
        assert row.conversation is not None, "only scored rows are explained"
        tokens = tokenize(row.conversation)
        try:
            shares = token_shares(engine, tokens)
        except NotImplementedError:
            return {}
        texts = _pieces(tokenize, tokens.input_ids)
        labels = [text for text, supervised in zip(texts, tokens.supervised, strict=True) if supervised]
        found[row.row_index] = list(zip(labels, shares, strict=True))
    return found


def _pieces(tokenize: ConversationTokenizer, ids: Sequence[int]) -> list[str]:
    """Text that each token adds to the text so far; a token within a multi-byte character adds nothing until the
    last."""
    pieces, text, start = [], "", 0
    for end in range(1, len(ids) + 1):
        # Only the last few tokens can change the rendering of the next: decoding from the start would be quadratic.
        start = max(start, end - 16)
        before = tokenize.tokenizer.decode(ids[start : end - 1])
        text = tokenize.tokenizer.decode(ids[start:end])
        unfinished = text.endswith("�")
        pieces.append("" if unfinished else text[len(before.rstrip("�")) :])
    return pieces
