"""The notebook runs from its first cell to its last, in a kernel of its own, and ends with a prediction."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra `dev`")
nbclient = pytest.importorskip("nbclient", reason="needs the extra `dev`")

ROOT = Path(__file__).parents[2]


def test_notebook_goes_from_photos_to_a_prediction(tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "docs" / "first_steps.ipynb", as_version=4)
    steps = next(cell for cell in notebook.cells if "max_steps=150" in cell.source)
    steps.source = steps.source.replace("max_steps=150", "max_steps=4")
    drawing = next(cell for cell in notebook.cells if "range(64)" in cell.source)
    drawing.source = drawing.source.replace("range(64)", "range(16)").replace("range(100, 108)", "range(100, 102)")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output)
    assert "mean IoU 0." in printed and "on 2 photos" in printed
    assert "image/png" in notebook.cells[-2].outputs[0].data  # the overlay
    assert (tmp_path / "outputs" / "first_steps" / "model.safetensors").exists()
    assert not any(cell.get("outputs") for cell in nbformat.read(ROOT / "docs" / "first_steps.ipynb", 4).cells)
