"""The scale of gradients that a fused optimizer divides out itself."""

from lightning.pytorch import Trainer
from torch.optim import Optimizer


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """By what the optimizer divides its gradients in its next step; 1 without a gradient scaler."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    scale: float = scaler.get_scale()
    return scale
