"""The notebook runs from top to bottom, and nothing but our own output appears in it."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "workbench.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_silently(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    for cell in notebook.cells:
        cell.source = cell.source.replace("120_000", "3_000").replace('"num_latents": 512', '"num_latents": 96')
    with pytest.MonkeyPatch.context() as patch:
        # Its kernel is this Python, whatever kernels are installed for the user.
        # Tests switch other libraries' bars off; who opens the notebook does not.
        patch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
        patch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    chatter = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert not chatter
    pages = [output["data"].get("text/html", "") for output in outputs if "data" in output]
    assert sum("<span" in page for page in pages) >= 2 and sum("<table" in page for page in pages) >= 4
    assert any("<svg" in page for page in pages)
    assert sum('<div class="latent">' in page for page in pages) == 2
    assert [output["text"] for output in outputs if output.get("name") == "stdout"]
