"""What a network is worth on the validation photos, while it is being trained.

validation = Validation(task, trunk)
log_loss, accuracy, temperature, calibrated = validation.score(model, "after epoch 1")
validation.outputs                      # the logits behind them
"""

import copy

import torch
from sklearn.metrics import log_loss
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.folding import unfold_batch_norm
from pipeline.progress import say
from pipeline.training.distributed import broadcast
from pipeline.training.features import Outputs, backend_for, run_over
from pipeline.training.task import Task
from pipeline.training.temperature import fit_temperature
from pipeline.training.trunk import Trunk, run_above


class Validation:
    """Scores networks of one task; with a trunk, from what its frozen blocks made of the validation photos.

    `outputs` are the logits that were scored last.
    """

    outputs: Outputs

    def __init__(self, task: Task, trunk: Trunk | None) -> None:
        self._task, self._trunk = task, trunk

    def score(self, model: nn.Module, what: str) -> tuple[float, float, float, float]:
        """Log-loss, accuracy, the temperature that fits best and the log-loss with it; `what` names the model in what is said.

        Several processes all have what the main one scored.

        Raises:
            PipelineError: a probability is not finite.
        """
        module = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
        unfold_batch_norm(module)
        self.outputs = Outputs(self._logits(module), self._task.val.labels)
        return broadcast(self._task.runtime, lambda: _scored(self.outputs, what))

    def _logits(self, module: nn.Module) -> Tensor:
        """(n, classes), of a network in eval mode."""
        task, runtime = self._task, self._task.runtime
        if self._trunk is None:
            backend = backend_for(module, task.val, task.preprocessing, choice=task.backend, runtime=runtime)
            return run_over(backend.run, task.val, task.preprocessing, runtime=runtime, description="validating").values
        return run_above(module, self._trunk.val, task)


def _scored(outputs: Outputs, what: str) -> tuple[float, float, float, float]:
    probabilities = outputs.values.double().softmax(1)
    if not torch.isfinite(probabilities).all():
        raise PipelineError(
            f"The network gives no finite probabilities {what}. Lower unfreeze_finetune.learning_rate. "
            "The frozen checkpoint is untouched."
        )
    accuracy = (probabilities.argmax(1) == outputs.labels).double().mean().item()
    temperature = fit_temperature(outputs.values, outputs.labels)
    loss, calibrated = _loss(outputs, 1.0), _loss(outputs, temperature)
    say(f"{what}: validation log-loss {loss:.4f}, calibrated {calibrated:.4f}, accuracy {accuracy:.2%}")
    return loss, accuracy, temperature, calibrated


def _loss(outputs: Outputs, temperature: float) -> float:
    probabilities = (outputs.values.double() / temperature).softmax(1)
    return float(log_loss(outputs.labels.numpy(), probabilities.numpy(), labels=list(range(probabilities.shape[1]))))
