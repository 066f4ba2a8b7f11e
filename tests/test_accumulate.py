"""A batch in pieces: exact where the encoder alone is, and as batches of their own with their mean."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import accumulate, networks, parallel, placement, train
from clr_jax.entry import CONFIG, Problem
from clr_jax.method import Aux, Method
from clr_jax.methods.clip import clip
from clr_jax.methods.dino import dino
from clr_jax.methods.moco import moco
from clr_jax.methods.simclr import simclr
from clr_jax.methods.simcse import simcse
from clr_jax.networks import Dropout, Network
from tests.conftest import config
from tests.methods import pairs, tiny
from tests.methods.tiny import close, outcome
from tests.steps import double


class Noisy(nn.Module):
    """`tiny.Linear` with dropout before and behind it."""

    @nn.compact
    def __call__(self, x, rows):
        SEEN.append(len(x))
        return Dropout(0.3)(tiny.Linear(name='linear')(Dropout(0.2)(x, rows), rows), rows)


class Words(nn.Module):
    """`pairs.Words` with dropout."""

    @nn.compact
    def __call__(self, tokens, rows):
        SEEN.append(len(tokens))
        return Dropout(0.3)(pairs.Words(name='words')(tokens, rows), rows)


KEY = jax.random.key(0)
SEEN: list[int] = []  # rows that an encoder was called with
IMAGES, CROPS, TEXTS = tiny.batch(), tiny.batch(small=2), pairs.batch()
TOKENS = TEXTS | {'views': TEXTS['views'][1:]}
CASES = {  # method, its encoders, batch, devices, pieces, rows of a pass in a piece
    'norms in the head': (simclr(Noisy(), projector=(8, 4)), [Noisy()], IMAGES, 2, 4, 4),
    'crops and a target': (
        *(dino(Noisy(), projector=(8, 4), prototypes=12), [Noisy()], CROPS, 1, 8, 4),
    ),
    'towers': (clip(Noisy(), Words(), dim=4), [Noisy(), Words()], TEXTS, 2, 4, 2),
    'two masks of a sentence': (simcse(Words()), [Words()], TOKENS, 8, 2, 2),
}


@pytest.mark.parametrize('case', CASES)
def test_an_encoder_in_pieces_computes_what_it_does_at_once(case):
    """Loss, gradients, state, embeddings and metrics, with what is random in it. (Of a transformer:
    test_vit.py.)"""
    method, encoders, batch, devices, pieces, rows = CASES[case]
    with jax.enable_x64(True):
        begin = jax.device_get(double(method.init(jax.random.key(1), batch)))
    whole = outcome(method, *begin, batch, 1)
    SEEN.clear()
    parts = accumulate.exact(method, tuple(map(type, encoders)), pieces)
    found = outcome(parts, *begin, batch, devices)
    close(found._replace(own=0), whole._replace(own=0))
    assert max(np.abs(g).max() for g in jax.tree.leaves(whole.grads['encoder'])) > 1e-3
    assert set(SEEN) == {rows}


class Deep(nn.Module):
    """[n, 64] -> [n, 64] by layers whose outputs a gradient needs."""

    @nn.compact
    def __call__(self, x, rows):
        for _ in range(8):
            x = nn.tanh(nn.Dense(64)(x))
        return x


def test_memory_is_that_of_a_piece():
    """Of what 8 layers say of 2,048 rows, for the gradient, as XLA plans it."""
    network, batch = Network(Deep()), jnp.zeros((2048, 64))

    def loss(params, state, batch, *, key, time):
        out, _ = networks.apply(network, params, {}, batch)
        return jnp.square(out.h).mean(), Aux(state, {}, out.h[:, None], out.z[:, None])

    params, _ = networks.init(network, KEY, batch)
    method = Method(lambda *_: None, loss, lambda *_: None)

    def temporaries(method, pieces=1):
        objective = lambda params, key, *rest: method.loss(params, *rest, key=key, time=0)
        step = accumulate.plain(jax.value_and_grad(objective, has_aux=True), pieces)
        lowered = jax.jit(step).lower(params, KEY, (), batch)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    whole, layer = temporaries(method), 4 * 2048 * 64
    assert whole > 7 * layer
    assert temporaries(accumulate.exact(method, (Deep,), 16)) < 3 * layer
    assert temporaries(method, 16) < 3 * layer


def test_batch_norm_in_the_encoder_is_refused_before_anything_runs():
    """Of a whole config; in the heads it sees all rows."""
    of = config('simclr_digits', 'smoke').to_dict()
    of['accumulate']['exact'] = 2
    described = lambda **encoder: train.describe(of | {'encoder': of['encoder'] | encoder}, 99, 10)
    with pytest.raises(Problem, match='^config.accumulate.exact=2: not exact with batch') as error:
        train.state_shapes(described(), parallel.make_mesh())
    assert error.value.code == CONFIG
    found = train.state_shapes(described(norm='layer'), parallel.make_mesh())
    assert found.state.stats.keys() == {'projector'}


def test_a_config_puts_every_encoder_in_pieces():
    of = config('clip_emoji', 'smoke').to_dict()
    of['encoder']['norm'] = 'layer'
    rows = []
    for pieces in (1, 4):
        of['accumulate']['exact'] = pieces
        run = train.describe(of, 99, 0)
        batch = train.blank_batch(run, 32)
        loss = lambda params, state: run.method.loss(params, state, batch, key=KEY, time=tiny.now())
        found = str(jax.make_jaxpr(loss)(*jax.eval_shape(run.method.init, KEY, batch)))
        loops = re.findall(r'length=4\b', found)
        rows.append(len(loops))
    assert rows == [0, 2]


def test_each_piece_is_a_batch_of_its_own_whatever_devices_hold_it(float64):
    """On 8 devices as piece by piece on one: rows i, i + 2, ... of the global batch, with batch
    statistics of their own and the queue that the one before has left. The gradient is the mean."""
    method, data, rate = moco(tiny.Linear(1), queue_size=24, projector=(8, 4)), tiny.batch(), 0.1
    params, state = tiny.start(method)
    each, kept = [], state
    for i in range(2):
        piece = jax.tree.map(lambda x, i=i: x[i::2], data)
        each.append(outcome(method, params, kept, piece, 1))
        kept = each[-1].state
    assert np.abs(each[0].grads['encoder']['Dense_0']['kernel']).max() > 1e-3
    mean = jax.tree.map(lambda a, b: (a + b) / 2, each[0].grads, each[1].grads)
    mesh, sgd = parallel.make_mesh(), optax.sgd(rate)
    pace = {'seed': 0, 'steps_per_epoch': 1, 'total_steps': 9, 'plain': 2}
    step = train.make_step(method, sgd, mesh, sharded=True, **pace)
    ts = train.TrainState(jnp.int32(0), params, sgd.init(params), state)
    ts = jax.device_put(ts, placement.shardings(ts, mesh, True))
    after, metrics = jax.device_get(step(ts, parallel.spread(data, mesh)))
    close(after.params, jax.tree.map(lambda p, g: p - rate * g, params, mean))
    close(after.state._replace(target=()), kept._replace(target=()))
    close(metrics['loss'], (each[0].loss + each[1].loss) / 2)


def test_pieces_have_keys_of_their_own_and_rows_come_back_in_order():
    x = np.arange(12.0).reshape(6, 2)

    def gradient(params, key, state, batch):
        drawn = jax.random.uniform(key)
        aux = Aux(state + batch['x'].sum(), {'drawn': drawn}, batch['x'][:, None], batch['x'])
        return (drawn, aux), {'w': params['w'] * batch['x'].sum()}

    given = {'w': jnp.ones(3)}, KEY, jnp.float32(0), {'x': jnp.asarray(x)}
    (loss, aux), grads = accumulate.plain(gradient, 3)(*given)
    keys = [jax.random.fold_in(KEY, i) for i in range(3)]
    np.testing.assert_allclose(loss, np.mean([jax.random.uniform(key) for key in keys]), rtol=1e-6)
    np.testing.assert_allclose(aux.metrics['drawn'], loss)
    np.testing.assert_allclose(grads['w'], [x.sum() / 3] * 3, rtol=1e-6)
    assert aux.state == x.sum()
    np.testing.assert_array_equal(aux.h, x[:, None])
    np.testing.assert_array_equal(aux.z, x)
    assert accumulate.plain(gradient, 1) is gradient
