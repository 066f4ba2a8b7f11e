"""What is said of a program: sums, warnings, words."""

import json

import pytest

from clr_jax.preflight import report as reports
from clr_jax.preflight import topologies

MiB, GiB = 2**20, 2**30
SUM = {
    'kind': 'all-reduce',
    'dtype': 'f32',
    'bytes': 100 * MiB,
    'is_async': False,
    'cross_slice': False,
    'times': 1,
    'always': True,
    'shapes': [[512], [3, 3, 512, 512]],
    'source': 'jit(step)/shard_map/psum_invariant',
}
HELD = {'dtype': 'f32', 'shape': [128, 56, 56, 64], 'bytes': 98 * MiB, 'number': 3}
HELD |= {'computed': True, 'source': 'conv'}


def facts(**changes) -> dict:
    """Of a program of 64 devices."""
    program = {'flops': 1.97e12, 'bytes': 8.19e9, 'cycles': 10**6, 'unknown_loops': 0}
    program |= {'collectives': [SUM], 'largest': [HELD]}
    memory = {'arguments': 300 * MiB, 'outputs': 200 * MiB, 'donated': 200 * MiB}
    memory |= {'temporaries': 700 * MiB, 'program': 24 * MiB}
    of = {'fits': True, 'devices': 64, 'hosts': 16, 'state_bytes': 200 * MiB}
    of |= {
        'whole_bytes': 200 * MiB,
        'parameter_bytes': 100 * MiB,
        'parameters': [[64], [3, 3, 512, 512], [1, 1, 64, 64]],
    }
    changed = {name: changes.pop(name) for name in [*changes] if name in of or name == 'memory'}
    return of | {'memory': memory, 'program': program | changes} | changed


def said(of: dict, pod: str = 'v5e:8x8', slices: int = 1) -> dict:
    topology = topologies.parse(pod, slices)
    about = {'config': 'simclr', 'topology': topology.name, 'slices': slices, 'data': 'given'}
    about |= {'versions': {'libtpu': '1', 'jax': '2', 'clr_jax': '3'}, 'examples': 10, 'classes': 2}
    return reports.report(of, {'config': {'batch_size': 4096, 'sharded': False}}, topology, about)


def test_sums_and_bounds():
    found = said(facts())
    assert found['memory']['total'] == (300 + 700 + 24) * MiB  # outputs lie in arguments
    assert found['batch'] == {'global': 4096, 'host': 256, 'device': 64}
    assert found['pod'] == {'devices': 64, 'hosts': 16, 'chips': 64, 'chips_per_host': 4}
    # v5e: 197 TFLOP/s and 819 GB/s
    assert found['lower_bound_ms'] == pytest.approx({'compute': 10.0, 'memory': 10.0})
    assert found['warnings'] == []
    assert json.loads(json.dumps(found)) == found


def test_a_device_of_tpu7x_is_half_a_chip():
    found = said(facts(devices=64, hosts=8), 'tpu7x:2x4x4')
    assert (found['pod']['chips'], found['pod']['chips_per_host']) == (32, 4)
    assert found['lower_bound_ms']['compute'] == pytest.approx(1e3 * 1.97e12 / (2307e12 / 2))


def test_equal_collectives_are_one_line():
    small = SUM | {'bytes': 512, 'times': 12, 'source': 'bn'}
    rare = SUM | {'always': False}
    found = said(facts(collectives=[SUM, small, small | {'source': 'other'}, rare]))['collectives']
    assert [(e['bytes'], e['number'], e['always']) for e in found] == [
        (100 * MiB, 1, True),
        (512, 24, True),
        (100 * MiB, 1, False),
    ]


NARROW = SUM | {'dtype': 'bf16', 'bytes': 50 * MiB}
LOGITS = HELD | {'shape': [128, 8192], 'bytes': 512 * MiB}


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            {'whole_bytes': 8 * GiB},
            'every device holds the same state whole: 8.00 GiB, 51% of the usable HBM; config.sharded',
        ),
        ({'collectives': [NARROW]}, 'gradients are summed over devices in bf16: 50 MiB'),
        ({'collectives': [NARROW | {'shapes': [[64, 64]]}]}, 'gradients are summed over devices'),
        ({'collectives': [NARROW | {'shapes': [[64], [4096, 2, 128]]}]}, ''),  # embeddings
        ({'collectives': [SUM | {'bytes': 512, 'times': 51}]}, '51 all-reduces a step are smaller'),
        ({'collectives': [SUM | {'bytes': 512, 'times': 51, 'always': False}]}, ''),
        (
            {'collectives': [SUM | {'bytes': 512, 'times': 9, 'cross_slice': True}]},
            '9 small all-reduces a step cross slices: set config.bn_groups',
        ),
        ({'largest': [LOGITS]}, 'a matrix of the batch against the batch is in HBM: f32[128,8192]'),
        ({'largest': [LOGITS | {'shape': [64, 2, 4096]}]}, 'against the batch'),
        ({'largest': [LOGITS | {'computed': False}]}, ''),
        ({'largest': [LOGITS | {'bytes': 2 * MiB}]}, ''),
        ({'largest': [LOGITS | {'shape': [4096, 2, 16]}]}, ''),  # keys
        ({'largest': [LOGITS | {'shape': [64, 56, 56, 4096]}]}, ''),  # features
        ({'unknown_loops': 2}, '2 loops have trips that are not known'),
        (
            {'memory': facts()['memory'] | {'donated': 50 * MiB}},
            'donation is not effective: 150 MiB of the outputs',
        ),
    ],
)
def test_warnings(changes, words):
    found = said(facts(**changes))['warnings']
    assert len(found) == bool(words)
    assert words in ''.join(found)


def test_words_have_the_numbers_and_the_versions():
    words = reports.text(said(facts(collectives=[SUM | {'bytes': 512, 'times': 60}])))
    for part in (
        'simclr on v5e:8x8: 64 chips, 64 devices, 16 hosts of 4 chips',
        'libtpu 1, jax 2, clr_jax 3',
        'batch 4,096: 256 a host, 64 a device',
        'fits: 1.00 GiB of 15.75 GiB of usable HBM a device (6%)',
        '1,970.0 GFLOP of matrix products and convolutions: at least 10.00 ms',
        '8.19 GB through HBM: at least 10.00 ms',
        '60 collectives a step, 60 synchronous, 0 between slices, 30 KiB',
        '  60 x     512 B  f32 all-reduce, sync, in a slice',
        '98 MiB  f32[128,56,56,64], 3 values',
        'warnings\n  60 all-reduces a step are smaller than 64 KiB',
        'Not known without the hardware: the time of a step',
    ):
        assert part in words


def test_what_does_not_fit_is_said():
    lacking = {'fits': False, 'needed': 20 * GiB, 'usable': 16 * GiB, 'devices': 64, 'hosts': 16}
    assert 'DOES NOT FIT: needs 20.00 GiB of 16.00 GiB of usable HBM' in reports.text(said(lacking))
    unsaid = reports.text(said(lacking | {'needed': None, 'usable': None}))
    assert 'DOES NOT FIT: needs more than the 15.75 GiB' in unsaid


def test_a_program_that_cannot_be_printed_has_its_memory():
    of = facts() | {'unread': 'RET_CHECK failure'}
    of.pop('program')
    words = reports.text(said(of))
    assert 'fits: 1.00 GiB' in words
    assert 'the compiler cannot print this program (RET_CHECK failure)' in words
    assert 'GFLOP' not in words


@pytest.mark.parametrize(
    ('count', 'words'), [(0, '0 B'), (999, '999 B'), (1536, '1.5 KiB'), (5 * GiB, '5.00 GiB')]
)
def test_sizes_in_words(count, words):
    assert reports.size(count) == words
