"""The edges of a fabric: all candidates of a search, or those of one architecture."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from wiring_lightning.nn.fabric import FabricEdge


def choose_edges(
    edges: Sequence[FabricEdge], architecture: str | Sequence[str]
) -> list[FabricEdge]:
    """The edges for a search, or those of an architecture.

    Args:
        edges: all candidates.
        architecture: `"search"` for all edges, sampled by a gate; `"full"` for all edges without a
            gate; or the names of the edges to keep, without a gate.

    Raises:
        ValueError: if an edge is unknown or named twice, or `architecture` is another word.

    Warns:
        UserWarning: if the edges do not connect the first node to the last.

    Example:
        >>> edges = [FabricEdge("there", 0, 1), FabricEdge("back", 1, 2), FabricEdge("skip", 0, 2)]
        >>> [(edge.name, edge.learnable) for edge in choose_edges(edges, ["there", "back"])]
        [('there', False), ('back', False)]
    """
    if architecture == "search":
        return list(edges)
    if architecture == "full":
        architecture = [edge.name for edge in edges]
    if isinstance(architecture, str):
        raise ValueError(
            f'architecture must be a known word or a list of edges, got "{architecture}".'
        )
    known = {edge.name for edge in edges}
    for name, count in Counter(architecture).items():
        if name not in known:
            raise ValueError(
                f'architecture names the edge "{name}", but this fabric has none of that name; its '
                f'edges are called like "{edges[0].name}".'
            )
        if count > 1:
            raise ValueError(f'architecture names the edge "{name}" {count} times.')
    chosen = [replace(edge, learnable=False) for edge in edges if edge.name in set(architecture)]
    reached = {0}
    for edge in sorted(chosen, key=lambda edge: edge.target):  # data flow to higher numbers
        if edge.source in reached:
            reached.add(edge.target)
    if max(edge.target for edge in edges) not in reached:
        warnings.warn(
            f"architecture does not connect the input to the output with its {len(chosen)} edges: "
            "no image reaches the classifier.",
            stacklevel=3,
        )
    return chosen
