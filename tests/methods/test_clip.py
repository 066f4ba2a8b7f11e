"""The claims of CLIP: both directions against the whole batch, a scale that is learned and kept in
bounds, towers that begin where others ended or stand still."""

import jax
import numpy as np
import pytest

from clr_jax.encoders.text import text
from clr_jax.encoders.vit import vit
from clr_jax.entry import Problem
from clr_jax.methods.clip import clip
from tests.methods import pairs, tiny
from tests.methods.tiny import BATCH, Linear, close, outcome, train


def build(**settings):
    return clip(Linear(), pairs.Words(), **{'dim': pairs.DIM, 'temperature': 0.3} | settings)


def equation(params, data):
    """Radford et al., 2021, figure 3, the scale as its logarithm."""
    image, caption = pairs.embeddings(params, data)
    logits = np.exp(params['similarity']['log_scale']) * image @ caption.T  # [B, B]
    of_images = [np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)]
    of_texts = [np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits.T)]
    return (sum(of_images) + sum(of_texts)) / (2 * len(logits))


@pytest.mark.parametrize('devices', [1, 8])
def test_loss_and_every_gradient_are_those_of_the_equation(devices):
    out = pairs.check(build(), equation, devices)
    assert out.grads['similarity'].keys() == {'log_scale'}
    np.testing.assert_allclose(out.metrics['scale'], 1 / 0.3, rtol=1e-6)
    np.testing.assert_allclose(out.metrics['information_ceiling'], np.log(BATCH))
    np.testing.assert_allclose(out.metrics['information'], np.log(BATCH) - out.loss)


def test_the_transformer_learns_the_same_on_any_number_of_devices():
    """With dropout, which is by example."""
    layers = {'width': 8, 'depth': 1, 'heads': 2, 'vocabulary': pairs.WORDS, 'length': 5}
    method = clip(Linear(groups=1), text(**layers, dropout=0.3), dim=4)
    params, state = pairs.start(method)
    one, many = (outcome(method, params, state, pairs.batch(), devices) for devices in (1, 8))
    assert min(np.abs(g).max() for g in jax.tree.leaves(one.grads['text_encoder'])) > 1e-9
    close(one._replace(own=0), many._replace(own=0))


@pytest.mark.parametrize(
    ('log_scale', 'after'),
    [(-0.5, 0.0), (2.5, 2.5), (5.0, np.log(100)), (np.log(100), np.log(100))],
)
def test_the_scale_stays_between_one_and_its_maximum(log_scale, after):
    params, state = pairs.start(build())
    params |= {'similarity': {'log_scale': np.float64(log_scale)}}
    with jax.enable_x64(True):
        kept, same = build().update(params, state, key=None, time=None)
    np.testing.assert_allclose(kept['similarity']['log_scale'], after, rtol=1e-12, atol=0)
    close(
        {n: kept[n] for n in params if n != 'similarity'},
        {n: params[n] for n in params if n != 'similarity'},
    )
    assert same == state


def test_a_step_out_of_the_bounds_ends_at_one():
    method = build(temperature=0.8, max_scale=2.0)
    params, state = pairs.start(method)
    ends = [
        train(method, params, state, [pairs.batch()], rate=rate)[0][0]['similarity']['log_scale']
        for rate in (1e3, -1e3)
    ]
    np.testing.assert_allclose(sorted(ends), [0, np.log(2)], atol=1e-12)


def test_the_scale_begins_at_one_over_the_temperature():
    method = clip(Linear(), pairs.Words())
    params, _ = method.init(jax.random.key(0), pairs.batch())
    assert params['similarity']['log_scale'].dtype == np.float32
    np.testing.assert_allclose(params['similarity']['log_scale'], 2.6593, atol=1e-4)
    assert params['projector']['dense1'].keys() == {'kernel'}
    assert params['text_projector']['dense1']['kernel'].shape == (6, 512)


def test_the_size_of_the_vit_b_32_is_the_published_one():
    """That of the official model, its notebook says."""
    image = vit(variant='B', patch=32, pre_norm=True, activation='quick_gelu')
    views = np.zeros((1, 224, 224, 3), np.uint8), np.zeros((1, 77), np.int32)
    init = lambda: clip(image, text()).init(jax.random.key(0), {'views': views})
    params, _ = jax.eval_shape(init)
    assert sum(x.size for x in jax.tree.leaves(params)) == 151_277_313


def test_features_are_of_images_texts_or_both():
    image, caption = pairs.embeddings(pairs.start(build())[0], pairs.batch())
    of_images, of_texts, of_both = pairs.evaluated(build())
    assert (of_images.keys(), of_texts.keys()) == ({'h', 'z'}, {'text'})
    np.testing.assert_allclose(of_images['z'], image, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_texts['text'], caption, rtol=1e-9, atol=1e-12)
    close(of_both, of_images | of_texts)


@pytest.mark.parametrize('part', ['encoder', 'text_encoder', 'similarity'])
def test_a_tower_begins_where_another_run_ended(part):
    given = pairs.pretrained(build(temperature=0.9), [part])
    fresh, (params, _) = pairs.start(build())[0], pairs.start(build(), given)
    close(params[part], given['params'][part])
    for name in params:
        assert (name != part) == all(
            np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, (params[name], fresh[name])), strict=True)
        )


def test_with_a_locked_image_tower_the_text_learns_to_follow():
    before, after, metrics = pairs.lock(build())
    close(after['encoder'], before['encoder'], 0)
    for name in ('projector', 'text_encoder', 'text_projector', 'similarity'):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after[name], before[name])
        assert min(jax.tree.leaves(moved)) > 1e-4, name
    assert np.isfinite([found['loss'] for found in metrics]).all()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'temperature': 0.0}, r'temperature=0.0: from 1 / max_scale=0.01 to 1'),
        ({'temperature': 2.0}, r'temperature=2.0: from 1 / max_scale=0.01 to 1'),
        ({'max_scale': 1.0}, r'max_scale=1.0: must be above 1'),
        ({'dim': 0}, r'dim=0: at least 1'),
    ],
)
def test_a_wrong_setting_is_a_problem_of_one_line(settings, message):
    with pytest.raises(Problem, match=f'^config.method.{message}$'):
        build(**settings)


def test_without_a_text_encoder_or_texts_it_is_a_problem_of_one_line():
    with pytest.raises(Problem, match=r'^config.method.name=clip needs a text encoder: set '):
        clip(Linear(), None)
    with pytest.raises(Problem) as problem:
        build().init(jax.random.key(0), tiny.batch(2))
    assert str(problem.value).startswith('the method takes an image and its text')
