"""The claims of MAE: the loss is that of the masked patches alone, whose targets are normalised; the
encoder sees no other patches than the visible; cheaper damages are of the same decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.encoders.vit import vit
from clr_jax.entry import CONFIG, Problem
from clr_jax.methods.mae import mae
from clr_jax.patches import DAMAGES, Autoencoder, Decoder, to_image, to_patches
from tests.methods.tiny import BATCH, outcome, start, train

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PATCHES, HIDDEN = 4, 2  # 4 x 4 pixels, patches of 2, of which half are taken


def encoder(pool='token'):
    settings = {'width': 8, 'depth': 2, 'heads': 2, 'patch': 2, 'positions': 'sincos'}
    return vit(**settings, pool=pool, mean=MEAN, std=STD)


def build(pool='token', **settings):
    shape = {'ratio': 0.5, 'decoder_width': 8, 'decoder_depth': 1, 'decoder_heads': 2}
    return mae(encoder(pool), **shape | settings)


def batch(seed=0) -> dict:
    number = np.arange(BATCH, dtype=np.int32)
    images = np.random.default_rng(seed).random((BATCH, 4, 4, 3))
    return {'views': (images,), 'label': number % 4, 'index': number}


def patches(x):
    """[n, 4, 4, 3] -> [n, 4, 12], by loops."""
    at = [(0, 0), (0, 2), (2, 0), (2, 2)]
    return np.stack([x[:, i : i + 2, j : j + 2].reshape(len(x), -1) for i, j in at], 1)


def keys():
    """Each example's, in `tiny.outcome`'s first step."""
    step = jax.random.fold_in(jax.random.key(0), 0)
    return [jax.random.fold_in(step, row) for row in range(BATCH)]


def orders():
    """[B, patches] of which the last are damaged."""
    return np.array([jax.random.permutation(key, PATCHES) for key in keys()])


def decoded(params, x, visible, token=True):
    """What the network says of images that are damaged already: its parts, one after the other."""
    tokens = encoder().apply({'params': params['encoder']}, x, None, visible, method='tokens')
    decoder = Decoder(8, 1, 2, 2, token, None)
    return decoder.apply({'params': params['decoder']}, tokens, (2, 2), visible)


def targets(x, normalized=True):
    wanted = patches((x - MEAN) / STD)
    if normalized:
        wanted -= wanted.mean(-1, keepdims=True)
        wanted /= np.sqrt(wanted.var(-1, ddof=1, keepdims=True) + 1e-6)
    return wanted


@pytest.mark.parametrize('normalized', [True, False])
def test_the_loss_is_the_error_of_the_masked_patches_alone(float64, normalized):
    method = build(normalized=normalized)
    params, state = start(method, 1)
    out = outcome(method, params, state, batch(), 8)
    visible = orders()[:, : PATCHES - HIDDEN]
    assert len({tuple(sorted(row)) for row in visible.tolist()}) > 2  # each image has its own
    clean = batch()['views'][0]
    pixels, wanted = decoded(params, clean, visible), targets(clean, normalized)
    errors = [
        ((pixels[n, i] - wanted[n, i]) ** 2).mean()
        for n in range(BATCH)
        for i in range(PATCHES)
        if i not in visible[n]
    ]
    assert len(errors) == BATCH * HIDDEN
    np.testing.assert_allclose(out.loss, np.mean(errors), rtol=1e-10)


def test_what_is_masked_says_nothing(float64):
    """Neither the features nor what is found change with the pixels that the mask hides."""
    network = Autoencoder(encoder(), Decoder(8, 1, 2, 2, True, None))
    visible = jnp.array([[3, 0]] * 2)
    x = np.random.default_rng(0).random((1, 4, 4, 3))
    other = x.copy()
    other[:, :2, 2:], other[:, 2:, :2] = 0.3, 0.9  # patches 1 and 2
    both = jnp.asarray(np.concatenate([x, other]))
    params, stats = networks.init(network, jax.random.key(0), both, visible=visible)
    h, found = networks.evaluate(network, params, stats, both, visible=visible)
    np.testing.assert_array_equal(h[0], h[1])
    np.testing.assert_array_equal(found[0], found[1])
    h, _ = networks.evaluate(network, params, stats, both, visible=visible.at[:, 1].set(1))
    assert np.abs(h[0] - h[1]).max() > 1e-3


def test_visible_patches_keep_their_places(float64):
    """In whichever order they come, and the decoder puts each where it belongs."""
    network = Autoencoder(encoder(), Decoder(8, 1, 2, 2, True, None))
    x = jnp.asarray(np.random.default_rng(0).random((1, 4, 4, 3)))
    of = lambda *visible: networks.evaluate(network, params, stats, x, visible=jnp.array([visible]))
    params, stats = networks.init(network, jax.random.key(0), x, visible=jnp.array([[0, 1, 2]]))
    (h, found), (same, again), (less, other) = of(0, 1, 3), of(3, 0, 1), of(0, 1, 2)
    np.testing.assert_allclose(h, same, atol=1e-12)
    np.testing.assert_allclose(found, again, atol=1e-12)
    assert np.abs(h - less).max() > 1e-4
    assert np.abs(found - other).max() > 1e-4


@pytest.mark.parametrize('damage', DAMAGES)
def test_the_damage_belongs_to_the_example_and_not_to_the_device(float64, damage):
    method = build(damage=damage)
    params, state = start(method, 1)
    one, eight = (outcome(method, params, state, batch(), devices) for devices in (1, 8))
    np.testing.assert_allclose(one.loss, eight.loss, rtol=1e-12)
    np.testing.assert_allclose(one.h, eight.h, rtol=0, atol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11), one.grads, eight.grads
    )
    later = outcome(method, params, state, batch(), 1, step=1)
    if damage != 'grayscale':
        assert abs(later.loss - one.loss) > 1e-6


def shuffled(x):
    """Damaged patches move on by one, in the order in which they were drawn."""
    x = patches(x)
    result = x.copy()
    for n, order in enumerate(orders()):
        taken = order[PATCHES - HIDDEN :]
        result[n, taken] = x[n, np.roll(taken, 1)]
    assert ((result != x).any(-1).sum(1) == HIDDEN).all()
    return np.asarray(to_image(result, (BATCH, 4, 4, 3)))


def noisy(x):
    return x + 0.25 * np.array([jax.random.normal(key, (4, 4, 3), float) for key in keys()])


def gray(x):
    return np.stack([x @ np.array([0.2989, 0.587, 0.114])] * 3, -1)


@pytest.mark.parametrize(
    ('damage', 'spoil'), [('shuffle', shuffled), ('grayscale', gray), ('noise', noisy)]
)
def test_of_a_cheaper_damage_the_encoder_sees_every_patch(float64, damage, spoil):
    """The loss is that of the patches that are not as they were."""
    method = build(damage=damage, noise=0.25)
    params, state = start(method, 1)
    assert 'mask_token' not in params['decoder']
    clean = batch()['views'][0]
    error = np.square(decoded(params, spoil(clean), None) - targets(clean)).mean(-1)  # [B, n]
    if damage == 'shuffle':
        error = np.take_along_axis(error, orders()[:, PATCHES - HIDDEN :], 1)
    out = outcome(method, params, state, batch(), 8)
    np.testing.assert_allclose(out.loss, error.mean(), rtol=1e-10)


@pytest.mark.parametrize('pool', ['token', 'average'])
def test_features_are_the_encoders_of_the_whole_image(float64, pool):
    method = build(pool)
    params, state = start(method, 1)
    h = method.features(params, state, batch())['h']
    alone = encoder(pool).apply({'params': params['encoder']}, batch()['views'][0], None)
    np.testing.assert_allclose(h, alone, atol=1e-12)


def test_it_learns_to_fill_in_what_is_missing():
    """Of images of one colour each, hidden patches follow from the others."""
    method = build(normalized=False, decoder_depth=2)
    colours = np.random.default_rng(1).random((BATCH, 1, 1, 3)) * np.ones((BATCH, 4, 4, 3))
    data = batch() | {'views': (colours,)}
    steps = train(method, *start(method, 1), [data] * 150, rate=0.1, devices=1)
    losses = [out.loss for *_, out in steps]
    assert np.mean(losses[-10:]) < 0.2 * losses[0]


def test_pictures_are_the_image_what_is_left_what_is_found_and_both(float64):
    params, state = start(build(), 1)
    found = build().pictures(params, state, batch(), key=jax.random.key(0))['reconstruction']
    found = np.asarray(found)
    assert found.shape == (BATCH, 4, 4, 4, 3)
    image, left, decoded, both = np.moveaxis(found, 1, 0)
    np.testing.assert_allclose(image, batch()['views'][0], atol=1e-12)
    gray = (np.abs(patches(left) - 0.5) < 1e-12).all(-1)  # [B, patches]
    np.testing.assert_array_equal(gray.sum(1), HIDDEN)
    np.testing.assert_allclose(patches(left)[~gray], patches(image)[~gray], atol=1e-12)
    np.testing.assert_allclose(patches(both)[~gray], patches(image)[~gray], atol=1e-12)
    np.testing.assert_allclose(patches(both)[gray], patches(decoded)[gray], atol=1e-12)
    # with the true mean and deviation of a patch, what is found has them (but for clipping)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_patches_are_cut_row_by_row_and_put_together_again():
    x = np.random.default_rng(0).random((3, 4, 4, 3))
    np.testing.assert_array_equal(to_patches(x, 2), patches(x))
    np.testing.assert_array_equal(to_image(to_patches(x, 2), x.shape), x)


def test_settings_that_mean_nothing_are_refused():
    def refused(f):
        with pytest.raises(Problem) as raised:
            f()
        assert raised.value.code == CONFIG
        return str(raised.value)

    assert 'config.encoder.name=vit' in refused(lambda: mae(object()))
    assert 'config.method.damage' in refused(lambda: build(damage='blur'))
    assert 'config.method.ratio=1' in refused(lambda: build(ratio=1.0))
    assert 'leaves 0 of the 4 patches' in refused(lambda: start(build(ratio=0.9), 1))
    assert 'decoder_heads=3' in refused(lambda: build(decoder_heads=3))
