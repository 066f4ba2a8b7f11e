"""Each operation against Pillow, the tables against the papers', and what is drawn."""

from itertools import islice

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from clr_jax.config import default, finish
from clr_jax.data import augment, index, pipeline, policies, sources
from clr_jax.data.augment import View, tensorflow
from clr_jax.entry import CONFIG, Problem

OFF = View(area=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0, size=32)
ENHANCED = ('Color', 'Contrast', 'Brightness', 'Sharpness')
GREY = (128, 128, 128)


def noise(height=21, width=32):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def faint():
    """Few values, another range of them in each channel, one of which has only one."""
    x = np.random.default_rng(1).normal(size=(32, 32, 3)) * [20, 3, 0] + [100, 60, 9]
    return x.astype(np.uint8)


def operate(name, image, value, centre=(0, 0)):
    tf = tensorflow()
    value = tf.constant(value, tf.float32)
    return policies.operation(name, tf.constant(image), value, tf.constant(centre)).numpy()


def pillow(name, image, value):
    image, value = Image.fromarray(image), float(value)
    affine = {
        'ShearX': (1, value, 0, 0, 1, 0),
        'ShearY': (1, 0, 0, value, 1, 0),
        'TranslateX': (1, 0, value, 0, 1, 0),
        'TranslateY': (1, 0, 0, 0, 1, value),
    }
    if name in affine:
        affine = image.transform(
            image.size, Image.Transform.AFFINE, affine[name], fillcolor=GREY
        )  # the nearest pixel
        return np.array(affine)
    if name == 'Rotate':
        return np.array(image.rotate(value, fillcolor=GREY))
    if name in ENHANCED:
        return np.array(getattr(ImageEnhance, name)(image).enhance(value))
    function = getattr(ImageOps, name.lower())
    return np.array(
        function(image, int(value)) if name in ('Posterize', 'Solarize') else function(image)
    )


# Operations.

VALUES = {
    'AutoContrast': (0,),
    'Equalize': (0,),
    'Invert': (0,),
    'Rotate': (-90, -30, -7.5, 0, 3, 24, 30),
    'Posterize': (1, 2, 4, 6, 8),
    'Solarize': (0, 1, 77, 128, 256),
    **dict.fromkeys(ENHANCED, (0.0, 0.1, 0.64, 1.0, 1.36, 1.9, 5.5)),
    'ShearX': (-0.3, -0.12, 0, 0.03, 0.27),
    'ShearY': (-0.3, -0.12, 0, 0.03, 0.27),
    'TranslateX': (-40, -9, 0, 1, 10, 31),
    'TranslateY': (-40, -9, 0, 1, 10, 20),
}


@pytest.mark.parametrize('name', VALUES)
def test_an_operation_is_that_of_pillow_to_the_bit(name):
    for image in (noise(), faint()):
        for value in np.float32(VALUES[name]):
            actual = operate(name, image, value)
            np.testing.assert_array_equal(actual, pillow(name, image, value), err_msg=str(value))
            assert actual.dtype == np.uint8
    assert not np.array_equal(operate(name, faint(), VALUES[name][0]), faint())


def test_few_pixels_are_equalized_as_in_pillow():
    """Steps of zero, where a channel stays as it is, and of one, where the counts reach beyond 255."""
    for height, width in ((4, 5), (16, 17), (16, 31), (23, 24)):
        image = noise(height, width)
        np.testing.assert_array_equal(operate('Equalize', image, 0), pillow('Equalize', image, 0))


def test_operations_that_pillow_has_not():
    x = noise().astype(int)
    for value in (0, 33, 110, 255):
        expected = np.where(x < 128, np.minimum(x + value, 255), x)
        np.testing.assert_array_equal(operate('SolarizeAdd', noise(), value), expected)
    assert not operate('Posterize', noise(), 0).any()  # no bits: black
    for side, centre in ((0, (3, 4)), (6, (10, 20)), (7, (10, 20)), (16, (0, 31)), (99, (5, 5))):
        expected = noise()
        for i in range(centre[0] - side // 2, centre[0] - side // 2 + side):
            for j in range(centre[1] - side // 2, centre[1] - side // 2 + side):
                if 0 <= i < 21 and 0 <= j < 32:
                    expected[i, j] = 128
        np.testing.assert_array_equal(operate('Cutout', noise(), side, centre), expected)


# What levels mean.


def meant(name, level, levels, size=32):
    return policies.argument(name, level, levels, size)


def test_posterize_and_solarize_have_two_polarities():
    def both(levels):
        return [
            [meant(name, level, levels) for level in (0, 2, 5, 8, 9, 10)]
            for name in ('Posterize', 'Solarize')
        ]

    assert both(policies.CIFAR) == [[4, 4, 2, 1, 1, 0], [256, 205, 128, 52, 26, 0]]  # stronger
    assert both(policies.TPU) == [[0, 0, 2, 3, 3, 4], [0, 51, 128, 204, 230, 256]]  # weaker
    assert both(policies.PAPER) == [[4, 4, 6, 7, 7, 8], [0, 51, 128, 204, 230, 256]]  # weaker
    assert [meant(name, 30, policies.TPU) for name in ('Posterize', 'Solarize')] == [8, 256]
    assert [meant(name, 30, policies.CIFAR) for name in ('Posterize', 'Solarize')] == [0, 0]
    found = {name: policy.levels for name, policy in policies.POLICIES.items()}
    rising = {name for name, levels in found.items() if levels.solarize == (256, 0)}
    assert rising == {'uda', 'autoaugment_cifar10', 'autoaugment_svhn'}
    assert {n for n, levels in found.items() if levels.posterize == (4, 8)} == {'autoaugment'}


def test_the_other_levels():
    for name in ENHANCED:
        values = [meant(name, level, policies.CIFAR) for level in (0, 5, 10)]
        np.testing.assert_allclose(values, [0.1, 1.0, 1.9], rtol=1e-15)
    assert [meant('Rotate', level, policies.CIFAR) for level in (0, 9, 10)] == [0, 27, 30]
    assert [meant('ShearX', level, policies.CIFAR) for level in (0, 5, 10)] == [0, 0.15, 0.3]
    assert [meant('SolarizeAdd', level, policies.TPU) for level in (3, 7, 10)] == [33, 77, 110]
    of = policies.POLICIES['randaugment'].levels
    for name, cifar, tpu, rand in (('TranslateX', 9, 225, 90), ('Cutout', 18, 180, 72)):
        assert meant(name, 9, policies.CIFAR, 32) == cifar
        assert meant(name, 9, policies.TPU, 224) == tpu
        assert meant(name, 9, of, 224) == rand
        assert meant(name, 9, of, 112) == rand // 2  # pixels scale with the view
    assert meant('Equalize', 9, of) == 0


# Tables.

# As printed: the first letters of an operation, its probability in tenths and its level.
SHORT = dict(
    pair.split('=')
    for pair in (
        'AC=AutoContrast Eq=Equalize In=Invert Ro=Rotate Po=Posterize So=Solarize SA=SolarizeAdd '
        'Cl=Color Cn=Contrast Br=Brightness Sh=Sharpness SX=ShearX SY=ShearY TX=TranslateX '
        'TY=TranslateY'
    ).split()
)
PRINTED = {
    'autoaugment': """
        Po 4 8 Ro 6 9, So 6 5 AC 6 5, Eq 8 8 Eq 6 3, Po 6 7 Po 6 6, Eq 4 7 So 2 4,
        Eq 4 4 Ro 8 8, So 6 3 Eq 6 7, Po 8 5 Eq 10 2, Ro 2 3 So 6 8, Eq 6 8 Po 4 6,
        Ro 8 8 Cl 4 0, Ro 4 9 Eq 6 2, Eq 0 7 Eq 8 8, In 6 4 Eq 10 8, Cl 6 4 Cn 10 8,
        Ro 8 8 Cl 10 2, Cl 8 8 So 8 7, Sh 4 7 In 6 8, SX 6 5 Eq 10 9, Cl 4 0 Eq 6 3,
        Eq 4 7 So 2 4, So 6 5 AC 6 5, In 6 4 Eq 10 8, Cl 6 4 Cn 10 8, Eq 8 8 Eq 6 3""",
    'autoaugment_tpu': """
        Eq 8 1 SY 8 4, Cl 4 9 Eq 6 3, Cl 4 1 Ro 6 8, So 8 3 Eq 4 7, So 4 2 So 6 2,
        Cl 2 0 Eq 8 8, Eq 4 8 SA 8 3, SX 2 9 Ro 6 8, Cl 6 1 Eq 10 2, In 4 9 Ro 6 0,
        Eq 10 9 SY 6 3, Cl 4 7 Eq 6 0, Po 4 6 AC 4 7, So 6 8 Cl 6 9, So 2 4 Ro 8 9,
        Ro 10 7 TY 8 9, SX 0 0 So 8 4, SY 8 0 Cl 6 4, Cl 10 0 Ro 6 2, Eq 8 4 Eq 0 8,
        Eq 10 4 AC 6 2, SY 4 7 SA 6 7, Po 8 2 So 6 10, So 6 8 Eq 6 1, Cl 8 6 Ro 4 5""",
    'autoaugment_cifar10': """
        In 1 7 Cn 2 6, Ro 7 2 TX 3 9, Sh 8 1 Sh 9 3, SY 5 8 TY 7 9, AC 5 8 Eq 9 2,
        SY 2 7 Po 3 7, Cl 4 3 Br 6 7, Sh 3 9 Br 7 9, Eq 6 5 Eq 5 1, Cn 6 7 Sh 6 5,
        Cl 7 7 TX 5 8, Eq 3 7 AC 4 8, TY 4 3 Sh 2 6, Br 9 6 Cl 2 8, So 5 2 In 0 3,
        Eq 2 0 AC 6 0, Eq 2 8 Eq 6 4, Cl 9 9 Eq 6 6, AC 8 4 So 2 8, Br 1 3 Cl 7 0,
        So 4 5 AC 9 3, TY 9 9 TY 7 9, AC 9 2 So 8 3, Eq 8 8 In 1 3, TY 7 9 AC 9 1""",
    'autoaugment_svhn': """
        SX 9 4 In 2 3, SY 9 8 In 7 5, Eq 6 5 So 6 6, In 9 3 Eq 6 3, Eq 6 1 Ro 9 3,
        SX 9 4 AC 8 3, SY 9 8 In 4 5, SY 9 5 So 2 6, In 9 6 AC 8 1, Eq 6 3 Ro 9 3,
        SX 9 4 So 3 3, SY 8 8 In 7 4, Eq 9 5 TY 6 6, In 9 4 Eq 6 7, Cn 3 3 Ro 8 4,
        In 8 5 TY 0 2, SY 7 6 So 4 8, In 6 4 Ro 8 4, SY 3 7 TX 9 3, SX 1 6 In 6 5,
        So 7 2 TY 6 7, SY 8 4 In 8 8, SX 7 9 TY 8 3, SY 8 5 AC 7 3, SX 7 2 In 1 5""",
}


@pytest.mark.parametrize('name', PRINTED)
def test_a_table_is_the_published_one(name):
    policy = policies.policy(name, 5, 5.0)
    expected = []
    for printed in PRINTED[name].split(','):
        words = printed.split()
        pairs = zip(words[::3], words[1::3], words[2::3], strict=True)
        expected.append(tuple((SHORT[n], int(p) / 10, int(level)) for n, p, level in pairs))
    assert policy.choices == tuple(expected)
    assert (len(expected), policy.draws) == (25, 1)


def test_the_policies_of_single_operations():
    uda = policies.policy('uda', 5, 5.0)
    assert (len(uda.choices), uda.draws) == (15 * 9, 2)
    assert {p for ((_, p, _),) in uda.choices} == {0.5}
    assert {level for ((_, _, level),) in uda.choices} == set(range(1, 10))
    assert {n for ((n, _, _),) in uda.choices} == {*SHORT.values(), 'Cutout'} - {'SolarizeAdd'}
    rand = policies.policy('randaugment', 3, 7.0)
    assert (len(rand.choices), rand.draws) == (16, 3)
    assert {n for ((n, _, _),) in rand.choices} == {*SHORT.values(), 'Cutout'}
    assert {(p, level) for ((_, p, level),) in rand.choices} == {(1.0, 7.0)}


# Draws.

N = 20_000
KEYS = index.key(0, 0, np.arange(N))


def near(found, share):
    return abs(np.mean(found) - share) < 4 * np.sqrt(share * (1 - share) / N)


def uniformly(values, n):
    """Chi square, n - 1 degrees of freedom, below its mean and five standard deviations."""
    counts = np.bincount(values, minlength=n)
    assert len(counts) == n
    assert ((counts - N / n) ** 2 / (N / n)).sum() < n - 1 + 5 * np.sqrt(2 * (n - 1))


def test_draws_of_randaugment():
    view = OFF._replace(policy='randaugment', policy_operations=3, policy_magnitude=9.0, size=224)
    p = augment.sample(view, KEYS, 0)
    assert {name: (v.shape, v.dtype.name) for name, v in p.items()} == {
        'policy': ((N, 3), 'int32'),
        'argument': ((N, 3), 'float32'),
        'centre': ((N, 3, 2), 'int32'),
    }
    names = policies.used(augment.policy(view))
    for slot in range(3):
        uniformly(p['policy'][:, slot] - 1, 16)
    pairs = (p['policy'][:, 0] - 1) * 16 + p['policy'][:, 1] - 1
    uniformly(pairs, 256)
    uniformly(p['centre'][:, 1, 0], 224)
    for name, value in (('Rotate', 27), ('TranslateX', 90), ('Solarize', 230), ('Cutout', 72)):
        found = p['argument'][p['policy'] == 1 + names.index(name)]
        assert set(found) == ({-value, value} if name in policies.SIGNED else {value})
        if name in policies.SIGNED:
            assert abs((found > 0).mean() - 0.5) < 2 / np.sqrt(len(found))


def test_draws_of_uda():
    view = OFF._replace(policy='uda', cutout=16)
    p = augment.sample(view, KEYS, 0)
    names = policies.used(augment.policy(view))
    for slot in range(2):
        uniformly(p['policy'][:, slot] - 1, 15)
        assert near(p['applied'][:, slot], 0.5)
    assert near(p['applied'].all(1), 0.25)
    turned = np.abs(p['argument'][p['policy'] == 1 + names.index('Rotate')])
    counts = np.unique(turned, return_counts=True)
    np.testing.assert_array_equal(counts[0], 3 * np.arange(1, 10))
    assert abs(counts[1] - len(turned) / 9).max() < 4.5 * np.sqrt(len(turned) / 9)
    places = p['cutout'][:, 0] * 32 + p['cutout'][:, 1]
    uniformly(places, 32 * 32)


@pytest.mark.parametrize('name', PRINTED)
def test_draws_of_subpolicies(name):
    """The two operations of a sub-policy come together, each with its own probability."""
    policy = policies.policy(name, 2, 10.0)
    p = augment.sample(OFF._replace(policy=name), KEYS, 0)
    names = policies.used(policy)
    expected: dict = {}
    for choice in policy.choices:
        both = tuple(1 + names.index(n) for n, _, _ in choice)
        shares = [probability for _, probability, _ in choice]
        expected.setdefault(both, []).append(shares)
    found = p['policy'] @ [100, 1]
    assert set(found) == {100 * a + b for a, b in expected}
    for (a, b), shares in expected.items():
        here = found == 100 * a + b
        assert near(here, len(shares) / 25)
        for slot, share in enumerate(np.mean(shares, 0)):
            bound = 4 * np.sqrt(share * (1 - share) / here.sum())
            assert abs(p['applied'][here, slot].mean() - share) <= bound


def test_other_draws_stay_as_they_are():
    keys = KEYS[:50]
    plain, with_policy = (
        augment.sample(view, keys, 1) for view in (View(), View(policy='uda', cutout=8))
    )
    for name, value in plain.items():
        np.testing.assert_array_equal(with_policy[name], value)
    new = {'policy', 'applied', 'argument', 'centre', 'cutout'}
    assert set(with_policy) - set(plain) == new
    shared = View(policy='uda', cutout=8, shared=('policy', 'applied'))
    one, two = (augment.sample(shared, keys, number) for number in (0, 1))
    for name in new:
        if name != 'argument':  # which follows the operation, but for its sign
            assert np.array_equal(one[name], two[name]) == (name in shared.shared)


def test_golden_draws():
    """A change here is a change of every run that anyone has seeded."""
    p = augment.sample(OFF._replace(policy='uda', cutout=16), index.key(0, 0, np.arange(2)), 1)
    assert {name: value.tolist() for name, value in p.items()} == {
        'policy': [[3, 10], [4, 13]],  # Color, Posterize; Contrast, Solarize
        'applied': [[False, False], [True, True]],
        'argument': np.float32([[1.18, 1.0], [0.82, 26.0]]).tolist(),
        'centre': [[[28, 15], [26, 25]], [[2, 22], [17, 14]]],
        'cutout': [[17, 12], [22, 22]],
    }


# Views.


def test_a_view_applies_what_is_drawn_after_the_flip():
    tf = tensorflow()
    x = noise(32, 32)
    view = OFF._replace(flip=0.5, policy='uda', cutout=6)
    names = policies.used(augment.policy(view))
    number = {name: 1 + names.index(name) for name in names}
    for applied in ((True, True), (True, False), (False, False)):
        p = {
            'flip': True,
            'policy': np.int32([number['ShearY'], number['Color']]),
            'applied': list(applied),
            'argument': np.float32([0.3, 0.1]),
            'centre': np.zeros((2, 2), np.int32),
            'cutout': np.int32([10, 20]),
        }
        made = augment.apply(view, tf.constant(x), {k: tf.constant(v) for k, v in p.items()})
        expected = np.ascontiguousarray(x[:, ::-1])
        for name, value, on in zip(('ShearY', 'Color'), p['argument'], applied, strict=True):
            expected = pillow(name, expected, value) if on else expected
        expected[7:13, 17:23] = 128
        np.testing.assert_array_equal(made.numpy(), expected)


GROUPS = [
    View(copies=1, size=16, jitter=0.0, blur=0.0, policy='uda', cutout=6),
    View(copies=2, size=16, blur=0.0, policy='randaugment'),
    View(copies=1, size=8, jitter=0.0, blur=0.0, policy='autoaugment_tpu'),
]


def test_batches_are_the_same_on_one_thread_and_on_four():
    source = sources.load({'name': 'digits'}, 'train')
    one, four = (
        list(islice(pipeline.train_batches(source, GROUPS, seed=0, batch_size=32, threads=n), 2))
        for n in (1, 4)
    )
    for a, b in zip(one, four, strict=True):
        assert len(a['views']) == 4
        for x, y in zip(a['views'], b['views'], strict=True):
            np.testing.assert_array_equal(x, y)
    views = one[0]['views']
    assert not np.array_equal(views[1], views[2])
    assert ((views[0] == 128).all(3).sum((1, 2)) >= 9).all()  # the square, at least a quarter of it


def test_what_is_off_is_not_in_the_graph():
    tf = tensorflow()
    assert augment.sample(OFF, KEYS[:2], 0) == {}

    def operations(view):
        like = augment.sample(view, KEYS[:2], 0)
        form = {k: tf.TensorSpec(v.shape[1:], v.dtype) for k, v in like.items()}
        function = tf.function(lambda x, p: augment.apply(view, x, p), autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec((32, 32, 3), tf.uint8), form).graph
        return [op.type for op in graph.get_operations()]

    calls = {'PartitionedCall', 'StatefulPartitionedCall'}
    assert not calls & set(operations(OFF))
    three = operations(OFF._replace(policy='randaugment', policy_operations=3))
    assert sum(kind in calls for kind in three) == 3
    assert len(three) < 80  # a slot is a function, traced once, and called


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'policy': 'randaugmant'}, '"randaugmant" in the settings of a view: did you mean "randa'),
        ({'policy_operations': 0}, 'policy_operations=0'),
        ({'policy_magnitude': 31.0}, 'policy_magnitude=31.0'),
        ({'cutout': -1}, 'cutout=-1'),
        ({'shared': ('polisy',)}, 'did you mean "policy"'),
    ],
)
def test_a_wrong_setting_is_named(wrong, message):
    with pytest.raises(Problem, match=message) as problem:
        augment.check(View(**wrong))
    assert problem.value.code == CONFIG
    for name in policies.POLICIES:
        augment.check(View(policy=name))


def test_cutout_shrinks_with_the_view_at_laptop_size():
    config = default()
    config.views.view = {'size': 32, 'cutout': 16, 'policy': 'uda'}
    view = finish(config, 'smoke').views.view
    assert (view.size, view.cutout, view.policy) == (16, 8, 'uda')
