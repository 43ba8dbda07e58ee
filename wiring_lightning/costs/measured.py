"""The latency of an architecture, measured on this machine."""

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from wiring_lightning.costs.configured import ConfiguredCost
from wiring_lightning.nn import find_bernoulli_gates
from wiring_lightning.nn.plain_weights import with_plain_weights
from wiring_lightning.wiring import Priced, SuperNetwork, Wiring


def latency(
    wiring: Wiring, network: SuperNetwork, images: Tensor, repeats: int = 20, warmup: int = 3
) -> Tensor:
    """Measure the milliseconds that the compact network of each architecture takes.

    Args:
        wiring: one architecture of the network, or a batch of them.
        network: the network, on the device to measure.
        images: the input; only its shape matters.
        repeats: as for `Latency`.
        warmup: as for `Latency`.

    Returns:
        A float tensor, a scalar or `[...]` like the batch; 0 for an architecture that does not
        connect its input to its output.

    Raises:
        ValueError: if a number is too small, or the wiring is not one of the network.
    """
    cost = Latency(images.shape[1:], len(images), repeats, warmup)
    cost.bind(network)
    return cost(wiring)


class Latency(ConfiguredCost):
    """Measured latency as a cost for a search. Each architecture is measured once.

    Times the network that `compact()` makes of an architecture, on the device of the network, with
    random images of the type of the network's parameters. The result depends on the machine and is
    noisy.

    Args:
        image_shape: channels, height and width of an image; by default those of the first tensor
            that the network gets after `bind`.
        batch_size: number of images.
        repeats: number of timed runs; the result is their median.
        warmup: number of runs before them.

    Raises:
        ValueError: if a number is too small; when called, if the network or the shape is unknown,
            the network cannot be copied, or the wiring is not one of the network.
    """

    def __init__(
        self,
        image_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        repeats: int = 20,
        warmup: int = 3,
    ) -> None:
        if batch_size < 1 or repeats < 1 or warmup < 0:
            raise ValueError(
                "Latency needs at least one image and one timed run, got "
                f"batch_size={batch_size}, repeats={repeats}, warmup={warmup}."
            )
        self._given_shape = None if image_shape is None else tuple(image_shape)
        self.image_shape = self._given_shape  # or that of the first input after `bind`
        self.batch_size = batch_size
        self.repeats = repeats
        self.warmup = warmup
        self._network: SuperNetwork | None = None
        self._architectures: _Architectures | None = None
        self._watch: RemovableHandle | None = None
        # By what is measured, and the live edges of an architecture.
        self._known: dict[tuple[tuple[int, ...], int, bytes], float] = {}

    @override
    def bind(self, network: Priced) -> None:
        """Set the network whose architectures are measured.

        Raises:
            ValueError: if the network cannot build them.
        """
        if not isinstance(network, SuperNetwork):
            raise ValueError(
                "Latency builds the architectures that it measures: "
                f"{type(network).__name__} needs the methods `compact` and `active_edges`, too."
            )
        self._network, self._architectures = network, None
        self._known.clear()
        self._stop_watching()
        self.image_shape = self._given_shape
        if self.image_shape is None and isinstance(network, nn.Module):
            self._watch = network.register_forward_pre_hook(self._set_image_shape, with_kwargs=True)

    @override
    def __call__(self, wiring: Wiring) -> Tensor:
        """The latency of one architecture, or of each in a batch."""
        if self._network is None:
            raise ValueError("Latency does not know the network yet: call `bind(network)` first.")
        if self.image_shape is None:
            raise ValueError("Latency does not know the size of an image: give `image_shape`.")
        if self._architectures is None:
            self._architectures = _Architectures(self._network)
        alive = wiring.live_nodes.any(-1).flatten().tolist()
        live_edges = wiring.live_edges.reshape(-1, len(wiring.source))
        prices = []
        for edges, connected in zip(live_edges, alive, strict=True):
            key = tuple(self.image_shape), self.batch_size, edges.numpy().tobytes()
            if key not in self._known:
                self._known[key] = self._measure(edges) if connected else 0.0
            prices.append(self._known[key])
        return torch.tensor(prices, device="cpu").reshape(wiring.active.shape[:-1])

    def __repr__(self) -> str:
        return f"Latency(image_shape={self.image_shape}, batch_size={self.batch_size})"

    def _set_image_shape(
        self, _network: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        for given in (*inputs, *named.values()):
            if isinstance(given, Tensor):
                self.image_shape = tuple(given.shape[1:])
                self._stop_watching()
                return

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    @torch.inference_mode()
    def _measure(self, edges: Tensor) -> float:
        assert self._network is not None
        assert self._architectures is not None
        assert self.image_shape is not None
        network = self._architectures.compact(edges)
        if network is None:  # another gate of the network may choose other edges than in the copy
            self._architectures = _Architectures(self._network)
            network = self._architectures.compact(edges)
        if network is None:
            raise ValueError(
                "this wiring is no architecture of the network given to `Latency.bind`."
            )
        network.eval()
        device = self._architectures.device
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
        images = torch.randn(self.batch_size, *self.image_shape, dtype=dtype, device=device)
        times = []
        for _ in range(self.warmup + self.repeats):
            _wait(device)
            start = time.perf_counter()
            network(images)
            _wait(device)
            times.append(1000 * (time.perf_counter() - start))
        return median(times[self.warmup :])


class _Architectures:
    """Builds the compact network of any architecture, from a copy of the super-network."""

    def __init__(self, network: SuperNetwork) -> None:
        assert isinstance(network, nn.Module)
        try:
            self.network = deepcopy(with_plain_weights(network))
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                f"Latency measures a copy of the network, but {type(network).__name__} cannot be "
                f"copied ({error}): remove what cannot, such as a hook that holds a lock."
            ) from error
        (self.gate,) = find_bernoulli_gates(self.network).values()
        self.gate.logits.requires_grad_(False)
        self.device = self.gate.logits.device
        # For each edge of the gate a mask of the wiring's edges that it alone activates.
        single = torch.eye(len(self.gate.logits), dtype=torch.bool, device=self.device)
        always = self.network.active_edges(torch.zeros_like(single[:1])).cpu()
        self._own_edges = self.network.active_edges(single).cpu() & ~always

    def compact(self, edges: Tensor) -> nn.Module | None:
        """The compact network with these active `[edges]` of the wiring; None if it has others."""
        if edges.shape == self._own_edges.shape[1:]:
            drawn = (edges | ~self._own_edges).all(-1).to(self.device)
            self.gate.logits.copy_(torch.where(drawn, 1.0, -1.0))
            if torch.equal(self.network.wiring().live_edges, edges):
                return self.network.compact()
        return None


def _wait(device: torch.device) -> None:
    """Wait until a device has done what it was asked for; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
