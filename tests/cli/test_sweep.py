"""`wiring sweep` on Ray Tune: killed and started again, a run that fails, two nodes."""

import os
import re
import signal
import time
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.commands import BASE, process, succeed, wiring, write
from wiring_lightning.checkpoints import load_checkpoint
from wiring_lightning.cli.runs import find_run

pytest.importorskip("ray", reason="the extra `sweep` is not installed")
pytestmark = pytest.mark.slow

SHORT = ("--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false")


def steps(folder: Path) -> int:
    """How many steps a run has trained."""
    return load_checkpoint(find_run(folder).checkpoint())["global_step"]


def test_killed_and_started_again_it_goes_on_and_a_failure_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cluster that is not there: without --address a sweep stays on this machine.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    write(BASE, tmp_path / "base.yaml")
    # A fan-in of 99 is a number, so only the run itself finds out that it cannot be.
    values = "model.backbone.init_args.fan_in=[99,1]"
    command = ("-m", "wiring_lightning", "sweep", "--config", "base.yaml", "--set", values,
               "--trainer.max_epochs=20", *SHORT)  # fmt: skip
    run = tmp_path / "sweep" / "fan_in_1-seed_0"
    first = process(*command, folder=tmp_path)
    while first.poll() is None and not list(run.rglob("*.ckpt")):
        time.sleep(0.1)
    assert first.poll() is None, first.communicate()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert find_run(run).last_number("test/acc") is None

    again = process(*command, folder=tmp_path)
    out, err = again.communicate()
    assert again.returncode == 1, err
    assert "fan_in_1-seed_0: goes on" in out
    assert "fan_in_1-seed_0: done" in out
    said = re.search(r"fan_in_99-seed_0: FAILED \(exit code 2: (.*)\), log: (.*)\n", out)
    assert said is not None
    assert "99" in said[1]
    assert said[1] in Path(said[2]).read_text()
    assert "1 of 2 runs failed" in out
    assert steps(run) == 20 * 2
    assert find_run(run).last_number("test/acc") is not None
    assert "| 1 | 1 | " in wiring("table", str(run), "--by=model.backbone.fan_in").out

    third = process(*(word.replace("[99,1]", "1") for word in command), folder=tmp_path)
    out, _ = third.communicate()
    assert (third.returncode, ": 1, done before: 1\n" in out) == (0, True)
    assert "seed_0" not in out  # nothing begins


def test_two_nodes_run_at_the_same_time(tmp_path: Path) -> None:
    write(BASE, tmp_path / "base.yaml")
    code = f"""
from ray.cluster_utils import Cluster
from wiring_lightning.cli import main
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1}})
cluster.add_node(num_cpus=1)
main(["sweep", "--config", "base.yaml", "--seeds=2", "--address", cluster.address,
      "--trainer.max_epochs=2", *{SHORT!r}])
cluster.shutdown()
"""
    running = process("-c", code, folder=tmp_path)
    out, err = running.communicate()
    assert running.returncode == 0, err
    # Each node has one core, so two runs at once are on two nodes.
    assert out.index("seed_1: begins") < out.index(": done")
    assert out.index("seed_0: begins") < out.index(": done")
    runs = [tmp_path / "sweep" / f"seed_{seed}" for seed in (0, 1)]
    assert [steps(run) for run in runs] == [4, 4]
    assert "| 2 | " in succeed("table", *map(str, runs))


def test_the_rule_of_the_median_pauses_nobody_and_bears_a_run_without_a_number() -> None:
    from ray.tune.schedulers import TrialScheduler

    from wiring_lightning.cli.sweep_run import _scheduler

    class Trial:
        def __init__(self, name: str) -> None:
            self.trial_id, self.status = name, "PENDING"

    rule, trials = _scheduler("val/acc", 2), {name: Trial(name) for name in "abcdeg"}
    tune = SimpleNamespace(get_live_trials=lambda: list(trials.values()))  # some wait

    def reports(name: str, epoch: int, accuracy: float) -> str:
        result = {"epoch": epoch, "val/acc": accuracy}
        return str(rule.on_trial_result(tune, trials[name], result))

    rule.on_trial_complete(tune, trials["g"], {"epoch": 0, "code": 1, "done": True})  # failed
    for epoch in (1, 2, 3):
        for name, accuracy in (("a", 0.4), ("b", 0.5), ("c", 0.6)):
            assert reports(name, epoch, accuracy) == TrialScheduler.CONTINUE
    assert reports("d", 1, 0.1) == TrialScheduler.CONTINUE
    assert reports("d", 2, 0.1) == TrialScheduler.STOP
    assert reports("e", 2, 0.51) == TrialScheduler.CONTINUE


def test_a_run_below_the_median_is_stopped_and_stays_so(tmp_path: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    config = deepcopy(BASE)
    config["model"]["init_args"]["optimizer"] = optimizer
    write(config, tmp_path / "base.yaml")
    # One fails before it measures anything, three are done, and the last one learns nothing. With
    # one core they run in this order.
    code = """
from ray.cluster_utils import Cluster
from wiring_lightning.cli import main
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
try:
    main(["sweep", "--config", "base.yaml", "--address", cluster.address, "--stop_below_median=2",
          "--set", "model.optimizer.init_args.lr=[-1.0,0.1,0.11,0.12,0.0]",
          "--trainer.max_epochs=12", "--trainer.limit_val_batches=4",
          "--trainer.enable_progress_bar=false"])
finally:
    cluster.shutdown()
"""
    running = process("-c", code, folder=tmp_path)
    out, err = running.communicate()
    assert running.returncode == 1, err
    assert "lr_-1.0-seed_0: FAILED" in out
    assert "1 of 5 runs failed" in out
    assert out.count(": done") == 3
    assert "goes on" not in out  # no run was paused, which would start its process again
    assert "lr_0.0-seed_0: stopped early, below the median" in out
    stopped = tmp_path / "sweep" / "lr_0.0-seed_0"
    assert find_run(stopped).last_number("test/acc") is None
    assert 20 <= steps(stopped) < 120  # not before two validations

    again = process("-c", code, folder=tmp_path)
    out, _ = again.communicate()
    begun = re.findall(r"(\S+): begins", out)
    assert (again.returncode, "done before: 4\n" in out, begun) == (1, True, ["lr_-1.0-seed_0"])
