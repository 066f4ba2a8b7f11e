"""Checkpoints: every bit comes back, on any devices; damage is named, never loaded; the right steps are kept.

States here hold random bits in every dtype and container that a run's state has, so that a value that is cast, rounded,
moved to another leaf or made anew shows.
"""

import json
import math
import random
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clr_jax import optimizers, parallel
from clr_jax.checkpoint import Checkpoints, check_structure, checksum, fingerprints, paths, shapes
from clr_jax.entry import CONFIG, DATA, INPUT, Problem
from clr_jax.train import TrainState

# Orbax drops what it hears of a damaged step's other leaves, to whoever collects garbage.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

DTYPES = ('float32', 'float16', 'bfloat16', 'int32', 'int8', 'uint32', 'uint8', 'bool')
BEST = {
    2: 0.9,
    3: math.nan,
    5: 0.5,
    6: 0.95,
    7: math.nan,
    9: 0.1,
}  # step -> top-1; none: not judged


class Memory(NamedTuple):
    """A method's state with what methods have: tables, counters, flags, keys."""

    stats: Any
    queue: jax.Array  # [16, 5] bfloat16
    cursor: jax.Array  # [] int32
    full: jax.Array  # [] bool
    assignments: jax.Array  # [16] uint8
    key: jax.Array  # [2] uint32


def mesh_of(count: int):
    return parallel.make_mesh(jax.devices()[:count])


def noise(like, seed: int):
    """The same pytree with random bits in each leaf, NaNs of every payload and subnormal numbers among them."""
    rng = np.random.default_rng(seed)

    def one(x):
        if x.dtype == np.bool_:
            return rng.random(x.shape) < 0.5
        return np.frombuffer(rng.bytes(x.size * x.dtype.itemsize), x.dtype).reshape(x.shape)

    return jax.tree.map(one, like)


def example(seed: int, mesh=None, shards=None) -> TrainState:
    """A TrainState with groups of parameters, one frozen for a while, beside a second optimizer."""
    params = {
        'method': {
            'encoder': {
                'conv1': {'kernel': jnp.zeros((3, 3, 3, 40))},
                'bn1': {'scale': jnp.zeros(4)},
            },
            'predictor': {'kernel': jnp.zeros((4, 2), jnp.bfloat16)},
        },
        'probe': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.zeros(3, jnp.float16)},
    }
    groups = {
        'norm': {'pattern': 'scale$', 'weight_decay': 0.0},
        'late': {'pattern': '^predictor', 'freeze_until': 3},
    }
    section = {'name': 'adamw', 'learning_rate': 0.1}
    times = {'batch_size': 16, 'steps_per_epoch': 2, 'total_steps': 8}
    both = {'method': optimizers.optimizer(section, groups, **times), 'probe': optax.adam(0.1)}
    memory = Memory(
        stats={'encoder': {'bn1': {'mean': jnp.zeros(4), 'var': jnp.zeros(4)}}},
        queue=jnp.zeros((16, 5), jnp.bfloat16),
        cursor=jnp.zeros((), jnp.int32),
        full=jnp.zeros((), bool),
        assignments=jnp.zeros(16, jnp.uint8),
        key=jnp.zeros(2, jnp.uint32),
    )
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizers.each(both).init(params), memory)
    state = noise(state, seed)
    if mesh is None:
        return state
    place = NamedSharding(mesh, shards or P())
    rows = lambda x: place if x.ndim and x.shape[0] == 16 else NamedSharding(mesh, P())
    return jax.device_put(state, jax.tree.map(rows, state))


def bits(x) -> np.ndarray:
    x = np.asarray(x)
    return np.frombuffer(x.tobytes(), np.uint8)


def same_bits(a, b) -> bool:
    """Whether two pytrees are alike in structure, dtypes, shapes and every bit."""
    (a, a_tree), (b, b_tree) = jax.tree.flatten(a), jax.tree.flatten(b)
    return a_tree == b_tree and all(
        x.shape == y.shape and x.dtype == y.dtype and np.array_equal(bits(x), bits(y))
        for x, y in zip(a, b, strict=True)
    )


def write(workdir, steps, **options):
    """Checkpoints of `steps`; step n holds example(n)."""
    checkpoints = Checkpoints(workdir, **options)
    for step in steps:
        checkpoints.save(step, example(step, mesh_of(8)), {'examples': step})
    checkpoints.close()


def flip(path, bit: int):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def arrays(step_folder):
    """The file that holds most of the arrays' bytes."""
    return max((step_folder / 'state' / 'd').iterdir(), key=lambda p: p.stat().st_size)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A folder with the steps 1, 2 and 3; not to be changed."""
    workdir = tmp_path_factory.mktemp('written')
    write(workdir, (1, 2, 3))
    return workdir


@pytest.fixture
def copy(written, tmp_path):
    """As `written`, to be damaged."""
    return shutil.copytree(written, tmp_path / 'run')


def test_the_example_has_what_runs_have():
    state = example(0)
    found = {str(x.dtype) for x in jax.tree.leaves(state)}
    assert {'float32', 'bfloat16', 'int32', 'bool', 'uint8', 'uint32'} <= found
    parts = {
        type(x).__name__ for x in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, '_fields'))
    }
    assert parts == {'TrainState'}
    assert any('inner_states' in path for path in paths(state.opt))  # of optax.partition
    wide = np.concatenate([x.reshape(-1) for x in jax.tree.leaves(state) if x.dtype == np.float32])
    assert np.isnan(wide).any()


@pytest.mark.parametrize('devices', [8, 4, 2, 1])
def test_every_bit_comes_back_on_any_number_of_devices(written, devices):
    mesh = mesh_of(devices)
    like = example(99, mesh, P(parallel.DATA))  # rows spread, unlike what was saved
    checkpoints = Checkpoints(written, read_only=True)
    state, data, step = checkpoints.restore(like)
    assert (step, data) == (3, {'examples': 3})
    assert same_bits(state, example(3))
    placed = jax.tree.map(lambda x, y: x.sharding == y.sharding, state, like)
    assert all(jax.tree.leaves(placed))
    assert same_bits(checkpoints.restore(like, 1)[0], example(1))
    assert checkpoints.data(2) == {'examples': 2}


def test_rows_spread_over_devices_are_saved_as_one_array(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = example(5, mesh_of(8), P(parallel.DATA))
    checkpoints.save(5, state, {})
    checkpoints.wait()
    assert same_bits(checkpoints.restore(example(0, mesh_of(2)))[0], example(5))
    checkpoints.close()


def test_what_is_saved_is_the_state_at_that_moment(tmp_path):
    """The step donates its state: the buffers are used again while the checkpoint is being written."""
    checkpoints = Checkpoints(tmp_path)
    state = example(1, mesh_of(1))
    overwrite = jax.jit(
        lambda s: jax.tree.map(lambda x: x ^ True if x.dtype == bool else x + 1, s),
        donate_argnums=0,
    )
    checkpoints.save(1, state, {})
    overwrite(state)
    checkpoints.wait()
    assert same_bits(checkpoints.restore(example(0, mesh_of(1)))[0], example(1))
    checkpoints.close()


# Fingerprints.


def mixed(words) -> int:
    """The fingerprint's definition, in Python's integers."""
    total = 0
    for i, u in enumerate(words):
        h = ((int(u) ^ (i * 0x9E3779B1 % 2**32)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 15)) * 0xC2B2AE35) % 2**32
        total += h ^ (h >> 13)
    return total % 2**32


def test_fingerprints_are_the_same_on_any_devices_and_by_definition():
    state = example(7)
    words = {1: np.uint8, 2: np.uint16, 4: np.uint32}
    expected = {
        path: mixed(x.reshape(-1).view(words[x.dtype.itemsize])) for path, x in paths(state).items()
    }
    assert fingerprints(jax.tree.map(jnp.asarray, state)) == expected
    for devices in (1, 2, 4, 8):
        for shards in (P(), P(parallel.DATA), P('device')):
            assert fingerprints(example(7, mesh_of(devices), shards)) == expected
    assert len(set(expected.values())) == len(expected)


@pytest.mark.parametrize('dtype', [*DTYPES, 'float64', 'int64'])
def test_any_flipped_bit_changes_the_fingerprint(dtype):
    with jax.enable_x64('64' in dtype):
        kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
        original = noise(np.zeros(3, kind), 3)
        flips = np.repeat(
            bits(original)[None], 3 * kind.itemsize * (1 if dtype == 'bool' else 8), 0
        )
        for n, row in enumerate(flips):
            if dtype == 'bool':
                row[n] ^= 1
            else:
                row[n // 8] ^= 1 << n % 8
        leaves = {
            str(n): jnp.asarray(np.frombuffer(row.tobytes(), kind)) for n, row in enumerate(flips)
        }
        found = fingerprints(leaves | {'original': jnp.asarray(original)})
    expected = found.pop('original')
    assert len(found) == len(flips) >= 3
    assert expected not in found.values()


def test_a_fingerprint_depends_on_the_order():
    x = jnp.arange(10.0)
    found = fingerprints({'x': x, 'swapped': x.at[jnp.array([2, 7])].set(x[jnp.array([7, 2])])})
    assert found['x'] != found['swapped']


def test_a_checksum_depends_on_values_and_on_paths():
    tree = {'a': jnp.arange(4.0), 'b': jnp.ones(2)}
    same = checksum({'b': jnp.ones(2), 'a': jnp.arange(4.0)})
    assert len(same) == 8
    assert checksum(tree) == same
    assert checksum({'a': tree['a'], 'c': tree['b']}) != same
    assert checksum(tree | {'b': jnp.array([1.0, 1.0000001])}) != same


# Damage.


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
    path.unlink()


def flip_the_middle(path):
    flip(path, 8 * (path.stat().st_size // 2) + 5)


def empty(path):
    path.write_bytes(b'')


@pytest.mark.parametrize('harm', [flip_the_middle, truncate, delete, empty])
@pytest.mark.parametrize('part', ['arrays', 'description', 'manifest'])
def test_a_damaged_step_is_named_and_the_one_before_it_used(copy, capfd, part, harm):
    newest = copy / 'checkpoints' / '3'
    places = {
        'arrays': arrays(newest),
        'description': newest / 'about' / 'metadata',
        'manifest': newest / 'state' / 'manifest.ocdbt',
    }
    harm(places[part])
    checkpoints = Checkpoints(copy)
    state, data, step = checkpoints.restore(example(0, mesh_of(2)))
    assert step == 2
    assert same_bits(state, example(2))
    assert data == {'examples': 2}
    warnings = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith('warning: ')
    ]
    assert len(warnings) == 1
    assert 'damaged' in warnings[0]
    assert 'step 3' in warnings[0]
    with pytest.raises(Problem, match='step 3') as error:
        checkpoints.restore(example(0, mesh_of(2)), 3)
    assert error.value.code == DATA
    checkpoints.close()


def test_no_flipped_bit_of_any_file_is_ever_loaded(copy):
    """Some bits mean nothing, so a flip may leave the newest step whole; what is loaded is one of the true states."""
    rng = random.Random(0)
    outcomes = []
    files = sorted(
        p for p in (copy / 'checkpoints' / '3').rglob('*') if p.is_file() and p.stat().st_size
    )
    like = example(0, mesh_of(1))
    for path in files:
        for _ in range(4):
            bit = rng.randrange(8 * path.stat().st_size)
            flip(path, bit)
            checkpoints = Checkpoints(copy, read_only=True)
            state, data, step = checkpoints.restore(like)
            checkpoints.close()
            assert data == {'examples': step}, (path, bit)
            assert same_bits(state, example(step)), (path, bit)
            outcomes.append(step)
            flip(path, bit)
    assert set(outcomes) == {2, 3}


def test_a_flipped_bit_of_a_value_is_caught_by_the_fingerprint(tmp_path, capfd):
    """Orbax itself returns it as if it were the truth, as reading without the fingerprint shows."""
    states = {step: noise({'kernel': np.zeros(2000, np.float32)}, step) for step in (1, 2)}
    checkpoints = Checkpoints(tmp_path)
    for step, state in states.items():
        checkpoints.save(step, jax.tree.map(jnp.asarray, state), {})
    checkpoints.wait()
    kernel = states[2]['kernel'].tobytes()  # random bits are stored as they are
    for path in (tmp_path / 'checkpoints' / '2' / 'state').rglob('*'):
        if path.is_file() and (place := path.read_bytes().find(kernel[3000:3016])) >= 0:
            flip(path, 8 * place + 3)
    like = jax.tree.map(jnp.asarray, states[1])
    args = checkpoints.ocp.args
    loaded = checkpoints.manager.restore(2, args=args.Composite(state=args.StandardRestore(like)))
    wrong = np.flatnonzero(bits(loaded.state['kernel']) != np.frombuffer(kernel, np.uint8))
    assert wrong.tolist() == [3000]
    state, _, step = checkpoints.restore(like)
    assert step == 1
    assert same_bits(state, states[1])
    assert 'step 2: kernel differs from what was saved' in capfd.readouterr().err
    checkpoints.close()


def test_a_digit_of_the_description_that_changed_is_noticed(copy):
    """It still is JSON, and would name other data."""
    path = copy / 'checkpoints' / '3' / 'about' / 'metadata'
    text = path.read_text()
    assert text.count('"examples": 3') == 1
    path.write_text(text.replace('"examples": 3', '"examples": 7'))
    checkpoints = Checkpoints(copy, read_only=True)
    assert checkpoints.data() == {'examples': 2}
    assert checkpoints.restore(example(0, mesh_of(1)))[1:] == ({'examples': 2}, 2)


def test_a_run_goes_on_over_damaged_steps(copy):
    for step in (2, 3):
        truncate(arrays(copy / 'checkpoints' / str(step)))
    checkpoints = Checkpoints(copy)
    assert checkpoints.restore(example(0, mesh_of(1)))[2] == 1
    assert checkpoints.steps() == [1, 2, 3]  # nothing is given up before there is something better
    for step in (2, 3):
        checkpoints.save(step, example(10 * step, mesh_of(1)), {'examples': step})
    checkpoints.close()
    checkpoints = Checkpoints(copy, read_only=True)
    assert checkpoints.steps() == [1, 2, 3]
    for step in (2, 3):
        assert same_bits(checkpoints.restore(example(0, mesh_of(1)), step)[0], example(10 * step))


def test_when_all_steps_are_damaged_all_are_named(copy):
    for step in (1, 2, 3):
        delete(copy / 'checkpoints' / str(step) / 'about' / 'metadata')
    with pytest.raises(Problem, match='step 3.*step 2.*step 1') as error:
        Checkpoints(copy).restore(example(0, mesh_of(1)))
    assert error.value.code == DATA


def test_what_was_never_written_is_no_damage(written, tmp_path):
    like = example(0, mesh_of(1))
    for act in (lambda c: c.restore(like), lambda c: c.data()):
        with pytest.raises(Problem, match='none was written') as error:
            act(Checkpoints(tmp_path, read_only=True))
        assert error.value.code == INPUT
    for act in (lambda c: c.restore(like, 7), lambda c: c.data(7)):
        with pytest.raises(Problem, match=r'no checkpoint 7; it has \[1, 2, 3\]') as error:
            act(Checkpoints(written, read_only=True))
        assert error.value.code == INPUT


# Another architecture.


def other_width(state):
    state.params['method']['encoder']['conv1']['kernel'] = jnp.zeros((3, 3, 3, 48))
    return state, [
        'params/method/encoder/conv1/kernel',
        'float32[3, 3, 3, 40]',
        'float32[3, 3, 3, 48]',
    ]


def other_dtype(state):
    state.params['probe']['kernel'] = jnp.zeros((4, 3), jnp.bfloat16)
    return state, ['params/probe/kernel', 'float32[4, 3]', 'bfloat16[4, 3]']


def other_rank(state):
    return state._replace(step=jnp.zeros((1,), jnp.int32)), ['step', 'int32[]', 'int32[1]']


def one_more(state):
    state.params['method']['encoder']['conv2'] = {'kernel': jnp.zeros(3)}
    return state, ['lacks params/method/encoder/conv2/kernel']


def one_less(state):
    del state.params['method']['encoder']['bn1']
    return state, ['has params/method/encoder/bn1/scale']


@pytest.mark.parametrize('change', [other_width, other_dtype, other_rank, one_more, one_less])
def test_a_state_of_another_shape_is_refused_by_the_name_of_its_leaf(written, capfd, change):
    like, words = change(jax.tree.map(jnp.asarray, example(0)))
    with pytest.raises(Problem) as error:
        Checkpoints(written, read_only=True).restore(like)
    assert error.value.code == CONFIG
    for word in ['checkpoint 3', str(written), *words]:
        assert word in str(error.value)
    assert 'damaged' not in capfd.readouterr().err  # and no older step is tried


def test_equal_structures_pass():
    state = example(0)
    check_structure(json.loads(json.dumps(shapes(state))), state, 'here')


# What is kept.


def latest_and_best(seen, keep: int) -> list[int]:
    """The last `keep` steps and the one of the highest finite top-1."""
    judged = [step for step in seen if math.isfinite(BEST.get(step, math.nan))]
    best = [max(judged, key=BEST.get)] if judged else []
    return sorted({*seen[-keep:], *best})


@pytest.mark.parametrize('keep', [1, 2])
def test_the_latest_and_the_best_are_kept(tmp_path, keep):
    state, seen, expected = {'x': jnp.arange(3.0)}, [], []
    for half in (range(1, 5), range(5, 10)):  # opened anew half-way: what was best is not forgotten
        checkpoints = Checkpoints(tmp_path, keep)
        for step in half:
            checkpoints.save(step, state, {}, BEST.get(step))
            checkpoints.wait()
            seen.append(step)
            # a step that left the kept ones is gone, even if it would be the best of those that remain
            expected = [s for s in latest_and_best(seen, keep) if s in [*expected, step]]
            assert checkpoints.steps() == expected
        checkpoints.close()
    assert expected == sorted({6, *range(10 - keep, 10)})
    folders = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.name.isdigit())
    assert folders == expected
    for step in expected:
        Checkpoints(tmp_path, read_only=True).restore(state, step)


def test_deleted_steps_do_not_pile_up(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in range(1, 6):
        checkpoints.save(step, {'x': jnp.arange(3.0)}, {})
        trash = tmp_path / 'checkpoints' / 'trash'
        checkpoints.wait()
        assert len(list(trash.iterdir()) if trash.exists() else []) <= 1
    checkpoints.close()
    assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['5']


def test_what_a_kill_left_is_purged_and_never_listed(copy):
    folder = copy / 'checkpoints'
    half_deleted, half_written = folder / 'trash' / '1', folder / '4.orbax-checkpoint-tmp'
    shutil.copytree(folder / '1', half_deleted)
    shutil.copytree(folder / '3' / 'about', half_written / 'about')

    reader = Checkpoints(copy, read_only=True)
    assert reader.steps() == [1, 2, 3]
    reader.close()
    assert half_deleted.exists()  # an evaluation leaves alone what a run may be writing
    assert half_written.exists()

    writer = Checkpoints(copy)
    assert writer.steps() == [1, 2, 3]
    writer.save(4, example(4, mesh_of(1)), {})
    writer.close()
    assert sorted(p.name for p in folder.iterdir()) == ['2', '3', '4']


def test_a_step_is_written_once(copy):
    checkpoints = Checkpoints(copy)
    for step in (3, 2, 0):
        with pytest.raises(RuntimeError, match=rf'checkpoint {step} is not written: .*3\]'):
            checkpoints.save(step, example(50, mesh_of(1)), {})
    checkpoints.close()
    assert same_bits(
        Checkpoints(copy, read_only=True).restore(example(0, mesh_of(1)))[0], example(3)
    )
