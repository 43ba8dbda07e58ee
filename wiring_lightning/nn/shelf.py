"""Keeping the outputs of a stage until their last reader."""

from typing import Generic, TypeVar

from wiring_lightning.functional import Pattern, last_reader, sources

T = TypeVar("T")


class StagePlan:
    """Which outputs each layer of a stage reads (`reads`), and reads last (`finished`).

    Args:
        layers: layers of the stage. The part after the stage reads as layer `layers + 1`.
        pattern: as for `functional.offsets`.
        base: as for `functional.offsets`.

    Example:
        >>> plan = StagePlan(4)
        >>> plan.reads
        ((0,), (0, 1), (1, 2), (0, 2, 3), (1, 3, 4))
        >>> plan.finished
        ((), (), (), (0, 2), (1, 3, 4))
    """

    def __init__(self, layers: int, pattern: Pattern = "log", base: int = 2) -> None:
        readers = range(1, layers + 2)
        self.reads = tuple(sources(layer, pattern, base) for layer in readers)
        finished: list[list[int]] = [[] for _ in readers]
        for output in range(layers + 1):
            finished[last_reader(output, layers, pattern, base) - 1].append(output)
        self.finished = tuple(map(tuple, finished))


class Shelf(Generic[T]):
    """Holds each output of a stage until its last reader has taken it, to free memory early.

    With gradients, autograd still keeps what the backward pass needs. `stage_input` is output 0.

    Example:
        >>> shelf = Shelf(StagePlan(2), "input")
        >>> shelf.take()
        ['input']
        >>> shelf.put("first")
        >>> shelf.take()
        ['input', 'first']
        >>> shelf.put("second")
        >>> shelf.take(), len(shelf)
        (['first', 'second'], 0)
    """

    def __init__(self, plan: StagePlan, stage_input: T) -> None:
        self.plan = plan
        self.held: dict[int, T] = {0: stage_input}
        self.layer = 0

    def take(self) -> list[T]:
        """The outputs that the next layer reads, oldest first."""
        taken = [self.held[index] for index in self.plan.reads[self.layer]]
        for index in self.plan.finished[self.layer]:
            del self.held[index]
        self.layer += 1
        return taken

    def put(self, output: T) -> None:
        """Add the output of the layer that called `take` last."""
        self.held[self.layer] = output

    def __len__(self) -> int:
        return len(self.held)
