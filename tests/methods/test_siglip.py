"""The claims of SigLIP: each pair of the batch by itself, with a scale and a bias that are learned."""

import jax
import numpy as np
import pytest

from clr_jax.entry import Problem
from clr_jax.methods.siglip import siglip
from tests.methods import pairs
from tests.methods.tiny import BATCH, Linear, close


def build(**settings):
    return siglip(Linear(), pairs.Words(), **{'dim': pairs.DIM, 'bias': -1.5} | settings)


def equation(params, data):
    """Zhai et al., 2023, algorithm 1, the scale as its logarithm."""
    image, caption = pairs.embeddings(params, data)
    scale, bias = np.exp(params['similarity']['log_scale']), params['similarity']['bias']
    total = 0
    for i, x in enumerate(image):
        for j, y in enumerate(caption):
            sign = 1 if i == j else -1
            total = total + np.log(1 + np.exp(-sign * (scale * (x * y).sum() + bias)))
    return total / len(image)


@pytest.mark.parametrize('devices', [1, 8])
def test_loss_and_every_gradient_are_those_of_the_equation(devices):
    out = pairs.check(build(), equation, devices)
    assert out.grads['similarity'].keys() == {'log_scale', 'bias'}
    np.testing.assert_allclose(out.metrics['scale'], 10, rtol=1e-6)
    np.testing.assert_allclose(out.metrics['bias'], -1.5)


def test_it_begins_as_the_paper_says():
    method = siglip(Linear(), pairs.Words())
    params, _ = method.init(jax.random.key(0), pairs.batch())
    np.testing.assert_allclose(params['similarity']['log_scale'], np.log(10), rtol=1e-6)
    assert params['similarity']['bias'] == -10
    # almost all of the loss is then of the pairs that belong together
    params, state = pairs.start(siglip(Linear(), pairs.Words(), temperature=1.0))
    value = equation(params, pairs.batch())
    assert abs(value - 10) < 1 + BATCH * np.exp(-9)


def test_features_are_of_images_texts_or_both():
    image, caption = pairs.embeddings(pairs.start(build())[0], pairs.batch())
    of_images, of_texts, of_both = pairs.evaluated(build())
    np.testing.assert_allclose(of_images['z'], image, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_texts['text'], caption, rtol=1e-9, atol=1e-12)
    close(of_both, of_images | of_texts)


def test_with_a_locked_image_tower_the_text_learns_to_follow():
    before, after, _ = pairs.lock(build())
    close(after['encoder'], before['encoder'], 0)
    for name in ('projector', 'text_encoder', 'text_projector', 'similarity'):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after[name], before[name])
        assert min(jax.tree.leaves(moved)) > 1e-4, name


def test_a_wrong_setting_or_no_text_encoder_is_a_problem_of_one_line():
    with pytest.raises(Problem, match=r'^config.method.temperature=0.0: must be above 0$'):
        build(temperature=0.0)
    with pytest.raises(Problem, match=r'^config.method.name=siglip needs a text encoder: set '):
        siglip(Linear(), None)
