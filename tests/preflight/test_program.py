"""Real compilations for TPUs, small ones."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from clr_jax import parallel, train
from clr_jax.data.augment import View
from clr_jax.entry import Problem
from clr_jax.preflight import program, topologies
from clr_jax.preflight.program import out_of_memory
from tests.conftest import ROOT, config

LAYERS, WIDTH, BATCH = 5, 256, 512


def layers(mesh, batch: int = BATCH):
    """A step of tanh layers in a scan, with a mean over the batch, and its arguments."""

    def loss(w, x):
        y, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)
        return parallel.mean(((y - parallel.mean(y.mean(0))) ** 2).mean())

    def gradient(w, x):
        return parallel.reduce(jax.grad(loss)(parallel.vary(w), x))

    rows = jax.P(parallel.DATA)
    step = lambda w, x: w - 0.1 * parallel.shard(gradient, mesh, (jax.P(), rows), jax.P())(w, x)
    shapes = (LAYERS, WIDTH, WIDTH), (batch, WIDTH)
    places = parallel.replicated(mesh), jax.sharding.NamedSharding(mesh, rows)
    given = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=p)
        for s, p in zip(shapes, places, strict=True)
    ]
    return jax.jit(step, donate_argnums=0, out_shardings=places[0]), given


def compiled(pod: str, slices: int = 1, **sizes) -> dict:
    mesh = parallel.make_mesh(topologies.devices(topologies.parse(pod, slices)))
    step, given = layers(mesh, **sizes)
    return program.compiled(step, given, mesh)


def test_a_small_step_on_two_slices(libtpu):
    facts = compiled('v5e:2x2', slices=2)
    weights, rows = 4 * LAYERS * WIDTH**2, 4 * BATCH // 8 * WIDTH
    assert facts['fits']
    assert facts['memory']['arguments'] == weights + rows
    assert facts['memory']['outputs'] == facts['memory']['donated'] == weights
    found = facts['program']
    assert found['unknown_loops'] == 0
    # forward, and in the backward pass for weights and for inputs, in each layer
    assert found['flops'] == 3 * LAYERS * 2 * (BATCH // 8) * WIDTH**2
    assert found['bytes'] >= 2 * weights  # read and written at least once
    assert found['cycles'] > 0
    assert {each['dtype'] for each in found['collectives']} == {'f32'}
    far = sum(each['bytes'] for each in found['collectives'] if each['cross_slice'])
    # a chip's quarter of the gradient crosses, and the mean with its gradient
    assert weights / 4 <= far <= weights / 4 + 16 * WIDTH
    near = [each for each in found['collectives'] if not each['cross_slice']]
    assert max(each['bytes'] for each in near) == weights


@pytest.mark.parametrize(
    ('pod', 'devices'), [('v4:2x2x1', 4), ('v5p:2x2x1', 4), ('tpu7x:2x2x1', 8)]
)
def test_other_generations_compute_the_same(pod, devices, libtpu):
    facts = compiled(pod)
    assert facts['fits']
    assert facts['program']['flops'] == 3 * LAYERS * 2 * (BATCH // devices) * WIDTH**2
    sums = [each for each in facts['program']['collectives'] if each['kind'] == 'all-reduce']
    assert sum(each['bytes'] for each in sums) >= 4 * LAYERS * WIDTH**2


def test_what_does_not_fit_is_said_in_numbers(libtpu):
    facts = compiled('v6e:2x2', batch=2**28)
    assert facts.keys() == {'fits', 'needed', 'usable'}
    assert not facts['fits']
    assert facts['usable'] == topologies.GENERATIONS['v6e'].usable
    assert facts['needed'] > 2**26 * WIDTH * 4


def test_the_real_step_of_a_config(libtpu):
    c = config('simclr_digits', 'smoke')
    c.encoder.widths, c.method.projector, c.batch_size = (8,), (8, 8), 16
    c.probe.learning_rate = 0.0
    asked = {'config': json.loads(json.dumps(c.to_dict())), 'examples': 100, 'classes': 10}
    facts = program.facts(asked | {'topology': 'v6e:2x2', 'slices': 1})
    run = train.describe(asked['config'], 100, 10)
    state = train.state_shapes(run, parallel.make_mesh())
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert facts['state_bytes'] == facts['whole_bytes'] == held
    assert (facts['devices'], facts['hosts']) == (4, 1)
    images, seen = 2 * 4, 16 * 16  # both views of a chip's images, their pixels
    convolution = 2 * images * seen * 3 * 3 * 3 * 8  # forward, at most: padding does not count
    assert 0.8 * 2 * convolution < facts['program']['flops'] < 3 * convolution
    gathered = [
        e for e in facts['program']['collectives'] if e['always'] and 'all_gather' in e['source']
    ]
    assert gathered
    assert facts['memory']['donated'] >= held
    with pytest.raises(Problem, match='batch_size=16 does not divide over 64 devices'):
        program.facts(asked | {'topology': 'v6e:8x8', 'slices': 1})


def test_views_are_made_in_few_cycles(libtpu):
    """Views of the flavour torch, without blur, whose matrices take long to compile: 14.3 µs each by the
    estimates of libtpu 0.0.42; operations on [b, 3, S, S] instead of three planes took 50."""
    views = module_of('device_augment')
    view = View(flavour='torch', area=(1.0, 1.0), blur=0.0)
    assert 1 < views.changes(view) < 17


def module_of(benchmark: str):
    spec = importlib.util.spec_from_file_location(benchmark, ROOT / f'benchmarks/{benchmark}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bytes_of_a_state_in_parts():
    mesh = parallel.make_mesh()  # 8 devices
    rows = jax.sharding.NamedSharding(mesh, jax.P(parallel.DATA))
    places = {'queue': rows, 'weights': parallel.replicated(mesh)}
    tree = {k: jax.ShapeDtypeStruct((64, 3), jnp.float32, sharding=p) for k, p in places.items()}
    assert program.held(tree) == 64 * 3 * 4 + 8 * 3 * 4
    assert program.held(tree, whole=True) == 64 * 3 * 4


@pytest.mark.parametrize(
    ('message', 'needed', 'usable'),
    [
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
            '(26.25G) exceeds available HBM (15.75G).',
            26.25 * 2**30,
            15.75 * 2**30,
        ),
        ('Used 1.5T of 94.75G hbm. Exceeded hbm capacity', 1.5 * 2**40, 94.75 * 2**30),
        ('RESOURCE_EXHAUSTED: memory, in words of another version', None, None),
    ],
)
def test_refusals_for_memory(message, needed, usable):
    assert out_of_memory(message) == {'fits': False, 'needed': needed, 'usable': usable}


def test_other_refusals_are_none_of_memory():
    assert out_of_memory('INVALID_ARGUMENT: No such compile option') is None
