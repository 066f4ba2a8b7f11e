"""Each augmentation against NumPy and colorsys in float64, and the distribution of its parameters."""

import colorsys
import os
import subprocess
import sys

import numpy as np
import pytest

from clr_jax.data import augment, index
from clr_jax.data.augment import Central, View, tensorflow
from clr_jax.entry import CONFIG, Problem

OFF = View(area=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)  # resizes only
COLOURS = ('brightness', 'contrast', 'saturation', 'hue')


def picture(height=24, width=24, seed=0):
    """Noise of all brightnesses, and some greys, for which hue and saturation are special."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    pixels[:2] = pixels[:2, :, :1]
    return pixels.astype(np.uint8)


def apply(view, image, **parameters):
    tf = tensorflow()
    parameters = {name: tf.constant(value) for name, value in parameters.items()}
    result = augment.apply(view, tf.constant(image), parameters).numpy()
    assert result.shape == (view.size, view.size, 3)
    assert result.dtype == np.uint8
    return result


def assert_rounded(actual, expected):
    """`actual` is `expected` rounded; float32 decides the halves."""
    assert np.abs(actual - np.clip(expected, 0, 255)).max() < 0.5 + 2e-3


def through_hsv(x, change):
    """colorsys on each pixel of x in [0, 255]."""
    flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in x.reshape(-1, 3) / 255]
    return np.array(flat).reshape(x.shape) * 255


REFERENCE = {
    'brightness': lambda x, f: x * f,
    'contrast': lambda x, f: (x - x.mean((0, 1))) * f + x.mean((0, 1)),
    'saturation': lambda x, f: through_hsv(x, lambda h, s, v: (h, min(s * f, 1), v)),
    'hue': lambda x, d: through_hsv(x, lambda h, s, v: ((h + d) % 1, s, v)),
}


def blurred(x, sigma, radius):
    """Taps one by one on the image with a black border."""
    size = len(x)
    taps = [np.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    result = x
    for axis in (0, 1):
        padded = np.pad(result, [(radius, radius) if a == axis else (0, 0) for a in range(3)])
        cut = [padded.take(range(k, k + size), axis) for k in range(2 * radius + 1)]
        result = sum(tap * part for tap, part in zip(taps, cut, strict=True)) / sum(taps)
    return result


@pytest.mark.parametrize(
    ('name', 'value'),
    [('brightness', 0.3), ('brightness', 1.7), ('contrast', 0.2), ('contrast', 1.8)]
    + [('saturation', 0.0), ('saturation', 1.8), ('hue', -0.2), ('hue', 0.45)],
)
def test_a_colour_operation(name, value):
    view = OFF._replace(size=24, jitter=1.0, **dict.fromkeys(COLOURS, 0.0) | {name: 0.5})
    x = picture()
    actual = apply(view, x, jitter=True, order=[0], **{name: np.float32(value)})
    assert_rounded(actual, REFERENCE[name](x.astype(float), value))
    np.testing.assert_array_equal(apply(view, x, jitter=False, order=[0], **{name: 0.3}), x)


@pytest.mark.parametrize('order', [[0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]])
def test_jitter_applies_all_in_the_given_order_and_clips_after_each(order):
    view = OFF._replace(size=24, jitter=1.0)
    factors = {'brightness': 1.6, 'contrast': 1.5, 'saturation': 0.4, 'hue': 0.1}
    expected = picture().astype(float)
    for k in order:
        name = COLOURS[k]
        expected = np.clip(REFERENCE[name](expected, factors[name]), 0, 255)
    parameters = {name: np.float32(value) for name, value in factors.items()}
    actual = apply(view, picture(), jitter=True, order=order, **parameters)
    assert_rounded(actual, expected)
    assert np.abs(expected - picture()).max() > 50


def test_grayscale_is_luma_in_three_channels():
    view, x = OFF._replace(size=24, grayscale=0.2), picture()
    luma = x @ [0.2989, 0.587, 0.114]
    assert_rounded(apply(view, x, grayscale=True), np.stack([luma] * 3, axis=2))
    np.testing.assert_array_equal(apply(view, x, grayscale=False), x)


def test_flip_mirrors_left_and_right():
    view, x = OFF._replace(size=24, flip=0.5), picture()
    np.testing.assert_array_equal(apply(view, x, flip=True), x[:, ::-1])
    np.testing.assert_array_equal(apply(view, x, flip=False), x)


@pytest.mark.parametrize(('size', 'radius'), [(24, 1), (40, 2), (96, 4), (224, 11)])
def test_blur_is_a_tenth_of_the_side_wide_with_a_black_border(size, radius):
    view, x = OFF._replace(size=size, blur=0.5), picture(size, size)
    assert augment.radius(view) == radius
    for sigma in (0.1, 0.7, 2.0):
        actual = apply(view, x, blur=True, sigma=np.float32(sigma))
        assert_rounded(actual, blurred(x.astype(float), sigma, radius))
    np.testing.assert_array_equal(apply(view, x, blur=False, sigma=1.0), x)
    assert augment.radius(view._replace(size=19)) == 0


def test_crop_takes_the_box_of_its_seed_and_resizes_it():
    tf = tensorflow()
    view, x = OFF._replace(size=20, area=(0.08, 1.0)), picture(50, 70)
    for seed in ([1, 2], [3, 4]):
        (top, left, _), (height, width, _) = augment.crop_box(view, [50, 70, 3], seed)
        box = x[top : top + height, left : left + width]
        expected = tf.image.resize(box, [20, 20], 'bicubic').numpy()
        assert_rounded(apply(view, x, crop=np.int32(seed)), expected)


def test_boxes_have_the_share_and_shape_asked_for():
    view = View(area=(0.2, 0.6), ratio=(0.5, 2.0), min_object_covered=0.0)
    boxes = [augment.crop_box(view, [100, 150, 3], [s, 0]) for s in range(300)]
    begin = np.array([b.numpy()[:2] for b, _ in boxes])
    extent = np.array([e.numpy()[:2] for _, e in boxes])
    share, ratio = extent.prod(1) / 15000, extent[:, 1] / extent[:, 0]
    assert (begin >= 0).all()
    assert (begin + extent <= [100, 150]).all()
    assert 0.19 < share.min() < 0.25  # whole pixels
    assert 0.55 < share.max() < 0.61
    assert 0.48 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.05
    assert len(np.unique(begin, axis=0)) > 200
    view = View(area=(0.01, 1.0), min_object_covered=0.5)
    extents = [augment.crop_box(view, [100, 150, 3], [s, 0])[1].numpy()[:2] for s in range(50)]
    assert min(np.prod(extents, axis=1)) > 0.49 * 15000


def test_the_box_of_a_seed_is_always_the_same():
    box = augment.crop_box(View(), [375, 500, 3], [12345, 67890])
    assert [b.numpy().tolist() for b in box] == [[50, 8, 0], [315, 270, -1]]
    whole = augment.crop_box(View(), [1, 1, 3], [1, 1])
    assert [b.numpy().tolist() for b in whole] == [[0, 0, 0], [1, 1, -1]]


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'area', 'nearest'])
def test_resize_and_its_overshoot(interpolation):
    tf = tensorflow()
    x = (np.indices((30, 40)).sum(0) // 5 % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    view = OFF._replace(size=24, interpolation=interpolation)
    exact = tf.cast(tf.image.resize(x, [24, 24], interpolation), tf.float32).numpy()
    assert_rounded(apply(view, x), exact)
    assert (interpolation == 'bicubic') == (exact.max() > 256)


def test_solarize_inverts_the_brighter_half():
    x = picture()
    view = OFF._replace(size=24, solarize=0.5)
    np.testing.assert_array_equal(apply(view, x, solarize=True), np.where(x < 128, x, 255 - x))
    np.testing.assert_array_equal(apply(view, x, solarize=False), x)


@pytest.mark.parametrize('quarters', [0, 1, 2, 3])
def test_rotate_turns_by_quarters(quarters):
    x, view = picture(), OFF._replace(size=24, rotate=0.5)
    np.testing.assert_array_equal(apply(view, x, rotate=quarters), np.rot90(x, quarters))


def test_what_is_off_is_not_in_the_graph():
    tf = tensorflow()

    def operations(view):
        like = augment.sample(view, index.key(0, 0, np.arange(2)), 0)
        form = {k: tf.TensorSpec(v.shape[1:], v.dtype) for k, v in like.items()}
        function = tf.function(lambda x, p: augment.apply(view, x, p), autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec((None, None, 3), tf.uint8), form).graph
        return {op.type for op in graph.get_operations()}, set(like)

    on, drawn = operations(View(rotate=0.5, solarize=0.5, policy='uda', cutout=8))
    assert {'StatelessIf', 'StatelessSampleDistortedBoundingBox'} <= on
    assert drawn == set(augment.DRAWS) - {'count'}  # of schedules of a policy alone
    off, drawn = operations(OFF)
    assert not {'If', 'StatelessIf', 'StatelessSampleDistortedBoundingBox', 'Case'} & off
    assert drawn == set()


def test_parameters_follow_the_settings_of_the_view():
    n = 20_000
    keys = index.key(0, 0, np.arange(n))
    p = augment.sample(View(brightness=1.5, solarize=0.3, rotate=0.6), keys, 0)
    for turn, share in enumerate((0.4, 0.2, 0.2, 0.2)):
        assert abs((p['rotate'] == turn).mean() - share) < 4 * np.sqrt(share * (1 - share) / n)
    shares = {'flip': 0.5, 'jitter': 0.8, 'grayscale': 0.2, 'blur': 0.5, 'solarize': 0.3}
    for name, share in shares.items():
        assert abs(p[name].mean() - share) < 4 * np.sqrt(share * (1 - share) / n)
    bounds = {'brightness': (0, 2.5), 'contrast': (0.2, 1.8), 'saturation': (0.2, 1.8)}
    for name, (low, high) in (bounds | {'hue': (-0.2, 0.2), 'sigma': (0.1, 2.0)}).items():
        u = (p[name] - low) / (high - low)
        assert (u.min() > -1e-6) & (u.max() < 1 + 1e-6)
        assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * n)
        assert abs(u.var() - 1 / 12) < 4e-3
    orders, counts = np.unique(p['order'], axis=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - n / 24) ** 2 / (n / 24)).sum() < 60  # chi square, 23 degrees: p = 4e-5
    assert p['crop'].dtype == np.int32
    assert (p['crop'] >= 0).all()


def test_views_differ_but_in_the_draws_they_share():
    keys = index.key(0, 0, np.arange(100))
    shared = ('crop', 'hue', 'order')
    view = View(shared=shared)
    one, two = (augment.sample(view, keys, number) for number in (0, 1))
    for name in one:
        assert np.array_equal(one[name], two[name]) == (name in shared)
    other = augment.sample(view._replace(hue=0.1), keys, 2)  # another group: half as far
    np.testing.assert_allclose(other['hue'], one['hue'] / 2, rtol=1e-5)


def test_to_leave_out_an_operation_changes_no_other():
    keys = index.key(0, 0, np.arange(50))
    whole, less = (augment.sample(v, keys, 1) for v in (View(), View(flip=0.0, grayscale=0.0)))
    assert set(whole) - set(less) == {'flip', 'grayscale'}
    for name in less:
        np.testing.assert_array_equal(less[name], whole[name])


def test_golden_parameters():
    """A change here is a change of every run that anyone has seeded."""
    p = augment.sample(View(), index.key(0, 0, np.arange(1)), 1)
    assert p['crop'].tolist() == [[197403521, 1055339063]]
    assert p['order'].tolist() == [[1, 0, 3, 2]]
    assert [bool(p[k][0]) for k in ('flip', 'jitter', 'grayscale', 'blur')] == [False] * 3 + [True]
    factors = [p[k][0] for k in (*COLOURS, 'sigma')]
    expected = [0.77577788, 1.25196636, 0.30910903, -0.10162208, 0.55803806]
    np.testing.assert_allclose(factors, expected, rtol=1e-7)


def test_evaluation_is_the_central_square():
    tf = tensorflow()
    x = picture(32, 32)
    np.testing.assert_array_equal(augment.evaluation(tf.constant(x), Central(32, 1.0)), x)
    x = picture(40, 57)
    np.testing.assert_array_equal(augment.evaluation(tf.constant(x), Central(40, 1.0)), x[:, 9:49])
    np.testing.assert_array_equal(augment.evaluation(tf.constant(x), Central(35)), x[3:38, 11:46])
    expected = tf.image.resize(x[3:38, 11:46], [16, 16], 'bicubic')
    assert_rounded(augment.evaluation(tf.constant(x), Central(16)).numpy(), expected.numpy())


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'flip': 1.5}, 'flip=1.5'),
        ({'area': (0.0, 1.0)}, 'area'),
        ({'area': (0.5, 1.5)}, 'area'),
        ({'sigma': (2.0, 0.1)}, 'sigma'),
        ({'hue': 0.6}, 'hue=0.6'),
        ({'size': 0}, 'size=0'),
        ({'interpolation': 'bicubik'}, 'did you mean "bicubic"'),
        ({'shared': ('croop',)}, 'did you mean "crop"'),
        ({'flavour': 'torsh'}, 'did you mean "torch"'),
        ({'flavour': 'torch', 'interpolation': 'area'}, '"area"'),
        ({'kernel': 4}, 'kernel=4'),
    ],
)
def test_a_wrong_setting_is_named(wrong, message):
    with pytest.raises(Problem, match=message) as problem:
        augment.check(View(**wrong))
    assert problem.value.code == CONFIG
    assert augment.check(View()) == View()


def test_tensorflow_comes_late_and_quietly_and_lets_the_program_end():
    program = """
import sys
from clr_jax.data import pipeline, sources
from clr_jax.data.augment import View
assert 'tensorflow' not in sys.modules and 'tensorflow_datasets' not in sys.modules
source = sources.digits('train')
next(pipeline.train_batches(source, [View(size=64)], seed=0, batch_size=512))
print('end')  # while the next batches are being made
"""
    run = [sys.executable, '-c', program]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, 'end\n', '')
