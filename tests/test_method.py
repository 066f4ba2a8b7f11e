"""How a method is named, loaded and told the time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.encoders.convnet import ConvNet
from clr_jax.entry import CONFIG, Problem
from clr_jax.method import Method, ema, keep, load, make_time


def load_encoder(**section):
    return load('clr_jax.encoders', section)


def load_method(**section):
    return load('clr_jax.methods', section, encoder=load_encoder(name='convnet', widths=(4,)))


def problem(f, **section) -> str:
    """The line that ends a program whose config says `section`."""
    with pytest.raises(Problem) as raised:
        f(**section)
    assert raised.value.code == CONFIG
    assert '\n' not in str(raised.value)
    return str(raised.value)


def test_a_section_is_a_call_of_the_function_it_names():
    section = {'name': 'convnet', 'widths': [4, 8], 'dropout': 0.25}
    encoder = load('clr_jax.encoders', section)
    assert isinstance(encoder, ConvNet)
    assert (encoder.widths, encoder.dropout, encoder.bn_groups) == ((4, 8), 0.25, 1)
    assert section == {
        'name': 'convnet',
        'widths': [4, 8],
        'dropout': 0.25,
    }  # a config is not consumed
    method = load_method(name='simclr', projector=(4,), temperature=0.5)
    assert isinstance(method, Method)
    params, _ = jax.eval_shape(
        lambda: method.init(jax.random.key(0), {'views': (jnp.zeros((2, 4, 4, 3)),) * 2})
    )
    assert params['projector']['dense1']['kernel'].shape == (4, 4)


def test_an_unknown_name_is_answered_with_the_nearest_and_all_there_are():
    line = problem(load_method, name='simclrr')
    assert 'config.method.name' in line
    assert 'did you mean "simclr"?' in line
    line = problem(load_encoder, name='resnet50')
    assert 'config.encoder.name' in line
    assert 'did you mean "resnet"?' in line
    assert 'convnet' in line.split('Known: ')[1]
    line = problem(load_encoder, name='xyzzy')
    assert 'did you mean' not in line
    assert 'convnet' in line.split('Known: ')[1]
    assert 'config.method.name=None' in problem(load_method, temperature=0.5)


def test_an_unknown_setting_is_answered_with_the_nearest_and_all_there_are():
    line = problem(load_method, name='simclr', temprature=0.5)
    assert 'config.method.temprature' in line
    assert 'did you mean "temperature"?' in line
    assert 'projector' in line.split('Known: ')[1]
    line = problem(load_encoder, name='convnet', width=(4,))
    assert 'config.encoder.width:' in line
    assert 'did you mean "widths"?' in line
    assert (
        'encoder' not in problem(load_method, name='simclr', x=1).split('Known: ')[1]
    )  # given by position, not a setting


def test_ema_is_the_weighted_mean_of_every_leaf():
    target, source = (
        {'a': jnp.array([1.0, 2.0]), 'b': (jnp.array(4.0),)},
        {'a': jnp.array([3.0, -2.0]), 'b': (jnp.array(8.0),)},
    )
    found = ema(target, source, 0.75)
    np.testing.assert_array_equal(
        found['a'], [1.5, 1.0]
    )  # exact in binary: 0.75 * 1 + 0.25 * 3, 0.75 * 2 - 0.25 * 2
    np.testing.assert_array_equal(found['b'][0], 5.0)
    for decay, expected in ((1.0, target), (0.0, source)):
        assert jax.tree.all(jax.tree.map(np.array_equal, ema(target, source, decay), expected))


def test_time_knows_every_epoch_boundary_of_a_long_run():
    """The floor of float32 progress times epochs is late at thirty of these boundaries."""
    per_epoch, epochs = 312, 800
    boundaries = np.arange(1, epochs) * per_epoch
    steps = np.concatenate([boundaries - 1, boundaries]).astype(np.int32)
    time = jax.jit(lambda step: make_time(step, per_epoch, per_epoch * epochs))(steps)
    np.testing.assert_array_equal(time.step, steps)
    np.testing.assert_array_equal(time.epoch, [int(step) // per_epoch for step in steps])
    assert time.step.dtype == time.epoch.dtype == jnp.int32
    np.testing.assert_allclose(time.progress, steps / (per_epoch * epochs), rtol=1e-6)
    last = make_time(jnp.array(per_epoch * epochs - 1), per_epoch, per_epoch * epochs)
    assert (int(last.epoch), float(last.progress) < 1) == (epochs - 1, True)
    assert float(make_time(jnp.array(0), per_epoch, 1).progress) == 0


def test_a_method_without_an_update_keeps_everything():
    params, state = object(), object()
    assert keep(params, state, key=None, time=None) == (params, state)
    assert Method(None, None, None).update is keep
