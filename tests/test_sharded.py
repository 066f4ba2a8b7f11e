"""A state in parts computes what a whole one does, in every leaf, and takes its share of the memory."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import checkpoint, optimizers, parallel, placement, train
from clr_jax.entry import CONFIG, Problem
from clr_jax.methods import deepclusterv2, instdisc, moco, swav
from tests.conftest import config
from tests.methods.tiny import BATCH, Linear, batch
from tests.steps import double

PACE = {'steps_per_epoch': 2, 'total_steps': 6}
FULL = {'projector': (8, 8)}
METHODS = {
    'queue and slow copy': moco.moco(Linear(1), queue_size=24, **FULL),
    'queues that share prototypes': swav.swav(
        Linear(1), prototypes=16, queue_size=16, queue_epoch=1, **FULL
    ),
    'memory by noise': instdisc.instdisc(Linear(), 40, projector=(8,), noise=5, proximal=0.1),
    'memory that is clustered': deepclusterv2.deepclusterv2(Linear(1), 40, prototypes=8, **FULL),
}
OPTIMIZERS = [
    {'name': 'lars', 'learning_rate': 0.3},
    {'name': 'adamw', 'learning_rate': 0.01, 'clip': 0.1},
]


@pytest.fixture(autouse=True)
def every_leaf(monkeypatch):
    """Of any size is split."""
    monkeypatch.setattr(placement, 'SMALL', 1)


def run(name, optimizer, sharded: bool, steps: int = 4):
    """The states of some steps on eight devices, and where the leaves of the last lie."""
    method, views = METHODS[name], 1 if name == 'memory by noise' else 2
    mesh = parallel.make_mesh(groups=2 if sharded else 1)  # [2, 4] devices, as two slices
    pace = PACE | {'seed': 0, 'sharded': sharded}
    tx = optimizers.optimizer(optimizer, {}, batch_size=BATCH, **PACE)
    step = train.make_step(method, tx, mesh, **pace)
    ts = train.make_state(method, tx, mesh, batch(views), seed=0, sharded=sharded)
    where, states = placement.shardings(ts, mesh, sharded), []
    assert jax.tree.map(lambda x: x.sharding, ts) == where
    ts = jax.device_put(double(ts), where)
    for number in range(steps):
        rows = batch(views, seed=number) | {
            'index': np.int32((BATCH * number + np.arange(BATCH)) % 40)
        }
        ts, metrics = step(ts, parallel.spread(rows, mesh))
        states.append(jax.device_get(ts))
        assert np.isfinite(metrics['loss'])
    assert step._cache_size() == 1
    return states, ts


@pytest.mark.parametrize('name', METHODS)
def test_states_in_parts_and_whole_are_the_same(name, float64):
    optimizer = OPTIMIZERS[list(METHODS).index(name) % 2]
    (whole, _), (parts, ts) = (run(name, optimizer, sharded) for sharded in (False, True))
    for step, (one, other) in enumerate(zip(whole, parts, strict=True), 1):
        found = checkpoint.paths(other)
        for path, leaf in checkpoint.paths(one).items():
            where = f'{path} after step {step}'
            np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-10, err_msg=where)
    leaves = checkpoint.paths(ts)
    held = {path: x.addressable_shards[0].data.size / x.size for path, x in leaves.items()}
    tables = [path for path in held if any(part in placement.TABLES for part in path.split('/'))]
    assert tables
    assert {held[path] for path in tables} == {1 / 8}
    assert {held[path] for path in held if path.startswith('params/')} == {1}
    assert any(held[path] == 1 / 8 for path in held if path.startswith('opt/'))
    copies = [path for path in held if path.startswith('state/target/')]
    assert all(held[path] == 1 / 8 for path in copies if leaves[path].shape[-1] % 8 == 0)


def test_a_checkpoint_of_parts_is_restored_in_others_and_whole(tmp_path, float64):
    _, ts = run('queue and slow copy', OPTIMIZERS[1], True, steps=1)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, ts, {})
    checkpoints.close()
    for devices, sharded in ((8, True), (4, True), (2, False)):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        where = placement.shardings(ts, mesh, sharded)
        like = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), ts, where
        )
        checkpoints = checkpoint.Checkpoints(tmp_path, read_only=True)
        restored, _, _ = checkpoints.restore(like)
        checkpoints.close()
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(ts))
        assert restored.state.queue.sharding == where.state.queue
        assert len(restored.state.queue.addressable_shards[0].data) == 24 // (
            devices if sharded else 1
        )


def test_small_leaves_and_those_that_do_not_divide_stay_whole(monkeypatch):
    monkeypatch.setattr(placement, 'SMALL', 64)
    shapes = {'small': (8,), 'odd': (9, 9), 'first': (16, 5), 'longest': (3, 8, 32), 'row': (64,)}
    tree = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    ts, data = train.TrainState(jnp.zeros(()), tree, tree, ()), parallel.DEVICE
    found = placement.shardings(ts, parallel.make_mesh(), True)
    expected = {
        'small': (),
        'odd': (),
        'first': (data,),
        'longest': (None, None, data),
        'row': (data,),
    }
    assert {name: tuple(place.spec) for name, place in found.opt.items()} == expected
    whole = placement.shardings(ts, parallel.make_mesh(), False)
    for tree in (found.params, whole.opt):
        assert {tuple(place.spec) for place in tree.values()} == {()}


def test_a_table_that_does_not_divide_is_refused(monkeypatch, float64):
    monkeypatch.setitem(METHODS, 'odd', moco.moco(Linear(), queue_size=20, **FULL))
    with pytest.raises(Problem, match='the 20 rows of state/queue do not divide over 8') as refusal:
        run('odd', OPTIMIZERS[0], True)
    assert refusal.value.code == CONFIG


def test_a_run_in_parts_goes_on_to_the_same_bits_and_is_read_whole(tmp_path):
    of = config('moco_cifar10_small', 'smoke')
    of.update(steps=4, log_every=2, checkpoint_every=2, sharded=True)
    of.encoder.widths, of.evaluation.every = (4, 8), 0
    of.evaluation.update(train_examples=64, test_examples=32)
    workdir = tmp_path / 'run'
    train.fit(of.to_dict(), str(workdir))
    _, straight, step = train.restore(workdir)
    assert (step, straight.state.queue.sharding.is_fully_replicated) == (4, True)
    shutil.rmtree(workdir / 'checkpoints' / '4')
    train.fit(of.to_dict(), str(workdir))
    _, resumed, step = train.restore(workdir)
    assert step == 4
    assert checkpoint.checksum(resumed) == checkpoint.checksum(straight)
