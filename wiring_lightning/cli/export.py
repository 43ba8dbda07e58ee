"""`wiring export RUN|CKPT --output FILE`: a trained network as a file that runs by itself."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from wiring_lightning.cli.arguments import RUN, RunsParser

FORMATS = {
    ".onnx": "for ONNX Runtime and others; needs the extra `export`",
    ".pt2": "a program for torch.export.load; needs only torch",
    ".safetensors": "weights and a description, for wl.load_exported; needs the extra `export`",
}

_DESCRIPTION = """\
Write the compact form of a trained network into a file that needs no callback, no config and no
training code.

formats, by the ending of the file:
{formats}

{run}
A CKPT is a checkpoint of one.

The file is run, with 1, 2, 5 and 64 real images at a time, and compared with the trained network
before it gets its name. The images are scikit-learn's handwritten digits in the size of the
network's images, or with --data the test images of the run. The table compares the trained network,
its compact form, and the file.
"""
_EXAMPLES = """\
examples:
  wiring export lightning_logs/version_0 --output net.onnx
  wiring export lightning_logs/version_0 --output net.safetensors --checkpoint best --data
  wiring export lightning_logs/version_0/checkpoints/last.ckpt --output net.pt2
"""


def run(arguments: Sequence[str]) -> None:
    """Write the file, and print the table.

    Raises:
        RunError: if a folder is no run, or has no such checkpoint.
        CheckpointError: if a checkpoint cannot be read.
        ExportError: if the network cannot be exported, or the file would compute something else.
        FileExistsError: if the file is there already.
        OSError: if it cannot be written.
        UntrustedError: if a class is not of this package, and not trusted.
    """
    given = parse(arguments)  # before torch is loaded
    from wiring_lightning.cli.export_images import digit_images, image_shape, run_images
    from wiring_lightning.cli.export_table import export_table
    from wiring_lightning.cli.loading import find_trained
    from wiring_lightning.cli.runs import RunError
    from wiring_lightning.costs.shares import percent
    from wiring_lightning.export import export_network
    from wiring_lightning.files import check_outputs

    check_outputs([given.output], "--output", given.overwrite)
    trained = find_trained(given.source, given.checkpoint, given.trust)
    network = getattr(trained.task, "backbone", trained.task)
    if given.data and trained.run is None:
        raise RunError(
            f"{given.source} has no config.yaml beside it that names its data: leave --data out."
        )
    if given.data and trained.run is not None:
        images = run_images(trained.run, checkpoint=trained.checkpoint)
        whose = "test images of the run"
    else:
        shape = tuple(given.image) if given.image else image_shape(network)
        images, whose = digit_images(shape), "handwritten digits"
    done = export_network(network, given.output, images)
    print(export_table(network, trained.checkpoint, done, images))
    print(
        f"\n{done.path} is for images {['batch', *images.shape[1:]]}. On {done.images} {whose} its "
        f"logits, up to {done.largest:.2g}, differ by at most {done.from_source:.1g} from those of "
        f"{trained.checkpoint}, and {percent(done.agreement)} of its classes are the same. It "
        "takes images that are normalised as in the run: data.normalizer of the data module does "
        "it."
    )


def parse(arguments: Sequence[str]) -> Namespace:
    """Read the arguments; help and bad arguments end the process.

    Example:
        >>> given = parse(["version_0", "--output", "net.onnx"])
        >>> str(given.source), str(given.output), given.checkpoint
        ('version_0', 'net.onnx', 'last')
    """
    width = max(map(len, FORMATS)) + 2
    formats = "\n".join(f"  {name:<{width}}{text}" for name, text in FORMATS.items())
    parser = RunsParser("export", _DESCRIPTION.format(formats=formats, run=RUN), _EXAMPLES)
    parser.add_argument("source", metavar="RUN|CKPT", type=Path, help="a run, or a checkpoint")
    what = f"file to write: {', '.join(FORMATS)}"
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help=what)
    what = "of a RUN: after the most steps, or the best by what its ModelCheckpoint monitors"
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help=what)
    what = "compare on the test images of the run; reads the files that its config names"
    parser.add_argument("--data", action="store_true", help=what)
    what = "channels, height and width of the images, if the network does not tell them"
    parser.add_argument("--image", metavar=("C", "H", "W"), type=int, nargs=3, help=what)
    parser.add_trust()
    what = "replace a file that is there already"
    parser.add_argument("--overwrite", action="store_true", help=what)
    given = parser.parse_args(arguments)
    if given.output.suffix not in FORMATS:
        parser.error(f"{given.output} must end in {', '.join(FORMATS)}")
    if given.image and (min(given.image) < 1 or given.data):
        parser.error("--image takes three numbers of at least 1, and has no effect with --data")
    if given.checkpoint == "best" and given.source.is_file():
        parser.error("--checkpoint best chooses from the folder of a run, but a file is given")
    return given
