"""How a method is named, loaded and told the time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.encoders.convnet import ConvNet, convnet
from clr_jax.entry import CONFIG, Problem
from clr_jax.heads import MLP
from clr_jax.method import (
    Method,
    State,
    check_views,
    crossed,
    ema,
    features,
    keep,
    load,
    make_time,
    online,
    rising,
)
from clr_jax.networks import Network


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


TOYS = {
    'some': 'def some(teacher, encoder, *, factor=2): return teacher, encoder, factor',
    'every': 'def every(classes, teacher, examples, encoder): return classes, teacher, examples, encoder',
    'none': 'def none(*, factor=2): return factor',
}


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A package of factories that return what they are given."""
    folder = tmp_path / 'toy_package' / 'methods'
    folder.mkdir(parents=True)
    for name, text in TOYS.items():
        (folder / f'{name}.py').write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return 'toy_package.methods'


def test_what_a_factory_needs_it_is_given_by_name(toys):
    """Whatever the order; what it does not name is not passed."""
    given = {'encoder': 'E', 'examples': 50, 'classes': 10, 'teacher': 'T'}
    assert load(toys, {'name': 'some'}, **given) == ('T', 'E', 2)
    assert load(toys, {'name': 'some', 'factor': 3}, **given) == ('T', 'E', 3)
    assert load(toys, {'name': 'every'}, **given) == (10, 'T', 50, 'E')
    assert load(toys, {'name': 'none'}, **given) == load(toys, {'name': 'none'}) == 2
    # what is given cannot be set
    line = problem(lambda: load(toys, {'name': 'some', 'encoder': 'other'}, **given))
    assert line == 'config.method.encoder: some has no such setting; Known: factor'


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
    line = problem(lambda: load('clr_jax.encoders', {'name': 'txt'}, 'text_encoder'))
    assert line.startswith("config.text_encoder.name='txt' is not in clr_jax/encoders/: did you ")
    line = problem(lambda: load('clr_jax.encoders', {'name': 'text', 'deep': 1}, 'text_encoder'))
    assert line.startswith('config.text_encoder.deep: text has no such setting; ')


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


@pytest.mark.parametrize('start', [0.99, 0.996, 0.0, 1.0])
def test_a_rising_momentum_goes_from_its_start_to_one_by_half_a_cosine(start):
    for progress, expected in (
        (0, start),
        (1 / 3, start + (1 - start) / 4),
        (1 / 2, (start + 1) / 2),
        (2 / 3, start + (1 - start) * 3 / 4),
        (1, 1),
    ):
        assert abs(float(rising(start, jnp.float32(progress))) - expected) < 2e-7


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


def test_the_features_of_a_network_are_of_the_first_view_in_evaluation_mode():
    network = Network(convnet(widths=(4,), dropout=0.5), MLP((3,)))
    rng = np.random.default_rng(0)
    first, second = np.float32(rng.random((2, 6, 8, 8, 3)))
    params, stats = networks.init(network, jax.random.key(0), first)
    stats = jax.tree.map(lambda leaf: leaf + 0.5, stats)  # not of these images
    found = features(network)(params, State(stats), {'views': (first, second)})
    assert found.keys() == {'h', 'z'}
    out = network.apply({'params': params, 'batch_stats': stats}, first)
    np.testing.assert_array_equal(found['h'], out.h)
    np.testing.assert_array_equal(found['z'], out.z)
    assert (found['z'].shape, found['h'].shape) == ((6, 3), (6, 4))
    alone = features(network)(params, State(stats), {'views': (first[:1],)})
    np.testing.assert_allclose(alone['z'], out.z[:1], rtol=1e-5)  # no statistics of the batch
    assert online(params, State(stats)) == {'params': params, 'batch_stats': stats}
    assert Method(None, None, None).variables is online


def test_the_number_of_views_is_checked_and_large_crops_come_first():
    """Groups of views are numbered by name, which may be the wrong order for multi-crop."""
    crops = lambda *sizes: {'views': tuple(jnp.zeros((2, size, size, 3)) for size in sizes)}
    check_views(crops(8, 8), 2)
    check_views(crops(8, 8, 4, 4), 2, more=True)
    check_views(crops(4, 8), 2)
    refused = [
        (crops(8), {}, 'takes 2 views of an example; config.views makes 1'),
        (crops(8, 8, 8), {}, 'takes 2 views of an example; config.views makes 3'),
        (crops(8), {'more': True}, 'takes 2 views of an example or more; config.views makes 1'),
        (crops(4, 8, 8), {'more': True}, 'the first 2 views must be the largest'),
        (crops(8, 4, 8), {'more': True}, 'the first 2 views must be the largest'),
    ]
    for batch, options, message in refused:
        with pytest.raises(Problem, match=message):
            check_views(batch, 2, **options)


def test_crops_are_crossed_with_the_first_two():
    assert crossed(2) == [(0, 1), (1, 0)]
    assert crossed(3) == [(0, 1), (0, 2), (1, 0), (1, 2)]
