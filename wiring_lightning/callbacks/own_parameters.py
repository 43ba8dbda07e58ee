"""Parameters that a callback updates itself, instead of the user's optimizer."""

from collections.abc import Iterable, Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from wiring_lightning.optim import parameters_of, with_wrapped


def hide_from_reducer(pl_module: LightningModule, names: Iterable[str]) -> None:
    """Keep parameters out of DDP's reducer, which expects the same gradients in every step.

    Scores have no gradients once they are frozen, and the logits of a search never get one from
    autograd. The callbacks average these few gradients themselves.
    """
    already = getattr(pl_module, "_ddp_params_and_buffers_to_ignore", [])
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        pl_module, [*already, *names]
    )


def from_first_rank(own: Tensor, trainer: Trainer) -> Tensor:
    """The values of rank 0, on the device of this rank's own tensor.

    A tensor that is sent as an object arrives on the device that it was sent from, which is the
    first GPU. So it is sent from the CPU.
    """
    received = held_by_first_rank(own, trainer, own.device)
    assert received is not None
    return received


def held_by_first_rank(own: Tensor | None, trainer: Trainer, device: torch.device) -> Tensor | None:
    """As `from_first_rank`, of what a rank may have or not have."""
    sent = None if own is None else own.detach().cpu()
    received: Tensor | None = trainer.strategy.broadcast(sent)
    return None if received is None else received.to(device)


@torch.no_grad()
def copy_from_first_rank(parameters: Iterable[Tensor], trainer: Trainer) -> None:
    """Give all ranks the values of rank 0, which DDP does not do for parameters it ignores."""
    for parameter in parameters:
        parameter.data.copy_(from_first_rank(parameter, trainer))


def take_out(
    optimizers: Sequence[Optimizer], parameters: Sequence[Tensor], learner: str
) -> list[list[Tensor]]:
    """Take parameters out of the user's optimizers.

    Args:
        optimizers: all optimizers of the trainer.
        parameters: the parameters that the callback updates itself.
        learner: name of the callback.

    Returns:
        For every optimizer the parameters to update after its steps: those that it held, and for
        the first optimizer also those that no optimizer held.

    Raises:
        MisconfigurationException: if there is no optimizer.
    """
    if not optimizers:
        raise MisconfigurationException(
            f"{learner} learns after each optimizer step, but the LightningModule configures no "
            "optimizer."
        )
    own = {id(parameter) for parameter in parameters}
    left = list(parameters)
    followers = []
    for optimizer in optimizers:
        held: set[int] = set()
        for group in optimizer.param_groups:
            held |= {id(parameter) for parameter in group["params"]} & own
            # In place, because LBFGS keeps a reference to this list.
            group["params"][:] = [p for p in group["params"] if id(p) not in own]
        followers.append([parameter for parameter in left if id(parameter) in held])
        left = [parameter for parameter in left if id(parameter) not in held]
    followers[0] += left
    return followers


def keeper(trainer: Trainer, parameters: Sequence[Tensor]) -> Optimizer | None:
    """An optimizer that moves parameters which were taken out of it, the same one on all ranks.

    It wraps another one that has lists of its own, on a rank or on all.
    """
    own = {id(parameter) for parameter in parameters}
    for optimizer in trainer.optimizers:
        _, *wrapped = with_wrapped(optimizer)
        held = any(id(parameter) in own for one in wrapped for parameter in parameters_of(one))
        if wrapped and trainer.strategy.reduce_boolean_decision(held, all=False):
            return optimizer
    return None


@torch.no_grad()
def average_over_ranks(
    parameters: Sequence[Tensor], trainer: Trainer, scale: Tensor | None = None
) -> None:
    """Divide gradients by a scale and average them over the ranks, in one reduction.

    A rank may have no gradient of a parameter, if its step went through other branches. As in DDP
    its gradient counts as zero then, and one that no rank has stays missing.

    Args:
        parameters: at least one, the same on all ranks; of one dtype, on one device.
        trainer: the trainer of the fit.
        scale: that of a gradient scaler, a tensor of one number; `None` without one.
    """
    alone = trainer.world_size == 1
    if alone:
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if not parameters or (scale is None and alone):
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    if scale is not None:
        flat /= scale
    if not alone:
        # What is sent must not depend on what this rank has: the others would wait, or get numbers
        # of other parameters. So a mark for each parameter says whether a rank has its gradient.
        marks = flat.new_tensor([parameter.grad is not None for parameter in parameters])
        flat = trainer.strategy.reduce(torch.cat([flat, marks]), reduce_op="mean")
        flat, marks = flat.split([len(flat) - len(parameters), len(parameters)])
        if any(parameter.grad is None for parameter in parameters):  # or else nothing waits here
            for parameter, gradient, mark in zip(
                parameters, gradients, marks.tolist(), strict=True
            ):
                parameter.grad = gradient if mark else None
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, part in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(part.view_as(gradient))
