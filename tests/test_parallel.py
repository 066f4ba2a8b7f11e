"""The mesh, the rows on it and the collectives: exact, and refused where they would be wrong."""

import functools
from collections import deque
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from clr_jax.entry import CONFIG, Problem
from clr_jax.parallel import DATA, DEVICE, GROUP
from tests import oracles
from tests.oracles import assert_close

B = 16


def mesh_of(devices, groups=1):
    return parallel.make_mesh(jax.devices()[:devices], groups=groups)


SAME = P()  # of a value that no longer differs


def everywhere(f, *args, devices=8, groups=2, out=SAME):
    """f on every shard of the mesh, its arguments' rows spread over it."""
    mesh = mesh_of(devices, groups)
    return jax.jit(parallel.shard(f, mesh, tuple(P(DATA) for _ in args), out))(*args)


def trace(f, *args, groups=2, out=SAME):
    """As `everywhere`, but traced only."""
    on_shards = parallel.shard(f, mesh_of(8, groups), tuple(P(DATA) for _ in args), out)
    return jax.eval_shape(on_shards, *args)


# The mesh


@dataclass(frozen=True)
class Device:
    """As much of a device as a mesh needs to know."""

    id: int
    process_index: int
    slice_index: int = 0


@pytest.mark.parametrize(
    ('groups', 'shape'),
    [(1, (1, 8)), (2, (2, 4)), (4, (4, 2)), (8, (8, 1)), (16, (8, 1)), (3, (1, 8)), (6, (2, 4))],
)
def test_a_mesh_has_as_many_groups_as_the_devices_can_share(groups, shape):
    mesh = parallel.make_mesh(groups=groups)
    assert mesh.axis_names == (GROUP, DEVICE) == DATA
    assert mesh.devices.shape == shape
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_a_mesh_is_in_the_order_of_processes_however_the_devices_come():
    """Process 0 holds 3 and 7, process 1 holds 1 and 5: neighbours in a process stay neighbours."""
    devices = [Device(7, 0), Device(5, 1), Device(3, 0), Device(1, 1)]
    assert [d.id for d in parallel.make_mesh(devices, groups=2).devices.flat] == [3, 7, 1, 5]
    assert list(parallel.make_mesh(jax.devices()[::-1]).devices.flat) == jax.devices()


def test_each_slice_is_a_group():
    devices = [Device(i, process_index=i // 2, slice_index=i % 2) for i in range(8)]
    mesh = parallel.make_mesh(devices, groups=4)
    assert [[d.id for d in group] for group in mesh.devices] == [[0, 2, 4, 6], [1, 3, 5, 7]]


# Where we are


def test_outside_a_mesh_everything_is_the_identity():
    assert not parallel.inside()
    assert parallel.size() == 1
    x = jnp.arange(3.0)
    for f in (parallel.vary, parallel.mean, parallel.total, parallel.gather, parallel.gather_state):
        assert f(x) is x or np.array_equal(f(x), x)
    np.testing.assert_array_equal(parallel.positions(4), [0, 1, 2, 3])


@pytest.mark.parametrize('transform', [jax.jit, jax.vmap, jax.checkpoint, jax.grad])
def test_inside_is_known_under_transformations(transform):
    seen = []

    def f(x):
        seen.append(parallel.inside())
        return jnp.sum(x)

    trace(lambda x: parallel.mean(jnp.sum(transform(f)(x))), jnp.ones(B))
    assert seen
    assert all(seen)
    seen.clear()
    transform(f)(jnp.ones(B))
    assert not any(seen)


def test_a_shard_knows_the_size_and_its_rows():
    def f(x):
        assert parallel.size() == 8
        return parallel.positions(len(x))

    for groups in (1, 2, 8):
        rows = everywhere(f, jnp.zeros(B), groups=groups, out=P(DATA))
        np.testing.assert_array_equal(rows, np.arange(B))


# Collectives

X = np.random.default_rng(0).normal(size=(B, 3))


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_collectives_are_those_of_the_whole(float64, devices):
    def f(x):
        whole = parallel.gather(x)
        mine = parallel.positions(len(x))
        return {
            'mean': parallel.mean(x.mean(0)),
            'total': parallel.total(x.sum(0)),
            'gather': parallel.mean((whole * jnp.arange(1, 1 + B)[:, None]).sum(0)),
            'gather_state': parallel.gather_state(x),
            'in place': parallel.total((whole[mine] == x).sum()),
        }

    out = everywhere(f, X, devices=devices)
    np.testing.assert_allclose(out['mean'], X.mean(0), rtol=1e-13)
    np.testing.assert_allclose(out['total'], X.sum(0), rtol=1e-13)
    np.testing.assert_allclose(out['gather'], np.arange(1, 1 + B) @ X, rtol=1e-13)
    np.testing.assert_array_equal(out['gather_state'], X)
    assert out['in place'] == X.size


def test_a_mean_over_the_devices_of_a_group_stays_in_the_group(float64):
    means = everywhere(
        lambda x: parallel.mean(x.mean(0), (DEVICE,))[None], X, groups=4, out=P(GROUP)
    )
    np.testing.assert_allclose(means, X.reshape(4, 4, 3).mean(1), rtol=1e-13)


def test_a_mean_of_what_is_the_same_everywhere_is_itself():
    assert everywhere(lambda: parallel.mean(jnp.float32(3))) == 3


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_the_gradient_of_gather_is_exact(float64, devices):
    """Each row of f(gather(x)) depends on every row of x: shares of the gradient come back."""
    weights = np.random.default_rng(1).normal(size=(B, B))

    def objective(x):
        mine = parallel.positions(B // parallel.size())
        mixed = jnp.sin(jnp.asarray(weights)[mine] @ parallel.gather(x[mine]))
        return parallel.mean(mixed.mean())

    on_shards = parallel.shard(
        lambda x: parallel.reduce(jax.grad(objective)(parallel.vary(x))),
        mesh_of(devices, 2),
        P(),
        P(),
    )
    expected = weights.T @ np.cos(weights @ X) / (B * 3)  # d/dx mean sin(w x)
    np.testing.assert_allclose(jax.jit(on_shards)(X), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(jax.grad(objective)(X), expected, rtol=1e-12, atol=1e-15)


def test_no_gradient_passes_gather_state():
    def gradient(x):
        return jax.grad(lambda x: parallel.mean((parallel.gather_state(x) ** 2).sum() + x.sum()))(x)

    np.testing.assert_array_equal(everywhere(gradient, X, out=P(DATA)) * 8, np.ones_like(X))


def test_vary_is_of_trees_and_may_be_repeated():
    def f(x):
        tree = parallel.vary(parallel.vary({'a': jnp.float32(2), 'b': (x, jnp.int32(3))}))
        assert all(
            set(DATA) == jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)
        )
        return jax.tree.map(parallel.total, tree)

    out = everywhere(f, np.ones((8, 1), np.float32))
    assert (out['a'], out['b'][0], out['b'][1]) == (16, 8, 24)


# What would be wrong is refused, before anything runs


@pytest.mark.parametrize('name', ['total', 'gather', 'gather_state'])
def test_a_value_that_is_the_same_on_all_shards_is_refused(name):
    """A sum would multiply it by the number of devices, a gather repeat it."""
    f = getattr(parallel, name)
    with pytest.raises(
        ValueError, match=rf'parallel\.{name} of a value that is the same .* parallel\.vary'
    ):
        trace(lambda x: f(jnp.ones(2)), X)
    with pytest.raises(
        ValueError, match=rf'parallel\.{name} .* parallel\.vary'
    ):  # varying in a group only
        trace(lambda x: f(parallel.vary(jnp.ones(2), (DEVICE,))), X)
    out = trace(lambda x: parallel.mean(f(parallel.vary(jnp.ones(2)))), X)
    assert out.shape == ((2,) if name == 'total' else (16,))


def test_a_forgotten_reduction_is_refused():
    """The values that leave the step are declared the same on all shards; JAX checks it."""
    refused = functools.partial(pytest.raises, ValueError, match='out_specs|varying|replicat')
    with refused():
        trace(lambda x: x.mean(0), X)
    with refused():
        trace(lambda x: parallel.mean(x.mean(0), (DEVICE,)), X)
    with refused():
        trace(
            lambda x: parallel.gather(x), X
        )  # the same in fact, but not by type: for state there is gather_state
    objective = lambda w, x: parallel.mean((x @ w).mean())
    weights = np.ones(3)
    with refused():
        trace(lambda x: jax.grad(objective)(parallel.vary(weights), x), X)
    assert trace(
        lambda x: parallel.reduce(jax.grad(objective)(parallel.vary(weights), x)), X
    ).shape == (3,)
    assert trace(lambda x: parallel.mean(x.mean(0)), X).shape == (3,)
    assert trace(lambda x: parallel.gather_state(x), X).shape == (B, 3)


# Groups of rows

MESHES = [(n, groups) for n in (1, 2, 4, 8) for groups in (1, 2, 4) if groups <= n]


@pytest.mark.parametrize(('devices', 'mesh_groups'), MESHES)
def test_parts_are_contiguous_and_equal_on_any_devices(devices, mesh_groups):
    """24 rows, 3 or more on each device: parts of 8 rows straddle 2, 4 and 8 devices, parts of one
    or two lie within them."""
    held = {}

    def f(x):
        numbers = {}
        for groups in (1, 2, 3, 4, 6, 8, 12, 24):
            number, held[groups], axes = parallel.parts(parallel.positions(len(x)), groups)
            # as many as fit into a row of the mesh are shared by that row alone
            fit = mesh_groups > 1 and groups % mesh_groups == 0
            assert axes == ((DEVICE,) if fit else DATA)
            assert held[groups] == (groups // mesh_groups if fit else groups)
            before = held[groups] * jax.lax.axis_index(GROUP) if fit else 0
            numbers[groups] = jnp.stack([number, number + before], -1)
        return numbers

    numbers = everywhere(f, np.zeros(24), devices=devices, groups=mesh_groups, out=P(DATA))
    for groups, found in numbers.items():
        here, part = np.asarray(found).T
        np.testing.assert_array_equal(part, np.repeat(np.arange(groups), 24 // groups))
        assert set(here) == set(range(held[groups]))


@pytest.mark.parametrize('groups', [1, 2, 3, 6])
def test_outside_a_mesh_all_parts_are_here(groups):
    number, held, axes = parallel.parts(parallel.positions(6), groups)
    np.testing.assert_array_equal(number, np.repeat(np.arange(groups), 6 // groups))
    assert (held, axes) == (groups, DATA)


@pytest.mark.parametrize('groups', [3, 5, 32, 0, -2])
def test_parts_that_cannot_be_equal_are_refused(groups):
    words = f'bn_groups={groups} does not divide a batch of {B} rows into equal parts'
    with pytest.raises(Problem, match=words) as refusal:
        parallel.parts(np.arange(B), groups)
    assert refusal.value.code == CONFIG
    with pytest.raises(Problem, match=words):
        trace(lambda x: parallel.parts(parallel.positions(len(x)), groups)[0], X, out=P(DATA))


# Rows that move


@pytest.mark.parametrize('devices', [None, 1, 2, 8])
def test_an_exchange_is_a_permutation_of_global_rows(float64, devices):
    """There and back is the identity; the gradient of a row goes where the row came from."""
    rng = np.random.default_rng(2)
    order, weights = rng.permutation(B), rng.normal(size=X.shape)
    back = np.argsort(order)
    assert (order != back).any()

    def f(x):
        mine = parallel.positions(len(x))

        def objective(x):
            y = parallel.exchange(x, jnp.asarray(order))
            return parallel.mean((jnp.asarray(weights)[mine] * jnp.sin(y)).sum())

        there = parallel.exchange(x, jnp.asarray(order))
        again = parallel.exchange(there, jnp.asarray(back))
        return there, again, jax.grad(objective)(x) * parallel.size()

    there, again, slope = (
        f(X) if devices is None else everywhere(f, X, devices=devices, out=P(DATA))
    )
    np.testing.assert_array_equal(there, X[order])
    np.testing.assert_array_equal(again, X)
    np.testing.assert_allclose(slope, weights[back] * np.cos(X), rtol=1e-13)


def test_an_exchange_is_of_rows_of_any_shape():
    x, order = np.arange(B * 6).reshape(B, 2, 1, 3), np.arange(B)[::-1].copy()
    there = everywhere(lambda x: parallel.exchange(x, jnp.asarray(order)), x, out=P(DATA))
    np.testing.assert_array_equal(there, x[::-1])


# Tables

N = 20
TABLE = np.random.default_rng(3).normal(size=(N, 3))
SOME = np.random.default_rng(4).permutation(N)[:B]  # rows of the table, one for each of the batch


def test_rows_are_taken_in_the_shape_of_their_index():
    for index in (np.int32(3), SOME, SOME.reshape(2, 4, 2)):
        np.testing.assert_array_equal(
            parallel.take(jnp.asarray(TABLE), index), np.float32(TABLE)[index]
        )


@pytest.mark.parametrize('devices', [None, 1, 2, 8])
def test_the_rows_of_the_global_batch_are_put_into_a_table(float64, devices):
    """It stays the same on every shard, for the checker too: `out` is P()."""

    def f(x, index):
        table = parallel.put(jnp.asarray(TABLE, jnp.float32), index, x)
        taken = parallel.take(table, index)  # this shard's own rows are there
        return table, parallel.total((taken == x.astype(jnp.float32)).sum())

    table, same = f(X, SOME) if devices is None else everywhere(f, X, SOME, devices=devices)
    expected = TABLE.astype(np.float32)
    expected[SOME] = X
    assert table.dtype == jnp.float32  # the table's, though the values have more
    np.testing.assert_array_equal(table, expected)
    assert same == X.size


def test_no_gradient_passes_into_a_table():
    def f(x, index):
        into = lambda x: (parallel.put(jnp.asarray(TABLE), index, x) ** 2).sum()
        return jax.grad(lambda x: parallel.mean(into(x) + x.sum()))(x) * parallel.size()

    np.testing.assert_array_equal(everywhere(f, X, SOME, out=P(DATA)), np.ones_like(X))
    np.testing.assert_array_equal(f(X, SOME), np.ones_like(X))


@pytest.mark.parametrize('devices', [None, 1, 8])
@pytest.mark.parametrize('index', [None, np.random.default_rng(5).integers(0, N, (B, 4))])
def test_scores_are_dot_products_with_the_rows_of_a_table(float64, devices, index):
    weights = np.random.default_rng(6).normal(size=(B, N if index is None else 4))

    def f(query):
        mine = parallel.positions(len(query))
        rows = None if index is None else jnp.asarray(index)[mine]

        def objective(query):
            scores = parallel.score(jnp.asarray(TABLE), query, rows)
            return parallel.mean((jnp.asarray(weights)[mine] * jnp.sin(scores)).sum()), scores

        slope, scores = jax.grad(objective, has_aux=True)(query)
        return scores, slope * parallel.size()

    def scored(query):
        rows = range(N) if index is None else None
        of = lambda n: rows if index is None else index[n]
        return np.array([[q @ TABLE[m] for m in of(n)] for n, q in enumerate(query)])

    scores, slope = f(X) if devices is None else everywhere(f, X, devices=devices, out=P(DATA))
    assert_close(scores, scored(X), 1e-13)
    (expected,) = oracles.gradient(lambda query: (weights * np.sin(scored(query))).sum(), X)
    assert_close(slope, expected, 1e-8)  # what central differences are good for


@pytest.mark.parametrize('devices', [None, 1, 2, 8])
@pytest.mark.parametrize('length', [16, 24, 37, 48])
def test_a_queue_is_first_in_first_out(devices, length):
    """Seven batches of 16 in global order; where they do not divide the length, one wraps around."""
    queue, cursor = jnp.arange(-length, 0)[:, None] * jnp.ones((1, 2)), jnp.zeros((), jnp.int32)
    truth = deque(np.array(queue), maxlen=length)

    def f(queue, cursor, values):
        assert len(values) * parallel.size() == B
        return parallel.enqueue(queue, cursor, values)

    specs = P(), P(), P(DATA)
    if devices is not None:
        f = jax.jit(parallel.shard(f, mesh_of(devices, 2), specs, P()))
    for step in range(7):
        values = np.float32(step * B + np.arange(B))[:, None] * [1, 2]
        queue, cursor = f(queue, cursor, jnp.asarray(values, jnp.float32))
        truth.extend(values)
        assert (queue.shape, queue.dtype) == ((length, 2), jnp.float32)
        assert (cursor.dtype, int(cursor)) == (jnp.int32, (step + 1) * B % length)
        np.testing.assert_array_equal(np.roll(queue, -int(cursor), 0), truth)  # the oldest first


@pytest.mark.parametrize('inside', [False, True])
def test_a_queue_shorter_than_the_batch_is_refused(inside):
    """Two examples of the batch would have one place."""
    f = lambda x: parallel.enqueue(jnp.zeros((B - 1, 3)), jnp.zeros((), jnp.int32), x)
    with pytest.raises(
        Problem, match=f'a queue of {B - 1} does not hold a batch of {B}'
    ) as refusal:
        trace(f, X) if inside else f(X)
    assert refusal.value.code == CONFIG


def test_a_batch_must_divide_over_devices_and_groups():
    mesh = mesh_of(8)
    parallel.check_batch(24, mesh)
    parallel.check_batch(48, mesh, bn_groups=3)
    for batch_size, groups, multiple in (
        (20, 1, 8),
        (0, 1, 8),
        (-8, 1, 8),
        (40, 3, 24),
        (24, 16, 16),
    ):
        with pytest.raises(Problem) as refusal:
            parallel.check_batch(batch_size, mesh, groups)
        assert refusal.value.code == CONFIG
        assert str(refusal.value) == (
            f'batch_size={batch_size} does not divide over 8 devices and bn_groups={groups}: '
            f'set --config.batch_size to a multiple of {multiple}'
        )
    parallel.check_batch(96, mesh, bn_groups=3, exact=2, plain=2)
    with pytest.raises(Problem) as refusal:
        parallel.check_batch(48, mesh, bn_groups=3, exact=2, plain=2)
    over = '8 devices and bn_groups=3, accumulate.exact=2, accumulate.plain=2'
    assert str(refusal.value) == (
        f'batch_size=48 does not divide over {over}: set --config.batch_size to a multiple of 96'
    )
    for name, key in (('bn_groups', 'bn_groups'), ('accumulate.plain', 'plain')):
        least = f'config.{name}=0: must be at least 1'
        with pytest.raises(Problem, match=least) as refusal:
            parallel.check_batch(24, mesh, **{key: 0})
        assert refusal.value.code == CONFIG


# Rows


@pytest.mark.parametrize('groups', [1, 2])
def test_the_rows_of_a_process_go_to_their_places_and_come_back(groups):
    """The only process holds all rows; device n of the mesh gets the n-th piece of them."""
    mesh = mesh_of(8, groups)
    assert parallel.rows(mesh, B) == (0, B)
    batch = {'views': (X, X.astype(np.float32)[:, None]), 'index': np.arange(B, dtype=np.int32)}
    spread = parallel.spread(batch, mesh)
    for there, here in zip(jax.tree.leaves(spread), jax.tree.leaves(batch), strict=True):
        assert there.sharding == NamedSharding(mesh, P(DATA))
        np.testing.assert_array_equal(there, jnp.asarray(here))
    assert spread['index'].dtype == np.int32
    pieces = {piece.device: piece.data for piece in spread['index'].addressable_shards}
    for n, device in enumerate(mesh.devices.flat):
        np.testing.assert_array_equal(pieces[device], [2 * n, 2 * n + 1])


def test_placed_shapes_are_replicated():
    mesh = mesh_of(8)
    (placed,) = parallel.placed([jnp.zeros((2, 3), jnp.bfloat16)], mesh)
    assert (placed.shape, placed.dtype) == ((2, 3), jnp.bfloat16)
    assert placed.sharding == parallel.replicated(mesh)
    whole = jax.device_put(np.arange(6), parallel.replicated(mesh))
    assert all(piece.data.shape == (6,) for piece in whole.addressable_shards)
    assert len(whole.addressable_shards) == 8


def test_processes_that_differ_are_refused_by_what_differs(monkeypatch):
    what = {'config': 'a', 'program': 'b'}
    parallel.agree(what)
    own = parallel.each_process([1, 2])
    assert own.tolist() == [[1, 2]]
    assert own.dtype == np.int32
    assert parallel.each_process([0.5]).dtype == np.float32
    monkeypatch.setattr(parallel, 'each_process', lambda x: np.int32([x, x, [x[0], x[1] + 1]]))
    with pytest.raises(Problem, match=r'processes \[2\] have another program than process 0'):
        parallel.agree(what)
