"""What changes the gradients of an optimizer right before its step."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from wiring_lightning.optim._step_hooks import Arguments, StepHooks, around_gradients


class BeforeStep:
    """Calls a function before every step of an optimizer, when the gradients are complete.

    Lightning tells in `on_before_optimizer_step`, before it clips the gradients: call this object
    there. It does not tell for an optimizer that manual optimization takes with
    `optimizers(use_pl_optimizer=False)`. Then the step itself calls the function.

    Args:
        optimizer: the optimizer.
        change: changes its gradients.
    """

    def __init__(self, optimizer: Optimizer, change: Callable[[], None]) -> None:
        self.optimizer = optimizer
        self._change = change
        self._changed = False  # whether Lightning has told of the step that comes
        self._hooks = StepHooks(optimizer, self._before)

    def __call__(self) -> None:
        """Change the gradients now; the next step does not do it again."""
        self._changed = True
        self._change()

    def detach(self) -> None:
        """Remove the hooks from the optimizer."""
        self._hooks.remove()

    def _before(
        self, _: Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Arguments:
        return around_gradients(arguments, keywords, after=self._change_once)

    def _change_once(self) -> None:
        if not self._changed:
            self._change()
        self._changed = False
