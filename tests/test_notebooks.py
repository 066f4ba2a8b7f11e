"""The notebooks run from top to bottom, and are what their scripts say."""

from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / 'notebooks').glob('*.py'))


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_committed_notebook_is_made_from_its_script(script: Path):
    made = jupytext.read(script)
    committed = nbformat.read(script.with_suffix('.ipynb'), as_version=4)
    assert [(c.cell_type, c.source) for c in committed.cells] == [
        (c.cell_type, c.source) for c in made.cells
    ]
    assert not any(cell.get('outputs') for cell in committed.cells)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_notebook_runs_on_embedded_data(script: Path):
    notebook = jupytext.read(script)
    parameters = next(
        cell for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', [])
    )
    assert 'steps = 600' in parameters.source
    parameters.source = parameters.source.replace('steps = 600', 'steps = 60')
    nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': ROOT}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get('outputs', [])]
    pictures = [out for out in outputs if 'image/png' in out.get('data', {})]
    printed = ''.join(out.get('text', '') for out in outputs if out.output_type == 'stream')
    before, after = printed.split('kNN before ')[-1].split('\n')[0].split(', after ')
    assert len(pictures) == 3
    assert float(after) > float(before)
