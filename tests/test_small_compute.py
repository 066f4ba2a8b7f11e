"""The table of small runs: README has what the recorded runs make it, and no recipe behind it is old."""

import importlib.util
import json

import jax
import pytest

from clr_jax import parallel, train
from tests.conftest import ROOT, config

spec = importlib.util.spec_from_file_location('small', ROOT / 'benchmarks' / 'small_compute.py')
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)


def test_the_readme_has_the_table_of_the_record():
    assert small.RECORD.exists()
    assert small.table() in (ROOT / 'README.md').read_text()


def test_the_record_is_of_the_recipes_as_they_are():
    for record in small.records(small.RECORD):
        method, changes = small.COLLAPSED.get(record['run'], (record['run'], {}))
        run = small.Run(record['run'], method, record['seed'], changes)
        assert record['recipe'] == run.recipe(), record['run']


@pytest.mark.parametrize('name', small.COLLAPSED)
def test_what_is_to_collapse_is_a_run(name):
    method, changes = small.COLLAPSED[name]
    of = config(method + small.SUFFIX)
    of.update_from_flattened_dict(changes)
    run = train.describe(of.to_dict(), 50000, 10)
    mesh = parallel.make_mesh(jax.devices()[:1], 1)
    train.state_shapes(run, mesh)  # the optimizer's groups have parameters


def test_the_last_run_of_a_seed_counts_and_means_are_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(small, 'RECORD', tmp_path / 'record.jsonl')
    line = {'recipe': 'a', 'source': 'encoder', 'linear': 60.0, 'std': 0.5, 'cpu_minutes': 9.0}
    runs = [('moco', 0, 10.0), ('moco', 0, 50.0), ('moco', 1, 52.0), ('supcon', 0, 57.0)]
    lines = [line | {'run': run, 'seed': seed, 'knn': knn} for run, seed, knn in runs]
    lines.append({'run': 'simclr', 'seed': 0, 'source': 'pixels', 'knn': 45.6, 'linear': 40.0})
    small.RECORD.write_text(''.join(json.dumps(x) + '\n' for x in lines))
    *_, pixels, moco, supcon = small.table().split('\n')
    assert pixels == '| pixels | 45.6 | 40.0 | 1 |  |  |'
    assert moco == '| moco | 51.0 ± 1.4 | 60.0 ± 0.0 | 2 | 0.50 | 9.0 |'
    assert supcon.startswith('| supcon | 57.0 | 60.0 | 1 |')


def test_what_is_recorded_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(small, 'RECORD', tmp_path / 'record.jsonl')
    wanted = small.missing(['byol', 'moco'], 2)
    names = ['byol', 'moco', 'byol', 'moco', 'byol without predictor']
    assert [run.name for run in wanted] == names
    done = {'run': 'byol', 'seed': 1, 'recipe': wanted[2].recipe(), 'source': 'encoder'}
    old = {'run': 'moco', 'seed': 0, 'recipe': 'of another recipe', 'source': 'encoder'}
    small.RECORD.write_text(json.dumps(done) + '\n' + json.dumps(old) + '\n')
    assert [(run.name, run.seed) for run in small.missing(['byol', 'moco'], 2)] == [
        ('byol', 0),
        ('moco', 0),
        ('moco', 1),
        ('byol without predictor', 0),
    ]
