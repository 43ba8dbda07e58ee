"""`wiring export`: from a run to a file that runs by itself."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import wiring_lightning as wl
from tests.cli.commands import Trained, network_of, refused, succeed
from tests.methods import digits, named
from tests.shallow import shallow
from tests.trainers import quiet_trainer
from wiring_lightning.cli.export_images import run_images
from wiring_lightning.cli.runs import find_run

IMAGES = torch.randn(5, 1, 8, 8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies of three runs are enough here."""
    monkeypatch.setattr("wiring_lightning.cli.export_table._SECONDS", 0.0)


def test_a_run_is_exported_compared_and_counted(trained: Trained) -> None:
    pytest.importorskip("safetensors")
    said = succeed("export", str(trained.folder), "--output", "net.safetensors", "--data")
    network = network_of(trained.checkpoint).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            wl.load_exported("net.safetensors")(IMAGES), network(IMAGES), atol=1e-5, rtol=1e-5
        )
    rows = re.findall(r"\d[\d,]*", "\n".join(said.splitlines()[1:4]))
    whole, compact, written = (int(number.replace(",", "")) for number in rows[:3])
    wiring = network.wiring()
    assert whole == int(wl.costs.parameters(wiring, live=False))
    assert compact == written == int(wl.costs.parameters(wiring))
    assert int(rows[6].replace(",", "")) == Path(trained.checkpoint).stat().st_size
    assert int(rows[8].replace(",", "")) == Path("net.safetensors").stat().st_size
    assert said.count(" ms") == 6
    assert "images ['batch', 1, 8, 8]. On 64 test images of the run its logits" in said
    assert "100.0% of its classes are the same" in said
    assert "images that are normalised as in the run: data.normalizer" in said
    with torch.no_grad():
        logits = network(run_images(find_run(trained.folder), 64))
    assert f" its logits, up to {float(logits.abs().max()):.2g}, differ by at most " in said


def test_the_images_of_the_run_are_those_that_it_was_tested_on(trained: Trained) -> None:
    data = digits()
    data.setup("test")
    expected, _ = next(iter(data.test_dataloader()))
    assert torch.equal(run_images(find_run(trained.folder), 20), expected[:20])


def test_bad_input_is_one_sentence(trained: Trained, tmp_path: Path) -> None:
    run, name = str(trained.folder), "net.pt2"
    Path("there.pt2").write_bytes(b"mine")
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(Path(trained.checkpoint).read_bytes())
    cases = [
        ((run, "--output", "net.pb"), "net.pb must end in .onnx, .pt2, .safetensors"),
        ((run, "--output", "there.pt2"), "there.pt2 is there already"),
        ((run, "--output", f"{alone}/net.pt2"), "alone.ckpt is no folder; name another place"),
        ((run, "--output", name, "--checkpoint", "best"), "has no best checkpoint"),
        ((str(alone), "--output", name, "--checkpoint", "best"), "chooses from the folder"),
        ((str(alone), "--output", name, "--data"), "no config.yaml beside it"),
        ((run, "--output", name, "--image", "1", "0", "8"), "at least 1"),
        ((run, "--output", name, "--image", "1", "8", "8", "--data"), "no effect with --data"),
        ((run, "--output", name, "--image", "2", "8", "8"), "compute images of shape [2, 8, 8]:"),
        (("nowhere", "--output", name), "There is no checkpoint at nowhere"),
        ((str(tmp_path), "--output", name), "is no run folder"),
    ]
    for arguments, sentence in cases:
        assert sentence in refused("export", *arguments)
    assert Path("there.pt2").read_bytes() == b"mine"
    assert not Path(name).exists()


def test_data_of_another_package_needs_trust(trained: Trained, tmp_path: Path) -> None:
    config = yaml.safe_load(Path(trained.config).read_text())
    config["data"] = {"class_path": "os.system", "init_args": {"command": "touch it_ran"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "w.ckpt").write_bytes(Path(trained.checkpoint).read_bytes())
    given = ("export", str(tmp_path), "--output", "net.pt2", "--data")
    assert "os.system, which is no data module of this package" in refused(*given)
    refused(*given, "--trust")  # it is no data module at all
    assert not Path("it_ran").exists()
    assert not Path("net.pt2").exists()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_checkpoint_is_exported_in_the_other_formats(suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    path = Path(f"net{suffix}")
    path.write_bytes(b"an earlier one")
    method = shallow(named("resnet-learned"))
    trainer, task = quiet_trainer(callbacks=method.new_callbacks(), max_steps=2), method.task()
    trainer.fit(task, digits())
    trainer.save_checkpoint("trained.ckpt")
    said = succeed("export", "trained.ckpt", "--output", str(path), "--overwrite")
    assert "64 handwritten digits" in said
    network = task.backbone.eval()
    loaded = wl.load_exported(path, trust=True)
    with torch.no_grad():
        for count in (1, 2, 5):
            torch.testing.assert_close(
                loaded(IMAGES[:count]), network(IMAGES[:count]), atol=1e-5, rtol=1e-5
            )
