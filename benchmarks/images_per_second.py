"""How many training images one core delivers per second, from files and from memory.

    python -m benchmarks.images_per_second
    python -m benchmarks.images_per_second --images 2048 --markdown results/images_per_second.md

The files are pictures of about 500x375 pixels in JPEG at quality 90, written to a temporary folder.
They have no noise, so they are smaller than photographs and decoded faster.

- decoding: `read_image`, all pixels of a file
- ImageNet, training: decoding, a random crop of 224x224, mirroring, batches from one worker
- ImageNet, evaluation: decoding, resizing to 256, the centre of 224x224, batches from one worker
- normalising: bytes of 224x224 to floats, which the training process does on its device
- in memory: random images of 32x32, like CIFAR-10's, normalised, and padded, cropped and mirrored

Memory is allocated as in a usual run, in which freed memory goes back to the system.
"""

import argparse
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.machine import describe
from wiring_lightning.data import CropFlip, ImageDataModule, ImageNet
from wiring_lightning.data._read_image import read_image

_SIZE = (375, 500)
_CLASSES = 4
_IN_MEMORY = 10_000

Pass = Callable[[], int]
"""Delivers all images once, and returns their number."""


class LikeCIFAR(ImageDataModule):
    """Random images with the shape and the augmentation of CIFAR-10."""

    num_classes = 10
    image_shape = (3, 32, 32)
    crop_flip = CropFlip(padding=4)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return 10,000 training images or one test image."""
        size = _IN_MEMORY if train else 1
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (size, *self.image_shape), generator=generator)
        return images.to(torch.uint8), torch.arange(size) % self.num_classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="number of files")
    parser.add_argument("--batch", type=int, default=64, help="batch size of the files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--note", help="a sentence on the run, such as what else the machine did")
    parser.add_argument("--markdown", help="file to write the table into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        size = write_pictures(Path(folder), options.images)
        lines = [
            "# Images per second of one core", "",
            f"{describe('cpu', 1)}, {options.images} files of {size / 2**10:.0f} KiB on average, "
            f"`python -m benchmarks.images_per_second {shlex.join(sys.argv[1:])}`", "",
            "| data | per second of processor time | per second of the clock |", "|" + " --- |" * 3,
        ]  # fmt: skip
        print("\n".join(lines), flush=True)
        for row in _rows(Path(folder), options):
            lines.append(row)
            print(row, flush=True)
    end = ["", f"Median of {options.rounds} rounds (slowest to fastest). A worker's processor time "
           "is that of all rounds, with one more to start with."]  # fmt: skip
    end += ["", options.note] if options.note else []
    print("\n".join(end))
    lines += end
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_pictures(root: Path, count: int) -> float:
    """Write `count` files for training and as many links to them for evaluation.

    Returns:
        Mean size of a file in bytes.
    """
    generator = np.random.default_rng(0)
    rows, columns = np.meshgrid(*(np.linspace(0, 1, size) for size in _SIZE), indexing="ij")
    sizes = []
    for number in range(count):
        # Waves of all lengths down to 4 pixels, the short ones fainter, as in photographs.
        frequencies = np.geomspace(2, 250, 24)
        channels = []
        for _ in range(3):
            angles, phases = generator.uniform(0, 2 * np.pi, (2, len(frequencies)))
            channels.append(
                sum(
                    np.sin(f * np.pi * (np.cos(a) * columns + np.sin(a) * rows) + p) / f**0.3
                    for f, a, p in zip(frequencies, angles, phases, strict=True)
                )
            )
        picture = np.stack(channels, axis=2)
        picture = (picture - picture.min()) / np.ptp(picture) * 255
        path = root / f"train/{number % _CLASSES}/{number}.jpg"
        link = root / f"val/{number % _CLASSES}/{number}.jpg"
        for each in (path, link):
            each.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(path, quality=90)
        link.symlink_to(path)
        sizes.append(path.stat().st_size)
    return statistics.mean(sizes)


def _rows(root: Path, options: argparse.Namespace) -> Iterable[str]:
    files = sorted(map(str, root.glob("train/*/*.jpg")))
    yield _in_process("decoding", partial(_decode, files), options.rounds)
    data = ImageNet(str(root), batch_size=options.batch, num_workers=1)
    data.setup("fit")
    for name, loader in (
        ("training", data.train_dataloader()),
        ("evaluation", data.val_dataloader()),
    ):
        before = _children()
        clock, _ = time_passes(partial(_count, loader), options.rounds)
        loader.close()  # the time of a process that has ended is known
        delivered = len(files) * (options.rounds + 1)
        yield _row(f"ImageNet, {name}", [delivered / (_children() - before)], clock)
    batch = torch.randint(256, (options.batch, *data.image_shape)).to(torch.uint8)
    yield _in_process("normalising", partial(_normalise, data, batch), options.rounds)
    for name, augment in (("with", True), ("without", False)):
        small = LikeCIFAR(batch_size=128, augment=augment, val_size=0)
        small.setup("fit")
        passes = partial(_count, small.train_dataloader())
        yield _in_process(f"in memory, {name} augmentation", passes, options.rounds)


def _in_process(name: str, passes: Pass, rounds: int) -> str:
    clock, processor = time_passes(passes, rounds)
    return _row(name, processor, clock)


def time_passes(passes: Pass, rounds: int) -> tuple[list[float], list[float]]:
    """Images per second of the clock, and of this process's processor time, after one round."""
    passes()
    clock, processor = [], []
    for _ in range(rounds):
        start, own_start = time.perf_counter(), time.process_time()
        images = passes()
        clock.append(images / (time.perf_counter() - start))
        processor.append(images / (time.process_time() - own_start))
    return clock, processor


def _row(name: str, processor: list[float], clock: list[float]) -> str:
    return f"| {name} | {_rate(processor)} | {_rate(clock)} |"


def _rate(rates: list[float]) -> str:
    middle = f"{statistics.median(rates):,.0f}"
    return middle if len(rates) == 1 else f"{middle} ({min(rates):,.0f} to {max(rates):,.0f})"


def _children() -> float:
    """Seconds of processor time that ended worker processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _decode(files: list[str]) -> int:
    for path in files:
        read_image(path)
    return len(files)


def _count(loader: Iterable[tuple[Tensor, Tensor]]) -> int:
    return sum(len(labels) for _, labels in loader)


def _normalise(data: ImageNet, batch: Tensor) -> int:
    data.normalizer(batch)
    return len(batch)


if __name__ == "__main__":
    main()
