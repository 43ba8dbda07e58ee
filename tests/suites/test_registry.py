"""The registry is complete, and a config finds what a row names."""

import inspect
from importlib import import_module

from tests.methods import METHODS, Method, over
from tests.outside import LargestWeights, TwoLayers
from wiring_lightning import backbones, callbacks
from wiring_lightning.callbacks import WiringCallback


def test_every_backbone_and_every_learner_has_a_row() -> None:
    learners = {
        learner
        for name in callbacks.__all__
        if issubclass(learner := getattr(callbacks, name), WiringCallback)
        and not inspect.isabstract(learner)
    }
    assert len(learners) >= 8
    assert learners | {LargestWeights} == {make for row in METHODS for make, _ in row.callbacks}
    shipped = {getattr(backbones, name) for name in backbones.__all__}
    # The suites train on single digits; GatedHeads answers several questions about several digits.
    assert shipped | {TwoLayers} == {row.backbone for row in METHODS} | {backbones.GatedHeads}


def test_names_are_unique() -> None:
    assert len({row.name for row in METHODS}) == len(METHODS)


@over(METHODS)
def test_a_row_that_learns_has_a_learner_and_a_reason_is_given_for_what_it_is_without(
    method: Method,
) -> None:
    assert bool(method.callbacks) >= (method.learns != "nothing")
    assert all(len(reason.split()) >= 3 for reason in method.without.values())


@over(METHODS)
def test_paths_in_a_config_lead_to_the_classes_of_the_row(method: Method) -> None:
    config = method.config()
    parts = config["model"]["init_args"]
    found = [_load(part["class_path"]) for part in (parts["backbone"], parts["optimizer"])]
    assert found == [method.backbone, method.optimizer[0]]
    learners = [_load(part["class_path"]) for part in config["callbacks"]]
    assert learners == [make for make, _ in method.callbacks]


def _load(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
