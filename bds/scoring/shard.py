"""Scores the rows of one shard: tokens, one pass over the model, and a component table with a row for every row.

Shapes: B rows of a batch, T positions, D hidden, C query columns, M anchors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import polars as pl
import torch
from torch import Tensor

from bds.data.features import TextFeatures, text_features
from bds.data.rows import SCORED_STATUSES, Conversation, Row
from bds.data.tokens import ConversationTokenizer, TokenizedRow
from bds.scoring import columns
from bds.scoring.batching import halving, length_batches
from bds.scoring.gradients.engine import Batch, PerSampleGradients, make_batch
from bds.scoring.reference import AnchorGradients, Reference

_TOKEN_COUNTS = ("prompt_tokens", "answer_tokens", "supervised_tokens", "truncated_tokens")


@dataclass
class RowComponents:
    """What the pass over the model gave one row; a field is left out where no detector needs it."""

    loss: float
    squared_gradient_norm: float | None = None
    direction_dots: dict[str, float] = field(default_factory=dict)
    anchor_dots: dict[str, list[float]] = field(default_factory=dict)
    cosines: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    compliance_answer: float | None = None
    compliance_prompt: float | None = None
    hidden: dict[int, list[float]] = field(default_factory=dict)


def last_exchange(conversation: Conversation) -> tuple[str, str]:
    """The last user turn and the last assistant turn: what text features and reports look at."""
    turns = conversation.messages
    prompt = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
    answer = next((turn.content for turn in reversed(turns) if turn.role == "assistant"), "")
    return prompt, answer


class ShardScorer:
    """The model and the reference, loaded once; scores any number of shards.

    Args:
        gradients: take a backward pass; without it only loss and hidden states are computed.
        hidden_layers: layers whose hidden state at the answer's last token is kept, beside those the reference has.
    """

    def __init__(
        self,
        engine: PerSampleGradients,
        tokenize: ConversationTokenizer,
        reference: Reference,
        *,
        gradients: bool,
        hidden_layers: Sequence[int],
        token_budget: int,
    ) -> None:
        self.engine = engine
        self.tokenize = tokenize
        self.reference = reference
        self.gradients = gradients
        self.hidden_layers = sorted({*hidden_layers, *reference.plan.hidden_layers})
        self.token_budget = token_budget
        device = engine.device
        self._anchor_gradients = AnchorGradients(reference, engine.device, engine.dtype)
        self._anchor_hidden = {layer: hidden_MD.to(device) for layer, hidden_MD in reference.hidden_MD.items()}
        direction_D = reference.compliance_direction_D
        self._compliance_D = None if direction_D is None else direction_D.to(device)
        compliance = [] if reference.compliance_layer is None else [reference.compliance_layer]
        self._layers = sorted({*self.hidden_layers, *compliance})
        self._schema = self._component_schema()

    def score(self, rows: Sequence[Row]) -> dict[str, pl.DataFrame]:
        """`components` with one row a row in order, and `hidden` with the kept hidden states of the scored rows."""
        tokenized = [self._tokenized(row) for row in rows]
        wanted = [index for index, row in enumerate(tokenized) if row.status in SCORED_STATUSES]
        found: dict[int, RowComponents | None] = {}
        for places in length_batches([len(tokenized[index].input_ids) for index in wanted], self.token_budget):
            batch = [wanted[place] for place in places]
            results = halving(lambda part: self._run([tokenized[index] for index in part]), batch)
            found.update(zip(batch, results, strict=True))
        records, hidden = [], []
        for index, (row, tokens) in enumerate(zip(rows, tokenized, strict=True)):
            record, components = self._record(row, tokens, found.get(index))
            records.append(record)
            if components is not None and components.hidden:
                hidden.append({"row_index": row.row_index, **{f"layer{k}": v for k, v in components.hidden.items()}})
        tables = {"components": pl.DataFrame(records, schema=self._schema)}
        if self.hidden_layers:
            tables["hidden"] = pl.DataFrame(hidden, schema=self._hidden_schema())
        return tables

    def _tokenized(self, row: Row) -> TokenizedRow:
        if row.status != "ok" or row.conversation is None:
            return TokenizedRow(status=row.status, reason=row.reason)
        return self.tokenize(row.conversation)

    def _record(
        self, row: Row, tokens: TokenizedRow, components: RowComponents | None
    ) -> tuple[dict[str, Any], RowComponents | None]:
        status, reason = tokens.status, tokens.reason
        if status in SCORED_STATUSES:
            if components is None:
                status, reason = "failed", f"out of memory on a single row of {len(tokens.input_ids)} tokens"
            elif not _is_finite(components):
                status, reason, components = "failed", "the loss or the gradient is not a finite number", None
        record: dict[str, Any] = {
            "row_index": row.row_index,
            "row_id": row.row_id,
            "source": row.source,
            "line": row.line,
            "status": status,
            "reason": reason,
        }
        if row.conversation is not None:
            record |= {name: getattr(tokens, name) for name in _TOKEN_COUNTS}
            record |= asdict(text_features(*last_exchange(row.conversation)))
        if status not in SCORED_STATUSES or components is None:
            return record, None
        record[columns.LOSS] = components.loss
        record[columns.SQUARED_GRADIENT_NORM] = components.squared_gradient_norm
        record[columns.COMPLIANCE_ANSWER] = components.compliance_answer
        record[columns.COMPLIANCE_PROMPT] = components.compliance_prompt
        record |= {columns.direction_dot(name): value for name, value in components.direction_dots.items()}
        record |= {columns.anchor_dots(name): values for name, values in components.anchor_dots.items()}
        record |= {columns.cosines(name, layer): values for (name, layer), values in components.cosines.items()}
        return {key: value for key, value in record.items() if key in self._schema}, components

    def _component_schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        """Every column of this run, in a fixed order."""
        schema: dict[str, pl.DataType | type[pl.DataType]] = {
            "row_index": pl.Int64,
            "row_id": pl.String,
            "source": pl.String,
            "line": pl.Int64,
            "status": pl.String,
            "reason": pl.String,
        }
        schema |= dict.fromkeys(_TOKEN_COUNTS, pl.Int32)
        kinds = {"bool": pl.Boolean, "int": pl.Int32, "str": pl.String}
        schema |= {item.name: kinds[getattr(item.type, "__name__", str(item.type))] for item in fields(TextFeatures)}
        schema[columns.LOSS] = pl.Float32
        reference = self.reference
        if self.gradients:
            schema[columns.SQUARED_GRADIENT_NORM] = pl.Float32
        if self.gradients and reference.plan.gradients:
            schema |= {columns.direction_dot(name): pl.Float32 for name in reference.counts}
            if reference.plan.per_sample:
                schema |= {columns.anchor_dots(name): pl.List(pl.Float32) for name in reference.counts}
        # A loaded reference has its layers in an order of chance, and tables are the same bytes from every worker.
        for layer in sorted(reference.hidden_MD):
            schema |= {columns.cosines(name, layer): pl.List(pl.Float32) for name in reference.counts}
        if self._compliance_D is not None:
            schema |= {columns.COMPLIANCE_ANSWER: pl.Float32, columns.COMPLIANCE_PROMPT: pl.Float32}
        return schema

    def _hidden_schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        width = self.engine.head.module.weight.shape[1]
        return {"row_index": pl.Int64, **{f"layer{layer}": pl.Array(pl.Float32, width) for layer in self.hidden_layers}}

    def _run(self, rows: Sequence[TokenizedRow]) -> list[RowComponents]:
        batch = make_batch([(row.input_ids, row.supervised) for row in rows], self.engine.device)
        if self.gradients:
            query = self._anchor_gradients.query(tied=self.engine.tied)
            loss_B, columns_BC, layers = self.engine.run(batch, query, layers=self._layers)
        else:
            loss_B, layers = self.engine.run_forward(batch, layers=self._layers)
            columns_BC = None
        found = [RowComponents(loss) for loss in loss_B.tolist()]
        if columns_BC is not None:
            self._add_gradients(found, columns_BC)
        if self._layers:
            self._add_hidden(found, rows, batch, layers)
        return found

    def _add_gradients(self, found: Sequence[RowComponents], columns_BC: Tensor) -> None:
        norms = columns_BC[:, 0].tolist()
        for components, norm in zip(found, norms, strict=True):
            components.squared_gradient_norm = norm
        if not self.reference.plan.gradients:
            return
        unit_BM = columns_BC[:, 1:]
        if self._anchor_gradients.rows is not None:
            assert self.reference.anchor_norms_M is not None
            unit_BM = unit_BM / self.reference.anchor_norms_M.to(unit_BM)
        if self.reference.plan.per_sample:
            for name, part in self.reference.slices().items():
                for components, dots, mean in zip(
                    found, unit_BM[:, part].tolist(), unit_BM[:, part].mean(1).tolist(), strict=True
                ):
                    components.anchor_dots[name] = dots
                    components.direction_dots[name] = mean
        else:
            for index, name in enumerate(self.reference.counts):
                for components, dot in zip(found, unit_BM[:, index].tolist(), strict=True):
                    components.direction_dots[name] = dot

    def _add_hidden(
        self, found: Sequence[RowComponents], rows: Sequence[TokenizedRow], batch: Batch, layers: Mapping[int, Tensor]
    ) -> None:
        sample_B = torch.arange(len(rows), device=batch.ids_BT.device)
        end_B = torch.tensor([row.answer_end for row in rows], device=batch.ids_BT.device)
        for layer in self.hidden_layers:
            end_BD = layers[layer][sample_B, end_B].float()
            for components, values in zip(found, end_BD.tolist(), strict=True):
                components.hidden[layer] = values
            if layer in self._anchor_hidden:
                cosine_BM = torch.nn.functional.normalize(end_BD, dim=1) @ self._anchor_hidden[layer].T
                for name, part in self.reference.slices().items():
                    for components, values in zip(found, cosine_BM[:, part].tolist(), strict=True):
                        components.cosines[name, layer] = values
        if self._compliance_D is not None:
            assert self.reference.compliance_layer is not None
            layer_BTD = layers[self.reference.compliance_layer]
            for place, (components, row) in enumerate(zip(found, rows, strict=True)):
                start, end = row.answer_positions
                answer_D = layer_BTD[place, start:end].float().mean(0)
                components.compliance_answer = float(answer_D @ self._compliance_D)
                components.compliance_prompt = float(layer_BTD[place, row.prompt_end].float() @ self._compliance_D)


def _is_finite(components: RowComponents) -> bool:
    numbers = [components.loss, components.squared_gradient_norm or 0.0, *components.direction_dots.values()]
    return bool(torch.isfinite(torch.tensor(numbers)).all())
