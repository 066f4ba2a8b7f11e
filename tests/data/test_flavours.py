"""The flavour torch against torchvision and Pillow (golden/make_torch.py); that of TensorFlow is in
test_augment.py."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from clr_jax.config import default, finish
from clr_jax.data import augment, flavours, index, policies, views
from clr_jax.data.augment import Central, View, tensorflow
from clr_jax.data.frames import Frames
from clr_jax.data.recording import Recording
from clr_jax.data.text import Text
from tests.conftest import ROOT, config

GOLDEN = dict(np.load(Path(__file__).parent / 'golden' / 'torch.npz'))
NONE = {'area': (1.0, 1.0), 'flip': 0.0, 'jitter': 0.0, 'grayscale': 0.0, 'blur': 0.0}
OFF = View(**NONE, size=20, flavour='torch')
COLOURS = ('brightness', 'contrast', 'saturation', 'hue')


def changed(view, **parameters):
    """The golden picture by these parameters, in 0..1, before it is rounded."""
    tf = tensorflow()
    parameters = {name: tf.constant(value) for name, value in parameters.items()}
    x = tf.constant(GOLDEN['picture'], tf.float32)
    return augment.changed(view, x, parameters).numpy() / 255


def golden(kind):
    return [name for name in GOLDEN if name.split('/')[0] in kind]


@pytest.mark.parametrize('name', golden(COLOURS))
def test_a_colour_operation_is_that_of_torchvision(name):
    operation, value = name.split('/')
    view = OFF._replace(jitter=1.0, **dict.fromkeys(COLOURS, 0.0) | {operation: 0.5})
    made = changed(view, jitter=True, order=[0], **{operation: np.float32(value)})
    np.testing.assert_allclose(made, GOLDEN[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize('name', golden('jitter'.split()))
def test_a_jitter_is_that_of_torchvision_in_any_order(name):
    factors = {'brightness': 1.6, 'contrast': 1.5, 'saturation': 0.4, 'hue': 0.1}
    factors = {key: np.float32(value) for key, value in factors.items()}
    order = [int(k) for k in name.split('/')[1]]
    made = changed(OFF._replace(jitter=1.0), jitter=True, order=order, **factors)
    np.testing.assert_allclose(made, GOLDEN[name], rtol=0, atol=5e-6)


def test_grayscale_and_solarisation_are_those_of_torchvision():
    grey = changed(OFF._replace(grayscale=1.0), grayscale=True)
    np.testing.assert_allclose(grey, GOLDEN['grayscale'], rtol=0, atol=1e-6)
    inverted = changed(OFF._replace(solarize=1.0), solarize=True)
    np.testing.assert_allclose(inverted, GOLDEN['solarize'], rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', golden(['gaussian']))
def test_a_blur_of_so_many_taps_is_that_of_torchvision(name):
    _, kernel, sigma = name.split('/')
    view = OFF._replace(blur=1.0, kernel=int(kernel))
    made = changed(view, blur=True, sigma=np.float32(sigma))
    np.testing.assert_allclose(made, GOLDEN[name], rtol=0, atol=2e-6)


def filtered(x, sigma, rounded):
    """Three box filters along each axis in NumPy, the border repeated, by the taps of the module."""
    width = flavours.box_radius(sigma)
    reach = int(np.ceil(width))
    taps = np.clip(width + 1 - np.abs(np.arange(-reach, reach + 1)), 0, 1) / (2 * width + 1)
    for axis in (1, 1, 1, 0, 0, 0):
        padded = np.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(3)], 'edge')
        parts = [padded.take(range(k, k + len(x)), axis) for k in range(2 * reach + 1)]
        x = sum(tap * part for tap, part in zip(taps, parts, strict=True))
        x = np.floor(x + 0.5) if rounded else x
    return x


@pytest.mark.parametrize('name', golden(['pillow']))
def test_the_blur_is_that_of_pillow(name):
    """But for the whole levels to which Pillow rounds after each of its six passes."""
    sigma, x = float(name[7:]), GOLDEN['picture'].astype(float)
    np.testing.assert_array_equal(filtered(x, sigma, rounded=True), GOLDEN[name])
    made = changed(OFF._replace(blur=1.0), blur=True, sigma=np.float32(sigma))
    np.testing.assert_allclose(made, filtered(x, sigma, rounded=False) / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_resizing_is_that_of_pillow_to_the_level(interpolation):
    """One level off where a half is rounded, by float32 or by fixed-point numbers."""
    tf = tensorflow()
    view = Central(16, 16 / 18, 'torch', interpolation)
    made = [augment.evaluation(tf.constant(GOLDEN['large']), view).numpy()]
    expected = [GOLDEN[f'central/{interpolation}']]
    for number, box in enumerate(((5, 3, 40, 31), (0, 0, 61, 47), (50, 30, 7, 9))):
        top, left, height, width = box
        part = GOLDEN['large'][top : top + height, left : left + width]
        view = OFF._replace(size=16, interpolation=interpolation)
        made.append(augment.apply(view, tf.constant(part), {}).numpy())
        expected.append(GOLDEN[f'resized/{interpolation}/{number}'])
    difference = np.stack(made).astype(int) - np.stack(expected)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-2


SHAPES = ((375, 500), (100, 180), (20, 300), (300, 21))
AREAS = ((0.08, 1.0), (0.5, 1.0), (0.9, 1.0), (0.9, 1.0))


@pytest.mark.parametrize('number', range(4))
def test_a_crop_is_that_of_torchvision_for_the_same_draws(number):
    view = View(flavour='torch', area=AREAS[number])
    draws = GOLDEN[f'crop/{number}/draws']
    begin, extent = augment.crop_box(view, (*SHAPES[number], 3), draws)
    boxes = np.concatenate([begin[:, :2], extent[:, :2]], 1)
    np.testing.assert_array_equal(boxes, GOLDEN[f'crop/{number}/boxes'])
    assert (begin[:, 2].numpy() == 0).all()
    assert (extent[:, 2].numpy() == -1).all()
    one = augment.crop_box(view, (*SHAPES[number], 3), draws[0])
    np.testing.assert_array_equal(np.stack(one), [begin[0], extent[0]])


# Distributions, by Kolmogorov and Smirnov: a wrong one of 10,000 draws has p far below this.

DRAWS, LEAST = 10_000, 1e-4
KEYS = index.key(5, 0, np.arange(DRAWS))


@pytest.mark.parametrize('flavour', flavours.FLAVOURS)
@pytest.mark.parametrize('additive', [False, True])
def test_every_parameter_is_distributed_as_defined(flavour, additive):
    view = View(flavour=flavour, additive=additive, brightness=0.4, contrast=1.5, solarize=0.2)
    view = view._replace(size=32, rotate=0.6, cutout=8, policy='uda')
    drawn = augment.sample(view, KEYS, 1)
    ranges = {
        'brightness': (-0.4, 0.4) if additive else (0.6, 1.4),
        'contrast': (0.0, 2.5),
        'saturation': (0.2, 1.8),
        'hue': (-0.2, 0.2),
        'sigma': (0.1, 2.0),
    }
    for name, (low, high) in ranges.items():
        assert stats.kstest(drawn[name], stats.uniform(low, high - low).cdf).pvalue > LEAST, name
    for name in ('flip', 'jitter', 'grayscale', 'blur', 'solarize'):
        of = stats.binomtest(int(drawn[name].sum()), DRAWS, getattr(view, name))
        assert of.pvalue > LEAST, name
    place = drawn['order'] @ 10 ** np.arange(4)
    assert stats.chisquare(np.unique(place, return_counts=True)[1]).pvalue > LEAST
    crop = drawn['crop'] / (2**31 if flavour == 'tf' else 1)
    for column in crop.T:
        assert stats.kstest(column, 'uniform').pvalue > LEAST
    quarters = np.bincount(drawn['rotate'], minlength=4)
    assert stats.chisquare(quarters, DRAWS * np.array([0.4, 0.2, 0.2, 0.2])).pvalue > LEAST
    for pixels in (*drawn['cutout'].T, *drawn['centre'].reshape(DRAWS, -1).T):
        assert stats.chisquare(np.bincount(pixels, minlength=32)).pvalue > LEAST
    table = augment.policy(view)
    names = [name for choice in table.choices for name, *_ in choice]
    share = np.array([names.count(name) for name in policies.used(table)]) / len(names)
    for slot in drawn['policy'].T:
        assert stats.chisquare(np.bincount(slot)[1:], DRAWS * share).pvalue > LEAST
    tested = {*ranges, 'flip', 'jitter', 'grayscale', 'blur', 'solarize', 'order', 'crop'}
    tested |= {'rotate', 'cutout', 'centre', 'policy'}
    assert drawn.keys() == tested | {'applied', 'argument'}  # test_policies.py has these two


@pytest.mark.parametrize('view', [Recording(), Frames(), Text(part=-1)])
def test_places_in_what_is_no_image_are_uniform(view):
    for values in views.of(view).sample(view, KEYS, 1).values():
        for column in values.reshape(DRAWS, -1).T:
            assert stats.kstest(column, 'uniform').pvalue > LEAST


def test_crops_of_torchvision_are_distributed_as_defined():
    """Where every try fits: area uniform, aspect log-uniform, place uniform, all independent."""
    view = View(flavour='torch', area=(0.1, 0.4), ratio=(0.5, 2.0))
    draws = augment.sample(view, KEYS, 0)['crop']
    side = 10_000
    begin, extent = (x.numpy()[:, :2] for x in augment.crop_box(view, (side, side, 3), draws))
    area, aspect = extent.prod(1) / side**2, np.log2(extent[:, 1] / extent[:, 0])
    place = begin / (side - extent)
    for values, (low, high) in (
        (area, (0.1, 0.4)),
        (aspect, (-1, 1)),
        *((column, (0, 1)) for column in place.T),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST
    found = np.abs(np.corrcoef([area, aspect, *place.T]) - np.eye(4))
    assert found.max() < 4.5 / np.sqrt(DRAWS)


# What names a flavour.


def test_published_configs_name_their_flavour():
    """And have its interpolation; those of this library's own recipes are as they were."""
    for path in sorted((ROOT / 'configs').glob('*.py')):
        for view in config(path.stem).views.to_dict().values():
            if view.get('name', 'image') != 'image':
                continue
            published = 'imagenet' in path.stem or path.stem in PUBLISHED
            assert ("'flavour'" in path.read_text()) == published, path.stem
            if view['flavour'] == 'torch':
                augment.check(View(**view))


PUBLISHED = {
    *('debiased_cifar10', 'hard_negative_cifar10', 'debiased_stl10', 'hard_negative_stl10'),
    *('instdisc_cifar10', 'invaspread_cifar10', 'mocov2_cifar10', 'simsiam_cifar10'),
    *('supcon_cifar10', 'simclr_cifar10', 'uda_cifar10', 'clip_laion'),
}
PUBLISHED |= {path.stem for path in (ROOT / 'configs').glob('simclr_*_cifar10.py')}


def test_a_small_picture_is_blurred_less():
    of = default()
    of.views.view = {'size': 224, 'flavour': 'torch'}
    assert finish(of, 'smoke').views.view.sigma == pytest.approx((0.1 * 16 / 224, 2 * 16 / 224))
