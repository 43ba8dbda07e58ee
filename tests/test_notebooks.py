"""The notebooks: saved without outputs, and run in a reduced form."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient and ipykernel run the notebooks")

ROOT = Path(__file__).parents[1]

# What must hold when a notebook has run with one epoch of each kind.
CHECKS = {
    "quick_start": """
        assert int(chosen.sum()) == 8 * 2
        assert 0 <= numbers["test/acc_random"] < numbers["test/acc_planted"] <= 1
        assert difference < 1e-5
    """,
    "look_inside": """
        assert 0 < int(wiring.live_edges.sum()) <= int(wiring.active.sum()) == 8 + 8 * 2 + 8 * 2 + 8
        assert ways[names[-1]] == sum(1 for _ in networkx.all_simple_paths(
            active, names[0], names[-1]))
        assert difference < 1e-5
    """,
    "sparse_weights": """
        counts = [layer.weight.numel() for layer in sparse if isinstance(layer, nn.Conv2d)]
        assert kept == counts[0] + sum(round(0.1 * count) for count in counts[1:])
        assert size(stored) < size(state)
        loaded = Project(1).network
        loaded.load_state_dict(sparse.state_dict())
    """,
    "search_and_export": """
        assert 0 < cost <= whole
        assert difference < 1e-5
        assert export_difference < 1e-5
    """,
}
notebooks = pytest.mark.parametrize("name", CHECKS)


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_all_notebooks_are_checked() -> None:
    assert {file.stem for file in (ROOT / "notebooks").glob("*.ipynb")} == set(CHECKS)


@notebooks
def test_notebook_is_saved_without_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@notebooks
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    texts = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    for target in re.findall(r"\]\(([^)\s#]+)", "\n".join(texts)):
        assert (ROOT / "notebooks" / target).is_file(), target


@pytest.mark.slow
@notebooks
def test_notebook_runs_in_a_reduced_form(name: str, tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = read(name)
    (place,) = (
        index
        for index, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])  # as papermill calls such a cell
    )
    epochs = [node.id for node in ast.walk(ast.parse(notebook.cells[place].source))
              if isinstance(node, ast.Name)]  # fmt: skip
    assert len(epochs) >= 2
    assert all(name.endswith("_epochs") for name in epochs)
    reduced = nbformat.v4.new_code_cell(" = ".join([*epochs, "1"]))
    notebook.cells.insert(place + 1, reduced)
    check = re.sub(r"^ {8}", "", CHECKS[name], flags=re.MULTILINE)
    notebook.cells.append(nbformat.v4.new_code_cell(f"import networkx\n{check}"))
    client.NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
