"""The tables of preflights: README has what is recorded, each line is of its recipe as it is."""

import importlib.util
import json

import pytest

from tests.conftest import ROOT

spec = importlib.util.spec_from_file_location('pods', ROOT / 'benchmarks' / 'preflight_table.py')
pods = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pods)


def test_the_readme_has_the_table_of_the_record():
    assert pods.table() in (ROOT / 'README.md').read_text()


def test_the_record_is_of_the_recipes_as_they_are():
    assert pods.records()
    for line in pods.records():
        assert line['recipe'] == pods.about(line['config'])['recipe'], line['config']


def test_pods_share_the_batch_and_grow_where_it_does_not_fit():
    assert pods.pods('simclr_imagenet') == ['v5e:8x8', 'v5e:16x16', 'v5p:4x4x4']
    assert pods.pods('mocov2_cifar10')[0] in pods.PODS
    assert 'simclr_imagenet' in pods.published()
    assert not [name for name in pods.published() if 'small' in name]


def test_the_last_pod_that_fits_is_the_row(tmp_path, monkeypatch):
    monkeypatch.setattr(pods, 'RECORD', tmp_path / 'record.jsonl')
    each = {'kind': 'all-reduce', 'bytes': 10**6, 'always': True, 'is_async': False, 'number': 3}
    said = {'fits': True, 'batch': {'global': 4096}, 'usable': 16 * 2**30, 'warnings': ['one']}
    said |= {'memory': {'total': 4 * 2**30}, 'flops': 3e12}
    said['collectives'] = [each, each | {'is_async': True}, each | {'always': False}]
    lines = [
        {'config': 'a', 'pod': 'v5e:8x8', 'fits': False, 'batch': 4096, 'needed': 2**35},
        {'config': 'a', 'pod': 'v5e:16x16'} | pods.row(said),
        {'config': 'b', 'pod': 'v5e:8x8'} | pods.row(said | {'fits': False, 'needed': 1}),
    ]
    pods.RECORD.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    *_, only = pods.table().split('\n')
    assert only == '| a | v5e:16x16 | 4,096 | 4.00 | 25% | 3,000 | 6 (3) | 6.0 | 1 |'


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    return importlib.import_module('memory')


def test_the_readme_has_the_table_of_memory_and_each_line_is_of_its_recipe(memory):
    assert memory.table() in (ROOT / 'README.md').read_text()
    lines = [json.loads(line) for line in memory.RECORD.read_text().splitlines()]
    assert lines
    for line in lines:
        case = tuple(line[key] for key in ('config', 'pod', 'base', 'changes'))
        assert case in memory.CASES
        assert line['recipe'] == pods.about(line['config'])['recipe'], line['config']


def test_the_latest_line_of_a_case_is_its_row(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, 'RECORD', tmp_path / 'record.jsonl')
    monkeypatch.setattr(
        memory, 'CASES', [('a', 'v5e:4x4', {}, {}), ('a', 'v5e:4x4', {}, {'x': '1'})]
    )
    GiB = 2**30
    old = memory.named(*memory.CASES[1]) | {'batch': 4096, 'usable': 16 * GiB, 'fits': False}
    old['needed'] = 20 * GiB
    split = {'total': 4 * GiB, 'temporaries': 3 * GiB}
    new = old | {'fits': True, 'state': GiB, 'memory': split}
    memory.RECORD.write_text('\n'.join(map(json.dumps, (old, new))))
    assert memory.table().split('\n')[2:] == [
        '| a | v5e:4x4 | 4,096 | `x=1` | 4.00 | 25% | 1.00 | 3.00 |'
    ]
    memory.RECORD.write_text(json.dumps(old))
    assert memory.table().endswith('| 20.00: does not fit |  |  |  |')
    assert memory.recorded(*memory.CASES[0], versions=False) == {}
