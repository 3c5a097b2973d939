"""The engine in the hub's process: embeddings, the first decoder blocks, final norm, output head and loss.

The first block that is elsewhere stands for all of them (`Elsewhere`), the others return what they are given.

Shapes: B samples, T positions, D hidden.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bds.scoring.gradients.engine import Batch, PerSampleGradients
from bds.scoring.gradients.experts import replaced_forward
from bds.scoring.gradients.queries import Asked
from bds.scoring.layers import decoder_blocks
from bds.scoring.spread.chain import Chain, Elsewhere
from bds.scoring.spread.part import Part, like_returned


class HubGradients(PerSampleGradients):
    """Per-sample quantities of a model whose later blocks are in other processes, as those of one process.

    Args:
        model: has weights outside the blocks and in the first ones; those of all others are on the meta device.
        scope: names of the whole model's parameters whose gradient counts.
        blocks: how many of the blocks are here, one at least.
        chain: has all others.

    Raises:
        PreflightError: as one process does, and where a part does.
    """

    def __init__(self, model: nn.Module, scope: frozenset[str], blocks: int, chain: Chain) -> None:
        self._chain = chain
        self._blocks = decoder_blocks(model)
        self._own_blocks = blocks
        super().__init__(model, scope)

    def _here(self, model: nn.Module, scope: frozenset[str]) -> frozenset[str]:
        return frozenset(name for name, own in model.named_parameters() if name in scope and not own.is_meta)

    def change_dtype(self, dtype: torch.dtype) -> None:
        super().change_dtype(dtype)
        self._chain.order(Part.change_dtype, dtype)

    def gradient_sum(self, weighted: Iterable[tuple[Batch, Tensor]]) -> dict[str, Tensor]:
        """Of the parameters here; every part keeps the sum of its own."""
        total = super().gradient_sum(weighted)
        self._chain.order(Part.finish_gradient_sum)
        return total

    def write_elsewhere(self, run_uri: str, path: str) -> list[str]:
        return self._chain.order(Part.write_anchor_gradients, run_uri, path)

    def read_elsewhere(self, run_uri: str, path: str) -> None:
        self._chain.order(Part.read_anchor_gradients, run_uri, path)

    @contextmanager
    def _elsewhere(
        self, asked: Asked, probes: Sequence[Tensor], layers: Collection[int]
    ) -> Iterator[Mapping[int, Tensor]]:
        others: dict[int, Tensor] = {}
        returned: list[Any] = []
        # The last hidden state is the one after the final norm, which is here.
        wanted = frozenset(layers) & frozenset(range(self._own_blocks + 1, len(self._blocks)))

        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            returned[:] = [output]

        def stand_for_all(*args: Any, **kwargs: Any) -> Any:
            own = probes[1 + self._own_blocks :]
            left_BTD = Elsewhere.apply(_first(args, kwargs), self._chain, asked, wanted, others, *own)
            return like_returned(returned[0])(left_BTD)

        def pass_on(*args: Any, **kwargs: Any) -> Any:
            return like_returned(returned[0])(_first(args, kwargs))

        with ExitStack() as stack:
            handle = self._blocks[self._own_blocks - 1].register_forward_hook(see)
            stack.callback(handle.remove)
            stack.enter_context(replaced_forward(self._blocks[self._own_blocks], stand_for_all))
            for block in self._blocks[self._own_blocks + 1 :]:
                stack.enter_context(replaced_forward(block, pass_on))
            yield others

    def _check(self) -> None:
        super()._check()
        batch = self._made_up_sample()
        self.gradient(batch, torch.ones(1, device=self.device), [], asked=Asked.SELF_CHECK)


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden state that a decoder block is given."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden
