"""Wirings that pictures are drawn of, and what networkx says is live in them."""

import networkx
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Gate
from wiring_lightning.wiring import Wiring, make_wiring


def learned(**arguments) -> Wiring:
    """A ResNeXt whose scores are random."""
    network = ResNeXt(**arguments)
    for module in network.modules():
        if isinstance(module, Gate) and module.mode == "learned":
            module.scores.data.copy_(torch.rand_like(module.scores) ** 3)
    return network.wiring()


def chain(length: int) -> Wiring:
    """Blocks one after the other; the first also feeds the last but one."""
    names = ["in", *(f"block{i}" for i in range(1, length - 1)), "out"]
    source = [*range(length - 1), 1]
    target = [*range(1, length), length - 2]
    return make_wiring(names, source, target, [True] * length)


def skipping() -> Wiring:
    """Four blocks, each of which chooses among all earlier ones."""
    pairs = [(i, j) for j in range(1, 5) for i in range(j)]
    source, target = zip(*pairs, strict=True)
    active = [(i, j) in {(0, 1), (0, 2), (1, 3), (2, 4)} for i, j in pairs]
    score = [0.1 * (i + 1) for i, _ in pairs]
    names = ["in", "block1", "block2", "block3", "out"]
    return make_wiring(names, source, target, active, score=score, learnable=[True] * len(pairs))


def live_nodes(wiring: Wiring) -> set[str]:
    """Nodes on an active path, by networkx."""
    graph = wiring.to_networkx()
    graph.remove_edges_from([(u, v) for u, v, on in graph.edges(data="active") if not on])
    first, last = wiring.nodes.names[0], wiring.nodes.names[-1]
    reached = networkx.descendants(graph, first) | {first}
    return reached & (networkx.ancestors(graph, last) | {last})


WIRINGS = {
    "3 modules x 4 branches": lambda: learned(depth=11, cardinality=4, fan_in=1),
    "9 modules x 8 branches": lambda: learned(depth=29, cardinality=8, fan_in=2),
    "fixed random": lambda: learned(depth=20, fan_in=1, wiring="random"),
    "full": lambda: learned(depth=20, fan_in=8, wiring="full"),
    "real": lambda: learned(depth=20, fan_in=4, wiring="real"),
    "chain": lambda: chain(10),
    "skipping": skipping,
}


def is_inside(artist: Artist, figure: Figure) -> bool:
    """Whether all of an artist is in the picture of a figure that was drawn."""
    box, page = artist.get_window_extent(), figure.bbox
    return bool(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1)
