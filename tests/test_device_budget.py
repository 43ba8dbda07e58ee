"""The table of what a step asks of a device."""

from pathlib import Path

import pytest

from benchmarks import device_budget
from tests.simulated.process import in_own_process


@in_own_process
def test_a_device_budget_counts_what_a_method_adds(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    networks = ["resnext", "sparsenet", "dnw", "fabric"]
    device_budget.main(["--tiny", "--batch", "4", "--markdown", str(path), "--networks", *networks])
    rows = [row.split(" | ") for row in path.read_text().splitlines() if row.startswith("| ")][2:]
    found = {(row[0], row[1].partition(":")[0]): row[2:] for row in rows}
    assert [row[0] for row in rows][:3] == ["| ResNeXt {11,4,4}"] * 3
    assert len(found) == len(rows) == 11
    for (method, step), (kernels, _, waits, more, _) in found.items():
        plain = int(found[method, "plain"][0].replace(",", ""))
        assert float(more) == pytest.approx(int(kernels.replace(",", "")) / plain, abs=0.01)
        assert int(waits) == (method.startswith("| ConvFabric") and step == "learning")
