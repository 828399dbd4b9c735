"""Training an MLP head on cached features, with early stopping on validation log-loss.

The backbone is frozen, so an epoch is a pass over the features alone, and hundreds of epochs take seconds.
"""

import copy
import math

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.progress import progress
from pipeline.training.probe import Labelled

EPOCHS, PATIENCE, BATCH_SIZE = 200, 20, 256
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01


def train_mlp(
    head: nn.Module, train: Labelled, val: Labelled, *, weight: Tensor | None = None, seed: int = 0
) -> tuple[int, float]:
    """Train a head, (n, width) -> (n, classes), in place by AdamW until validation has not improved for `PATIENCE` epochs.

    `weight`, (classes,), is what a photo of each class counts; `seed` is that of the order of photos and of dropout. Returns
    the epoch that is kept and its validation log-loss in nats. A PipelineError says that the latter is no finite number.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    loss_of = nn.CrossEntropyLoss(None if weight is None else weight.float())
    best_epoch, lowest = 0, _log_loss(head, val, loss_of)
    best_state = copy.deepcopy(head.state_dict())
    with torch.random.fork_rng(devices=[]), progress("training the MLP head", total=EPOCHS, unit="epochs") as advance:
        torch.manual_seed(seed)
        for epoch in range(1, EPOCHS + 1):
            head.train()
            for places in torch.randperm(len(train.labels)).split(BATCH_SIZE):
                if len(places) == 1 and len(train.labels) > 1:
                    continue  # BatchNorm cannot normalise a single photo
                loss = loss_of(head(train.features[places]), train.labels[places])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            log_loss = _log_loss(head, val, loss_of)
            advance(1, note=f"validation log-loss {log_loss:.4f}")
            if log_loss < lowest:
                best_epoch, lowest, best_state = epoch, log_loss, copy.deepcopy(head.state_dict())
            elif epoch - best_epoch >= PATIENCE:
                break
    head.load_state_dict(best_state)
    head.eval()
    if not math.isfinite(lowest):
        raise PipelineError("The MLP head gives no finite validation log-loss. Choose another norm or initialisation.")
    return best_epoch, lowest


def _log_loss(head: nn.Module, photos: Labelled, loss_of: nn.Module) -> float:
    head.eval()
    with torch.no_grad():
        return loss_of(head(photos.features), photos.labels).item()
