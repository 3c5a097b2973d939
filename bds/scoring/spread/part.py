"""One part of a model: consecutive decoder blocks, run as the model's own decoder runs them.

The decoder of Hugging Face is called as in one process, so that masks, rotary angles and everything else that it hands
to its blocks are computed as it does, whatever the architecture. Blocks before the part's return the hidden state that
came in; after the last of the part's the pass is left. What stands around the blocks has no weights here and returns
numbers that are none (NaN): a decoder that hands anything made of those weights to its blocks is found at the start.

Shapes: B samples, T positions, D hidden, C columns.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bds.errors import PreflightError
from bds.runs.directory import RunDirectory
from bds.scoring.gradients.anchors import AnchorRecorder
from bds.scoring.gradients.engine import has_position_embedding, positions_of_each
from bds.scoring.gradients.experts import replaced_forward
from bds.scoring.gradients.modules import cover
from bds.scoring.gradients.products import accumulator
from bds.scoring.gradients.queries import Asked, ByParameter, Query, SquaredNorms
from bds.scoring.gradients.self_check import PARAMETERS_AT_ONCE, expect_equal_norms
from bds.scoring.gradients.taps import places_of, tapped
from bds.scoring.layers import decoder_blocks
from bds.scoring.reference import AnchorGradients
from bds.scoring.reference_files import read_reference, write_piece

_GRADIENTS_BY_AUTOGRAD = (Asked.GRADIENT_SUM, Asked.SELF_CHECK)


class _Through(Exception):
    """Leaves the decoder's forward pass."""


@dataclass(frozen=True)
class _Pass:
    """A forward pass whose backward pass is still to come."""

    asked: Asked
    entered_BTD: Tensor
    left_BTD: Tensor
    probes: Sequence[Tensor]
    """One a block, where the pass asks for columns."""


class Part:
    """The blocks of one part, their gradient columns, and what it holds of the reference.

    Args:
        model: has weights in the part's blocks alone; those of all others are on the meta device.
        scope: names of the whole model's parameters whose gradient counts.
        blocks: the part's, after the first block of the model.

    Raises:
        PreflightError: a parameter cannot be covered, or the decoder hands its blocks more than this process can know.
    """

    def __init__(self, model: nn.Module, scope: frozenset[str], blocks: range) -> None:
        own: Any = model.eval().requires_grad_(False)
        self.model = own
        self.blocks = blocks
        self._parameters = {
            name: weight for name, weight in model.named_parameters() if name in scope and not weight.is_meta
        }
        self._decoder: Any = own.get_decoder()
        self._all_blocks = decoder_blocks(model)
        inside = {id(module) for module in self._all_blocks.modules()}
        self._around = [
            module
            for module in self._decoder.modules()
            if id(module) not in inside and any(weight.is_meta for weight in module.parameters(recurse=False))
        ]
        self._has_position_embedding = has_position_embedding(model, own.get_input_embeddings())
        self._coverage = cover(model, frozenset(self._parameters), own.get_output_embeddings())
        self._places = places_of(model)
        self._pass: _Pass | None = None
        self._norms_to_check: dict[str, float] = {}
        self._recorder = AnchorRecorder()
        self._sum: dict[str, Tensor] = {}
        self._sums: list[dict[str, Tensor]] = []
        self._anchor_gradients: AnchorGradients | None = None
        self._returns = self._what_blocks_return()
        self._expect_nothing_from_around()

    @property
    def device(self) -> torch.device:
        return next(self._all_blocks[self.blocks.start].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self._all_blocks[self.blocks.start].parameters()).dtype

    def change_dtype(self, dtype: torch.dtype) -> None:
        """Changes the type of the weights, in which everything is then computed."""
        self.model.to(dtype)

    def forward(self, hidden_BTD: Tensor, asked: Asked, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """What the last block returns for the hidden states that the first is given, and those of the part's hidden
        states that are in `layers`, by their index: b + 1 for block b."""
        # An earlier pass that ended in an error must not keep its memory.
        self._pass = None
        entered_BTD = hidden_BTD.to(self.device)
        if asked is Asked.NOTHING:
            with torch.no_grad():
                returned = self._through(entered_BTD)
        else:
            entered_BTD = entered_BTD.detach().requires_grad_(True)
            with self._asking(asked, len(entered_BTD)) as probes, torch.enable_grad():
                returned = self._through(entered_BTD)
            self._pass = _Pass(asked, entered_BTD, returned[-1], probes)
        found = {
            block + 1: own.detach() for block, own in zip(self.blocks, returned, strict=True) if block + 1 in layers
        }
        return returned[-1].detach(), found

    def backward(self, grad_BTD: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """For the gradient of what `forward` returned last: that of what it was given, and the columns [B, C] of every
        block. None for columns that were not asked for, or of parameters that do not count."""
        assert self._pass is not None, "a backward pass follows a forward pass"
        done, self._pass = self._pass, None
        grad_BTD = grad_BTD.to(self.device)
        nothing: list[Tensor | None] = [None] * len(self.blocks)
        if done.asked in _GRADIENTS_BY_AUTOGRAD:
            return self._by_autograd(done, grad_BTD), nothing
        wanted = [done.entered_BTD, *done.probes]
        entered_BTD, *columns = torch.autograd.grad(done.left_BTD, wanted, grad_BTD, materialize_grads=True)
        if columns and done.asked in (Asked.SQUARED_NORMS, Asked.NORMS_AND_DOTS):
            return entered_BTD, [*columns]
        if done.asked is Asked.ANCHOR_ROWS:
            self._recorder.batch_done(len(grad_BTD))
        elif columns:
            norms = torch.stack(columns).sum((0, 1)).tolist()
            self._norms_to_check = dict(zip(sorted(self._parameters), norms, strict=True))
        return entered_BTD, nothing

    def finish_gradient_sum(self) -> None:
        """Keeps the sum of the gradients of all passes that asked for it, as one direction, and begins the next."""
        self._sums.append({name: grad.cpu() for name, grad in self._sum.items()})
        self._sum = {}

    def write_anchor_gradients(self, run_uri: str, path: str) -> str:
        """Writes the anchors' rows and the sums of gradients that this part kept, and forgets them.

        Args:
            path: of the reference, which this file stands beside.

        Returns:
            The file's name.
        """
        rows = self._recorder.rows().to("cpu", torch.float32) if self._recorder.samples else None
        directions = {name: torch.stack([each[name] for each in self._sums]) for name in self._parameters if self._sums}
        self._recorder, self._sums = AnchorRecorder(), []
        folder, _, name = path.rpartition("/")
        stem, _, ending = name.rpartition(".")
        name = f"{stem}-blocks-{self.blocks.start}-{self.blocks.stop - 1}.{ending}"
        write_piece(RunDirectory(run_uri), f"{folder}/{name}", rows, directions)
        return name

    def read_anchor_gradients(self, run_uri: str, path: str) -> None:
        """Takes dots with the anchors of the reference at `path` from now on."""
        reference = read_reference(RunDirectory(run_uri), path, lambda name: name in self._parameters)
        self._anchor_gradients = AnchorGradients(reference, self.device, self.dtype)

    def _by_autograd(self, done: _Pass, grad_BTD: Tensor) -> Tensor:
        """Sums or compares the gradients of the part's parameters; returns that of what it was given."""
        kind = accumulator(self.dtype)
        names = sorted(self._parameters)
        compares = done.asked is Asked.SELF_CHECK
        together = PARAMETERS_AT_ONCE if compares else max(1, len(names))
        norms: dict[str, float] = {}
        for start in range(0, len(names), together):
            chosen = names[start : start + together]
            wanted = [self._parameters[name] for name in chosen]
            grads = torch.autograd.grad(done.left_BTD, wanted, grad_BTD, retain_graph=True, materialize_grads=True)
            for name, grad in zip(chosen, grads, strict=True):
                if compares:
                    norms[name] = float(grad.to(kind).square().sum())
                else:
                    self._sum[name] = self._sum[name] + grad.to(kind) if name in self._sum else grad.to(kind)
        if compares:
            expect_equal_norms(type(self.model).__name__, self.dtype, self._norms_to_check, norms)
        (entered_BTD,) = torch.autograd.grad(done.left_BTD, done.entered_BTD, grad_BTD)
        return entered_BTD

    @contextmanager
    def _asking(self, asked: Asked, samples: int) -> Iterator[Sequence[Tensor]]:
        """The forward pass of what is asked; yields the probes of the part's blocks."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(asked in _GRADIENTS_BY_AUTOGRAD)
        query = self._query(asked)
        if query is None:
            yield ()
            return
        probes = self._places.probes(samples, query.columns, accumulator(self.dtype), self.device)
        with tapped(self._coverage, query, lambda name: probes[self._places.of_parameter[name]], samples):
            yield [probes[block + 1] for block in self.blocks]

    def _query(self, asked: Asked) -> Query | None:
        if not self._parameters:
            return None
        norms = SquaredNorms(tied=None)
        if asked is Asked.SQUARED_NORMS:
            return norms
        if asked is Asked.EACH_SQUARED_NORM:
            return ByParameter(norms, {name: index for index, name in enumerate(sorted(self._parameters))})
        if asked is Asked.ANCHOR_ROWS:
            return self._recorder
        if asked is Asked.NORMS_AND_DOTS:
            assert self._anchor_gradients is not None, "dots are asked for once there is something to compare with"
            return self._anchor_gradients.query(tied=None)
        return None

    def _through(self, entered_BTD: Tensor) -> list[Tensor]:
        """What each of the part's blocks returns."""
        layers: list[Tensor] = []

        def runs(block: nn.Module, *, last: bool) -> Callable[..., Any]:
            original = block.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                returned = original(*args, **kwargs)
                layers.append(hidden_of(returned))
                if last:
                    raise _Through
                return returned

            return forward

        end = self.blocks.stop - 1
        own = {index: runs(self._all_blocks[index], last=index == end) for index in self.blocks}
        before = dict.fromkeys(range(self.blocks.start), lambda *args, **kwargs: self._returns(entered_BTD))
        self._decode(entered_BTD, {**before, **own}, around=torch.nan)
        return layers

    def _decode(self, like_BTD: Tensor, forwards: Mapping[int, Callable[..., Any]], *, around: float) -> None:
        """The decoder's own forward pass with other forwards of some blocks, until one raises `_Through`.

        Args:
            around: what embeddings return, everywhere.
        """
        outside_BTD = torch.full_like(like_BTD, around, requires_grad=False)
        options: dict[str, Any] = {"use_cache": False}
        if self._has_position_embedding:
            options["position_ids"] = positions_of_each(like_BTD[..., 0])
        with ExitStack() as stack:
            for module in self._around:
                stack.enter_context(replaced_forward(module, lambda *args, **kwargs: outside_BTD))
            for index, forward in forwards.items():
                stack.enter_context(replaced_forward(self._all_blocks[index], forward))
            try:
                self._decoder(inputs_embeds=outside_BTD, **options)
            except _Through:
                return
        raise AssertionError("the decoder did not come to the part's last block")

    def _made_up_hidden(self) -> Tensor:
        width = self.model.config.get_text_config().hidden_size
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, 4, width, generator=generator).to(self.device, self.dtype)

    @torch.no_grad()
    def _what_blocks_return(self) -> Callable[[Tensor], Any]:
        """How a block of this model returns a hidden state: alone, or as the first of a tuple. One of the part's own
        tells, in the place of the model's first."""
        found: list[Any] = []
        block = self._all_blocks[self.blocks.start]

        def first(*args: Any, **kwargs: Any) -> Any:
            found.append(block(*args, **kwargs))
            raise _Through

        with self._or_refused():
            self._decode(self._made_up_hidden(), {0: first}, around=0.0)
        if isinstance(found[0], tuple) and any(True for _ in _tensors_in(found[0][1:])):
            raise self._refusal("they return more than a hidden state")
        return like_returned(found[0])

    @torch.no_grad()
    def _expect_nothing_from_around(self) -> None:
        """Raises PreflightError where a block is handed anything made of weights outside the blocks but its hidden
        state."""
        hidden_BTD = self._made_up_hidden()
        given: list[Any] = []

        def last(*args: Any, **kwargs: Any) -> Any:
            given.extend([*args, *kwargs.values()])
            raise _Through

        before: dict[int, Callable[..., Any]] = dict.fromkeys(
            range(self.blocks.start), lambda *args, **kwargs: self._returns(hidden_BTD)
        )
        with self._or_refused():
            self._decode(hidden_BTD, {**before, self.blocks.start: last}, around=torch.nan)
        if any(bool(tensor.isnan().any()) for tensor in _tensors_in(given)):
            raise self._refusal("they are handed something made of weights outside them")

    @contextmanager
    def _or_refused(self) -> Iterator[None]:
        try:
            yield
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise self._refusal(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error

    def _refusal(self, why: str) -> PreflightError:
        return PreflightError(
            f"the decoder blocks of {type(self.model).__name__} cannot be spread over processes ({why}); set "
            "resources.parts_per_model to 1 and take a larger GPU"
        )


def hidden_of(returned: Any) -> Tensor:
    """The hidden state in what a decoder block returns."""
    hidden: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return hidden


def like_returned(returned: Any) -> Callable[[Tensor], Any]:
    """Puts a hidden state in the form in which a block returned another."""
    if not isinstance(returned, tuple):
        return lambda hidden_BTD: hidden_BTD
    rest = (None,) * (len(returned) - 1)
    return lambda hidden_BTD: (hidden_BTD, *rest)


def _tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors_in(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors_in(value)
