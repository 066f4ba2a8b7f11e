"""The notebooks run from top to bottom, and are what their scripts say."""

import re
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


def run(name: str, **parameters):
    """-> (what the notebook prints, the number of its pictures), with other parameters."""
    notebook = jupytext.read(ROOT / 'notebooks' / f'{name}.py')
    cell = next(cell for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', []))
    for parameter, (committed, value) in parameters.items():
        assert f'{parameter} = {committed}' in cell.source
        cell.source = cell.source.replace(f'{parameter} = {committed}', f'{parameter} = {value}')
    nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': ROOT}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get('outputs', [])]
    pictures = [out for out in outputs if 'image/png' in out.get('data', {})]
    printed = ''.join(out.get('text', '') for out in outputs if out.output_type == 'stream')
    return printed, len(pictures)


def test_simclr_runs_on_embedded_data():
    printed, pictures = run('simclr', steps=(600, 150))
    before, after = printed.split('kNN before ')[-1].split('\n')[0].split(', after ')
    assert pictures == 3
    assert float(after) > float(before)


def test_losses_have_values_and_train():
    printed, pictures = run('losses', steps=(100, 30))
    values = re.findall(r'loss (\S+), gradient (\S+)', printed)
    trained = re.findall(r'kNN before (\S+), after (\S+)', printed)
    assert pictures == 1
    assert len(values) == 28
    assert all(0 < float(number) < 10 for pair in values for number in pair)
    assert len(trained) == 2
    assert all(float(after) > float(before) + 0.1 for before, after in trained)
