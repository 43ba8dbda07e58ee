"""A network that is rebuilt from a description; nothing in it is compiled or unpickled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.export.description import FORMAT, LOOP, VERSION, operator_named
from wiring_lightning.export.errors import ExportError
from wiring_lightning.export.image_check import check_images, dtype_of_images

# A tracer knows the layout of every weight, and calls a reshape a view where it is one. Who reads
# the weights may give them another layout.
_IN_ANY_LAYOUT: dict[str, Callable[..., Any]] = {"aten.view.default": torch.reshape}


class DescribedNetwork(nn.Module):
    """Runs the operators of a description; the weights are parameters and can be trained further.

    It computes what the exported network computed in evaluation mode, in training mode, too: batch
    norms use their running statistics. `state_dict()` has the names of the compact network, behind
    `weights.`.

    Args:
        description: of `describe`, plain values as JSON has them.
        weights: the tensors that it names.

    Attributes:
        image_shape: channels, height and width of the images.

    Raises:
        ExportError: if the description is none, or names an operator that is not allowed, or a
            weight that is not there.

    Example:
        >>> from wiring_lightning.export import describe, trace
        >>> layer = nn.Conv2d(3, 4, 3)
        >>> rebuilt = DescribedNetwork(*describe(trace(layer, torch.zeros(3, 8, 8))))
        >>> images = torch.randn(5, 3, 8, 8)
        >>> torch.allclose(rebuilt(images), layer(images), atol=1e-6)
        True
    """

    def __init__(self, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        if not isinstance(description, Mapping) or description.get("format") != FORMAT:
            raise ExportError("there is no description of a network")
        if description.get("version") != VERSION:
            raise ExportError(
                f"its description has version {description.get('version')}, and this version of "
                f"wiring_lightning reads version {VERSION}"
            )
        self.weights = nn.Module()
        try:
            buffers = set(description["buffers"])
            for name, value in weights.items():
                _register(self.weights, name, value, learns=name not in buffers)
            self._of_weight = {name: tuple(name.split(".")) for name in weights}
            self._plain = description["graphs"]
            self._graphs = self._read_graphs()
            self.image_shape = tuple(int(size) for size in description["image"])
            # Files that were written before it was noted have none; theirs were floats.
            word = description.get("image_dtype", "float32")
            self._image_dtype = _torch_word(word, torch.dtype)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ExportError(f"its description is damaged ({error!r})") from error

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> the logits of the exported network.

        Raises:
            ValueError: if the images have another shape than those of the network, or a dtype that
                it cannot compute.
        """
        check_images(images, self.image_shape)
        try:
            (logits,) = self._run(self._graphs["main"], [images], images.device)
        except RuntimeError:  # such as of a product of two dtypes; what works needs no check
            check_images(images, self.image_shape, dtype_of_images(self._image_dtype, self))
            raise
        return logits

    @override
    def extra_repr(self) -> str:
        return f"{list(self.image_shape)}, {len(self._graphs['main'].steps)} operators"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the description: operators of torch cannot be pickled."""
        return {name: value for name, value in vars(self).items() if name != "_graphs"}

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._graphs = self._read_graphs()

    def _read_graphs(self) -> dict[str, "_Graph"]:
        graphs = {name: _Graph.read(graph, self._of_weight) for name, graph in self._plain.items()}
        return {"main": graphs.pop("main"), **graphs}

    def _run(self, graph: "_Graph", inputs: Sequence[Any], device: torch.device) -> list[Any]:
        """The outputs of a graph for some inputs; tensors that a step makes are on `device`."""
        values = dict(enumerate(inputs))

        def fill(value: Any) -> Any:
            if isinstance(value, _Value):
                return values[value.number]
            if isinstance(value, _Weight):
                return self._weight(value.path)
            if isinstance(value, list):
                return [fill(part) for part in value]
            return device if isinstance(value, _Device) else value

        for number, step in enumerate(graph.steps, start=graph.inputs):
            arguments = [fill(argument) for argument in step.arguments]
            if step.function is None:
                values[number] = self._loop(arguments, device)
            else:
                options = {key: fill(value) for key, value in step.options.items()}
                values[number] = step.function(*arguments, **options)
            for last in step.last_uses:
                del values[last]  # its memory is free for the next steps
        return [fill(value) for value in graph.outputs]

    def _loop(self, arguments: Sequence[Any], device: torch.device) -> list[Any]:
        """The last state of a loop: graphs of condition and body, first state, and constants."""
        condition, body, state, constants = arguments
        while bool(self._run(self._graphs[condition.name], [*state, *constants], device)[0]):
            state = self._run(self._graphs[body.name], [*state, *constants], device)
        return list(state)

    def _weight(self, path: Sequence[str]) -> Tensor:
        """The weight of a name, which is split at its dots."""
        module = self.weights
        for part in path[:-1]:
            module = module._modules[part]  # type: ignore[assignment]
        return getattr(module, path[-1])


@dataclass(frozen=True)
class _Value:
    """The value of a number: an input of the graph, or the result of an earlier step."""

    number: int


@dataclass(frozen=True)
class _Weight:
    """The weight of a name, which is split at its dots."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class _Body:
    """Another graph, which a loop runs."""

    name: str


@dataclass(frozen=True)
class _Device:
    """That of the images."""


@dataclass(frozen=True)
class _Step:
    """An operator, `None` for a loop, and what it is applied to.

    `last_uses` are the numbers of the values that no later step reads.
    """

    function: Callable[..., Any] | None
    arguments: list[Any]
    options: dict[str, Any]
    last_uses: tuple[int, ...]


@dataclass(frozen=True)
class _Graph:
    """A number of inputs, the steps, and what they give."""

    inputs: int
    steps: list[_Step]
    outputs: list[Any]

    @classmethod
    def read(cls, plain: Mapping[str, Any], weights: Mapping[str, tuple[str, ...]]) -> "_Graph":
        """Read a graph of a description.

        Args:
            plain: the graph as JSON.
            weights: the path of each weight by its name.

        Raises:
            ExportError: if it names an operator that is not allowed.
            ValueError: if a step reads what is not there yet; other errors if it is damaged.
        """
        inputs, outputs = int(plain["inputs"]), _read(plain["outputs"], weights)
        read = []
        for step in plain["steps"]:
            function = _IN_ANY_LAYOUT.get(step["op"])
            if function is None and step["op"] != LOOP:
                function = operator_named(step["op"])
            options = {str(key): _read(v, weights) for key, v in step.get("kwargs", {}).items()}
            read.append((function, _read(step["args"], weights), options))
        # From the last step to the first: a value that no later step needs is used there last.
        needed, steps = set(_numbers(outputs)), list[_Step]()
        for number in reversed(range(len(read))):
            function, arguments, options = read[number]
            own = inputs + number  # the number of its result
            used = {own, *_numbers([arguments, *options.values()])}
            if max(used) > own or min(used) < 0:
                raise ValueError(f"step {number} reads a value that is not there yet")
            steps.append(_Step(function, arguments, options, tuple(sorted(used - needed))))
            needed |= used
        return cls(inputs, steps[::-1], outputs)


def _read(value: Any, weights: Mapping[str, tuple[str, ...]]) -> Any:
    """An argument of a description; what is no plain value there is a mapping with one key."""
    if isinstance(value, list):
        return [_read(part, weights) for part in value]
    if not isinstance(value, Mapping):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "value":
            return _Value(int(content))
        case "weight":
            return _Weight(weights[content])
        case "graph":
            return _Body(content)
        case "float":
            return float(content)
        case "dtype":
            return _torch_word(content, torch.dtype)
        case "memory_format":
            return _torch_word(content, torch.memory_format)
        case "device":
            return _Device()
    raise ValueError(f"it has a value of kind {kind!r}")


def _numbers(value: Any) -> list[int]:
    """The numbers of all values in some arguments."""
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [value.number] if isinstance(value, _Value) else []


def _torch_word(word: str, kind: type) -> Any:
    """What torch calls `word`, such as `torch.float32`, if it is of that kind."""
    found = getattr(torch, word)
    if not isinstance(found, kind):
        raise ValueError(f"{word} is no {kind.__name__}")
    return found


def _register(root: nn.Module, name: str, value: Tensor, learns: bool) -> None:
    """Add a weight below a module, with empty modules for the parts of its name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if learns and value.is_floating_point():
        root.register_parameter(last, nn.Parameter(value))
    else:
        root.register_buffer(last, value)
