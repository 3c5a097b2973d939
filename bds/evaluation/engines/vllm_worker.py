"""What bds adds to the process that holds vLLM's model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker


class WeightsSwitch:
    """A worker extension: vLLM makes it a base of its worker class."""

    def switch_weights(self: "Worker", path: str) -> None:
        """Puts the weights of another folder, of the same shapes, in the place of those in memory."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        self.reload_weights(weights_path=path)
        if current_platform.is_cpu():
            # An output head that shares the embedding's weights keeps computing with its packed copy of the old ones.
            for module in self.model_runner.get_model().modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)
