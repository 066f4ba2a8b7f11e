"""Views made on devices against those of the host, which have oracles of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import parallel, train
from clr_jax.config import finish
from clr_jax.data import augment, device_augment, index, pipeline, sources, text, tokens
from clr_jax.data.augment import View, tensorflow
from clr_jax.entry import CONFIG, Problem
from clr_jax.method import Method, make_time
from tests.conftest import config

ROWS = 16
KEYS = index.key(4, 0, np.arange(ROWS))
NO_CROP = View(area=(1.0, 1.0), size=24, grayscale=0.3, solarize=0.3)
VARIANTS = {
    'tf': NO_CROP,
    'torch': NO_CROP._replace(flavour='torch', rotate=0.6, cutout=9),
    'taps': NO_CROP._replace(flavour='torch', kernel=9, hue=0.0),
    'additive': NO_CROP._replace(additive=True, contrast=0.0, brightness=0.4),
}


def pictures(*shape):
    """Patches of colour, noise and greys."""
    rng = np.random.default_rng(1)
    n, height, width = shape
    coarse = rng.integers(0, 256, (n, height // 4 + 1, width // 4 + 1, 3))
    x = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width] + rng.integers(-40, 41, (*shape, 3))
    x[:, :3] = x[:, :3, :, :1]
    return x.clip(0, 255).astype(np.uint8)


def row(parameters, k):
    return {name: tensorflow().constant(x[k]) for name, x in parameters.items()}


def planes(x):
    return tuple(jnp.asarray(x[..., k], jnp.float32) / 255 for k in range(3))


@pytest.mark.parametrize('name', VARIANTS)
def test_a_view_is_that_of_the_host_before_it_is_rounded(name):
    view, x = VARIANTS[name], pictures(ROWS, 24, 24)
    drawn = augment.sample(view, KEYS, 0)
    host, packed = device_augment.split(view, drawn)
    assert host == {}
    apply = jax.jit(lambda x, p: device_augment.apply(view, x, device_augment.unpacked(view, p)))
    made = np.asarray(apply(planes(x), packed))
    change = tensorflow().function(lambda x, p: augment.changed(view, x, p), autograph=False)
    for k in range(ROWS):
        expected = change(tensorflow().constant(x[k], 'float32'), row(drawn, k)).numpy() / 255
        np.testing.assert_allclose(made[k], expected, rtol=0, atol=1e-6, err_msg=str(k))


CROPS = {
    'bilinear': View(size=20, interpolation='bilinear'),
    'bicubic': View(size=20),
    'antialiased bilinear': View(size=20, flavour='torch', interpolation='bilinear'),
    'antialiased bicubic': View(size=20, flavour='torch'),
    'whole': View(size=20, flavour='torch', area=(1.0, 1.0)),
}


@pytest.mark.parametrize('name', CROPS)
def test_a_crop_is_that_of_the_host_to_one_level(name):
    tf, view = tensorflow(), CROPS[name]
    drawn = augment.sample(view, KEYS, 0)
    canvases, boxes, expected = [], [], []
    for k, (height, width) in enumerate([(47, 61), (64, 64), (9, 30), (64, 20)] * (ROWS // 4)):
        image = tf.constant(pictures(ROWS, height, width)[k])
        canvases.append(augment.canvas(image, 64))
        boxes.append(augment.placed(view, image, row(drawn, k), 64))
        expected.append(augment.cropped(view, image, row(drawn, k)) / 255)
    made = jax.jit(lambda x, box: device_augment.cropped(view, x, box))(
        *map(np.stack, (canvases, boxes))
    )
    difference = np.abs(np.stack(made, -1) - np.stack(expected)) * 255
    assert difference.max() < 1 + 1e-3
    assert difference.mean() < 0.02


def test_a_larger_image_is_shrunk_to_the_canvas_and_not_cut_off():
    tf, view = tensorflow(), View(size=16, flavour='torch', area=(0.3, 1.0))
    grid = np.indices((150, 220)).transpose(1, 2, 0)  # two slopes
    image = tf.constant(np.concatenate([grid, 0 * grid[..., :1]], 2).astype(np.uint8))
    drawn = augment.sample(view, KEYS, 0)
    shown = augment.canvas(image, 64)
    assert not shown[44:].numpy().any()  # 150 * 64 / 220 = 43.6
    boxes = np.stack([augment.placed(view, image, row(drawn, k), 64) for k in range(ROWS)])
    assert (boxes[:, :2] + boxes[:, 2:] <= [44, 64]).all()
    made = device_augment.cropped(view, np.stack([shown] * ROWS), boxes)
    expected = [augment.cropped(view, image, row(drawn, k)) for k in range(ROWS)]
    difference = np.stack(made, -1) * 255 - np.stack(expected)
    assert np.abs(difference).max() < 3
    assert np.abs(difference).mean() < 0.7


# Batches.

PLAIN = View(size=16, flavour='torch', interpolation='bilinear')
GROUPS = [PLAIN, View(copies=1, size=8, area=(1.0, 1.0), hue=0.0), text.Text(length=8)]


@pytest.fixture(scope='module')
def captioned():
    source = sources.load({'name': 'captioned_digits'}, 'train')
    return source._replace(tokenizer=tokens.train(source.texts(), 100))


def batch(source, groups, **place):
    return next(pipeline.train_batches(source, groups, seed=2, batch_size=16, start=3, **place))


def test_a_batch_for_devices_becomes_that_of_the_host(captioned):
    host, sent = batch(captioned, GROUPS), batch(captioned, GROUPS, canvas=0)
    assert [x.shape for x in sent['views'][:3]] == [(16, 16, 16, 3)] * 2 + [(16, 8, 8, 3)]
    assert sent['drawn'][3] is None
    make = jax.jit(lambda batch: device_augment.made(batch, GROUPS)).lower(sent).compile()
    # XLA for CPUs can fuse a chain into what comes after it, and compute it again for every pixel
    assert make.cost_analysis()['flops'] < 5000 * sum(x.size for x in sent['views'][:3])
    made = make(sent)
    assert made.keys() == host.keys()
    for view, expected in zip(made['views'][:3], host['views'][:3], strict=True):
        assert (view.dtype, view.shape) == (np.float32, expected.shape)
        assert np.abs(255 * np.asarray(view) - expected).max() < 0.5 + 1e-3
    for name in ('label', 'index'):
        np.testing.assert_array_equal(made[name], host[name])
    np.testing.assert_array_equal(made['views'][3], host['views'][3])


def test_the_host_makes_a_policy_and_what_precedes_it():
    view = View(policy='uda', cutout=8, rotate=0.5, jitter=0.5, blur=0.0)
    drawn = augment.sample(view, KEYS, 0)
    host, packed = device_augment.split(view, drawn)
    assert list(host) == [
        'crop',
        'rotate',
        'flip',
        'policy',
        'applied',
        'argument',
        'centre',
        'cutout',
    ]
    rest = device_augment.unpacked(view, packed)
    assert host.keys() | rest.keys() == drawn.keys()
    for name, value in rest.items():
        assert value.dtype == drawn[name].dtype
        np.testing.assert_array_equal(value, drawn[name])


def test_a_batch_of_canvases_is_the_same_on_any_number_of_devices(captioned):
    groups = [PLAIN._replace(jitter=0.0, blur=0.0), text.Text(length=8)]
    host, sent = batch(captioned, groups), batch(captioned, groups, canvas=12)
    assert sent['canvas'].shape == (16, 12, 12, 3)  # of 8 x 8 digits
    assert sent['views'][0].shape == (16, 4)
    half = batch(captioned, groups, canvas=12, rows=(8, 16))
    jax.tree.map(lambda x, whole: np.testing.assert_array_equal(x, whole[8:]), half, sent)
    found = []
    for devices in (1, 8):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        data = P(parallel.DATA)
        make = parallel.shard(lambda batch: device_augment.made(batch, groups), mesh, data, data)
        found.append(jax.device_get(jax.jit(make)(parallel.spread(sent, mesh)))['views'])
    for k in (0, 1):
        np.testing.assert_allclose(found[1][k], found[0][k], rtol=0, atol=1e-6)
        difference = np.abs(255 * found[0][k] - host['views'][k])
        assert difference.mean() < 0.3  # a level of the crop may have changed
        assert (difference > 0.5 + 1e-3).mean() < 0.02


def test_the_method_sees_finished_views_also_of_unlabelled_examples(captioned):
    def loss(params, state, batch, *, key, time):
        return batch, key

    groups = [PLAIN._replace(jitter=0.0, blur=0.0)]
    others = [groups[0]._replace(copies=1)]
    sent, second = batch(captioned, groups, canvas=0), batch(captioned, others, canvas=0)
    method = device_augment.augmented(Method(None, loss, None), groups, others)
    seen, key = method.loss(0, 0, sent | {'unlabelled': second}, key=5, time=0)
    assert key == 5
    assert 'drawn' not in seen
    views = (*seen['views'], *seen['unlabelled']['views'])
    assert [x.shape for x in views] == [(16, 16, 16, 3)] * 3
    np.testing.assert_array_equal(views[2], views[0])  # the same draws of the same examples


def test_a_run_has_the_same_loss_wherever_its_views_are_made():
    of = config('simclr_digits', 'smoke')
    of.batch_size, of.encoder = 16, {'name': 'convnet', 'widths': (4, 8)}
    of = finish(of).to_dict()
    source, mesh, losses = sources.digits('train'), parallel.make_mesh(), []
    for place in ({'device': False, 'canvas': 0}, {'device': True, 'canvas': 12}):
        run = train.describe(of | {'augment': place}, source.size, 10)
        batch = next(train.batches(run, of | {'augment': place}, mesh, source, source))
        assert ('canvas' in batch) == place['device']

        @jax.jit
        def loss(batch):
            key, blank = jax.random.key(0), train.blank_batch(run, 2)
            params, state = run.method.init(key, blank)
            time = make_time(jnp.int32(0), 1, 1)
            return run.method.loss(params, state, batch, key=key, time=time)[0]

        losses.append(float(loss(batch)))
    assert losses[1] == pytest.approx(losses[0], abs=5e-3)


@pytest.mark.parametrize(
    ('device', 'canvas', 'view', 'said'),
    [
        (False, 64, View(), 'device=True'),
        (True, -1, View(), 'canvas=-1'),
        (True, 64, View(policy='uda'), 'without a policy'),
        (True, 64, View(interpolation='area'), 'bilinear or bicubic'),
        (True, 0, text.Text(), 'no images'),
    ],
)
def test_what_devices_cannot_do_is_refused(device, canvas, view, said):
    with pytest.raises(Problem, match=said) as raised:
        device_augment.check(device, canvas, [view])
    assert raised.value.code == CONFIG
    device_augment.check(False, 0, [view])
    device_augment.check(True, 64, [View(), text.Text()])
