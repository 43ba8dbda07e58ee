"""The arguments of the data modules, from Python and in configs."""

import inspect
from typing import Any

import docstring_parser
import pytest
from jsonargparse import ArgumentParser

from wiring_lightning import data

SHARED = {
    "batch_size": 128,
    "augment": True,
    "normalization": "pixel_mean",
    "seed": 0,
    "drop_last": False,
}
LABELLED = {**SHARED, "val_size": 5000}
DOWNLOADED = {**LABELLED, "root": "data", "download": False}
WITH_MASKS = {**SHARED, "batch_size": 16, "normalization": "symmetric"}

DEFAULTS: dict[str, dict[str, Any]] = {
    "Digits": {**LABELLED, "val_size": 200},
    "DigitSums": {
        **SHARED,
        "size": 12_800,
        "digits": 8,
        "sums": 8,
        "addends": 2,
        "wiring_seed": 0,
        "augment": False,
    },
    "CIFAR10": DOWNLOADED,
    "CIFAR100": DOWNLOADED,
    "FashionMNIST": DOWNLOADED,
    "MiniImageNet": {
        **LABELLED,
        "root": "data/mini-imagenet",
        "batch_size": 256,
        "train_per_class": 500,
        "test_per_class": 100,
        "val_size": 0,
    },
    "ImageNet": {
        "root": "data/imagenet",
        "batch_size": 256,
        "num_workers": None,
        "image_size": 224,
        "resize": 256,
        "seed": 0,
        "drop_last": False,
        "predict_root": None,
    },
    "ImageFolder": {
        "root": "data/images",
        "batch_size": 64,
        "image_size": 224,
        "resize": None,
        "grey": False,
        "table": None,
        "class_names": ["a", "b"],
        "val_share": 0.1,
        "test_share": 0.1,
        "split_seed": 0,
        "predict_root": None,
        "augment": True,
        "min_area": 0.08,
        "num_workers": None,
        "seed": 0,
        "drop_last": False,
    },
    "PartLabels": {**WITH_MASKS, "root": "data/part_labels"},
    "ImageMaskFolder": {
        **WITH_MASKS,
        "class_names": ["a", "b"],
        "root": "data/image_masks",
        "images": "images",
        "masks": "masks",
        "image_size": 256,
        "palette": None,
        "ignored_color": None,
        "train_list": None,
        "val_list": None,
        "test_list": None,
        "val_share": 0.1,
        "test_share": 0.2,
        "split_seed": 0,
        "mask_suffix": "",
    },
}


def parser_of(name: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(data, name), "data")
    return parser


@pytest.mark.parametrize("name", DEFAULTS)
def test_configs_offer_all_options_with_their_defaults(name: str) -> None:
    classes = ['--data.class_names=["a", "b"]'] if "class_names" in DEFAULTS[name] else []
    found = parser_of(name).parse_args(classes)
    assert found.data.as_dict() == DEFAULTS[name]


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_option_is_described_where_it_is_declared(name: str) -> None:
    for kind in getattr(data, name).__mro__:
        if kind.__module__.startswith("wiring_lightning") and "__init__" in vars(kind):
            entries = docstring_parser.parse(kind.__doc__ or "").params
            described = [entry.arg_name for entry in entries if entry.args[0] == "param"]
            assert described == list(inspect.signature(kind).parameters)


@pytest.mark.parametrize("name", DEFAULTS)
def test_python_takes_the_same_options(name: str) -> None:
    options = {option: value for option, value in DEFAULTS[name].items() if value is not None}
    module = getattr(data, name)(**options)
    for option in SHARED.keys() & options.keys():
        assert getattr(module, option) == options[option]
    with pytest.raises(TypeError, match="bath_size"):
        getattr(data, name)(**{**options, "bath_size": 3})


def test_the_first_arguments_need_no_name() -> None:
    for name in ("CIFAR10", "CIFAR100", "FashionMNIST", "MiniImageNet", "ImageNet", "ImageFolder"):
        module = getattr(data, name)("folder", 7)
        assert (module.root, module.batch_size) == ("folder", 7)
    assert data.PartLabels("folder", 7).batch_size == 7
    digits = data.Digits(7, 8)
    assert (digits.batch_size, digits.val_size) == (7, 8)
    assert data.ImageMaskFolder(["a", "b"], "folder").root == "folder"
