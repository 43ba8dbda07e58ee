"""Pictures that the build makes with `wiring_lightning.plots`, so that they show today's code.

A page asks for one with the comment `<!-- picture: NAME -->`, which is not seen where there is no
build. Nothing is trained for them, and every draw has a seed.
"""

import os.path
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARK = re.compile(r"^<!-- picture: (\w+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Picture:
    """How a picture is drawn, and what is said about it."""

    draw: Callable[[], "Figure"]
    caption: str  # Markdown; also what is read aloud in place of the picture


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Draw all pictures that a page of docs/ asks for."""
    asked = {name for file in files.documentation_pages() for name in _asked_by(file)}
    for name in sorted(asked):
        content = BytesIO()
        PICTURES[name].draw().savefig(content, format="png", dpi=130)
        files.append(File.generated(config, _place(name), content=content.getvalue()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the pictures where a page asks for them."""
    del config, files
    here = posixpath.dirname(page.file.src_uri) or "."

    def show(mark: re.Match[str]) -> str:
        caption = PICTURES[mark[1]].caption
        alt = caption.replace("`", "")
        return f"![{alt}]({os.path.relpath(_place(mark[1]), here)})\n\n*{caption}*"

    return _MARK.sub(show, markdown)


def _asked_by(file: File) -> list[str]:
    return _MARK.findall(file.content_string)


def _place(name: str) -> str:
    return f"images/made/{name}.png"


def _gates() -> "Figure":
    import torch

    from wiring_lightning.backbones import ResNeXt
    from wiring_lightning.plots import draw_wiring

    torch.manual_seed(0)
    network = ResNeXt(depth=20, width=4, cardinality=8, fan_in=1, wiring="random", num_classes=10)
    return draw_wiring(network.wiring())


def _blocks() -> "Figure":
    import torch

    from wiring_lightning.backbones import ResNet
    from wiring_lightning.plots import draw_connectivity

    torch.manual_seed(0)
    network = ResNet(depth=26, fan_in=3, wiring="random", num_classes=10)
    return draw_connectivity(network.wiring(), "K = 3, drawn at random")


def _largest() -> "Figure":
    import torch

    from wiring_lightning.backbones import NeuralGraph
    from wiring_lightning.plots import draw_channels

    torch.manual_seed(0)
    network = NeuralGraph(nodes=80, inputs=8, outputs=10, edges=250)
    return draw_channels(network.wiring())


def _offsets() -> "Figure":
    from wiring_lightning.backbones import SparseNet
    from wiring_lightning.plots import draw_wiring

    return draw_wiring(SparseNet(depth=40, growth=12, num_classes=10).wiring())


def _fabric() -> "Figure":
    import torch

    from wiring_lightning.backbones import ConvFabric
    from wiring_lightning.nn import find_bernoulli_gates
    from wiring_lightning.plots import draw_fabric

    torch.manual_seed(0)
    network = ConvFabric(columns=5, channels=8, scales=4, num_classes=10)
    with torch.no_grad():
        for gate in find_bernoulli_gates(network).values():
            gate.logits.normal_(mean=0.5)
    return draw_fabric(network.wiring())


PICTURES = {
    "gates": Picture(
        _gates,
        "A ResNeXt of six modules with eight branches, each of which reads one branch of the "
        "module above (K = 1), drawn at random. Nobody needs the dashed branches: `compact()` "
        "removes them.",
    ),
    "blocks": Picture(
        _blocks,
        "The blocks of a ResNet-26 in a line. On the left each reads the block before it, on the "
        "right three earlier ones that were drawn at random.",
    ),
    "largest": Picture(
        _largest,
        "A small neural graph before training. Of all edges that it could have, the 250 with the "
        "largest weights are there. Hollow nodes are on no path to the classifier.",
    ),
    "offsets": Picture(
        _offsets,
        "What the layers of a SparseNet of depth 40 read: the outputs at distances 1, 2, 4 and 8 "
        "in their own stage. The number of edges into a layer grows with the logarithm of its "
        "place.",
    ),
    "fabric": Picture(
        _fabric,
        "A convolutional fabric with made-up probabilities. Solid lines are the modules of the "
        "most probable architecture. What is dashed is left out, and costs nothing.",
    ),
}
