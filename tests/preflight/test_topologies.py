"""Which pods can be had, and that the compiler knows them as we say."""

import pytest

from clr_jax.entry import USAGE, Problem
from clr_jax.preflight import topologies
from clr_jax.preflight.topologies import GENERATIONS, parse


def test_a_pod_is_its_generation_size_and_slices():
    pod = parse('TPU7x:2x2x1', 2)
    assert (pod.name, pod.size, pod.slices) == ('tpu7x:2x2x1', (2, 2, 1), 2)
    assert pod.generation is GENERATIONS['tpu7x']


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('v5e:3x5', 'v5e does not come in that size; nearest: 4x4, 2x4'),
        ('v5e:16x32', 'nearest: 16x16, 8x16'),  # the compiler would take it
        ('v4:4x4', 'nearest: 2x2x4, '),
        ('v6e', 'nearest: 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16'),
        ('v5p:0x4x4', 'nearest: 2x2x1, '),
        ('v5litepod:4x4', 'no "v5litepod"; '),
        ('v7x:4x4x4', 'no "v7x"; Known: tpu7x, v4'),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_nearest(text, said):
    with pytest.raises(Problem, match='topology=' + text) as refused:
        parse(text)
    assert said in str(refused.value)
    assert refused.value.code == USAGE


def test_no_slice_is_refused():
    with pytest.raises(Problem, match='num_slices=0: at least 1'):
        parse('v5e:2x2', 0)


@pytest.mark.parametrize(
    ('text', 'slices', 'chips', 'hosts', 'kind'),
    [
        ('v4:2x2x2', 1, 8, 2, 'TPU v4'),
        ('v5e:1x1', 1, 1, 1, 'TPU v5 lite'),
        ('v5e:2x4', 2, 16, 2, 'TPU v5 lite'),  # hosts of 8
        ('v5e:4x4', 1, 16, 4, 'TPU v5 lite'),
        ('v5p:4x4x4', 1, 64, 16, 'TPU v5'),
        ('v6e:16x16', 1, 256, 64, 'TPU v6 lite'),
        ('TPU7x:2x2x1', 2, 8, 2, 'TPU7x'),
    ],
)
def test_the_compiler_knows_the_devices(text, slices, chips, hosts, kind, libtpu):
    pod = parse(text, slices)
    found = topologies.devices(pod)
    assert len(found) == chips * pod.generation.devices
    assert len({device.process_index for device in found}) == hosts
    assert len({getattr(device, 'slice_index', 0) for device in found}) == slices
    assert {device.device_kind for device in found} == {kind}
