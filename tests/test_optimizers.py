"""Every update against a recurrence in NumPy float64, one tensor at a time."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import optimizers, schedules
from clr_jax.entry import CONFIG, Problem

STEPS = 6
KERNEL, SCALE, BIAS, HEAD = (
    'encoder/conv/kernel',
    'encoder/bn/scale',
    'encoder/bn/bias',
    'predictor/kernel',
)
SHAPES = {KERNEL: (3, 4), SCALE: (4,), BIAS: (4,), HEAD: (4, 2)}
TIMES = {'steps_per_epoch': 2, 'total_steps': STEPS}
RUN = {'batch_size': 512, **TIMES}
CONSTANT = {'name': 'constant'}
NORM_AND_BIAS = {'pattern': '(scale|bias)$', 'weight_decay': 0.0, 'adapt': False}
EACH_RATE = [0.0, 0.4, 0.8, 0.5, 0.3, 0.1]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def nest(flat):
    return {
        'encoder': {
            'conv': {'kernel': flat[KERNEL]},
            'bn': {'scale': flat[SCALE], 'bias': flat[BIAS]},
        },
        'predictor': {'kernel': flat[HEAD]},
    }


def flatten(tree):
    encoder = tree['encoder']
    leaves = encoder['conv']['kernel'], encoder['bn']['scale'], encoder['bn']['bias']
    return dict(zip(SHAPES, (*leaves, tree['predictor']['kernel']), strict=True))


def example(seed=0):
    """Parameters and six gradients; a tensor of the first and of one of the second is zero."""
    rng = np.random.default_rng(seed)
    params = {path: rng.normal(size=shape) for path, shape in SHAPES.items()}
    params[BIAS] *= 0
    grads = [{p: rng.normal(size=shape) for p, shape in SHAPES.items()} for _ in range(STEPS)]
    grads[2][KERNEL] *= 0
    return params, grads


def run(tx, tree, grads):
    """The tree of parameters after each step."""

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, tree)
    state, after = tx.init(params), []
    for grad in grads:
        params, state = step(params, state, grad)
        after.append(jax.tree.map(np.array, params))
    return after


def train(tx, params, grads):
    return [flatten(tree) for tree in run(tx, nest(params), map(nest, grads))]


def agree(got, expected, paths=SHAPES):
    for step, (one, other) in enumerate(zip(got, expected, strict=True)):
        for path in paths:
            assert one[path].dtype == np.float64
            np.testing.assert_allclose(
                one[path], other[path], rtol=1e-10, atol=1e-14, err_msg=f'{path}, step {step}'
            )


def momentum_sgd(p, grads, rates, decays, momentum=0.9, nesterov=False, inside=False, trust=None):
    """After each step; `trust(p, g, decay, rate)` gives the direction in place of g + decay p."""
    m, after = np.zeros_like(p), []
    for g, rate, decay in zip(grads, rates, decays, strict=True):
        u = g + decay * p if trust is None else trust(p, g, decay, rate)
        if inside:
            m = momentum * m + rate * u
            p = p - (momentum * m + rate * u if nesterov else m)
        else:
            m = momentum * m + u
            p = p - rate * (u + momentum * m if nesterov else m)
        after.append(p)
    return after


def adam(p, grads, rates, decays, b1=0.9, b2=0.999, eps=1e-8):
    m, v, after = np.zeros_like(p), np.zeros_like(p), []
    for t, (g, rate, decay) in enumerate(zip(grads, rates, decays, strict=True), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        direction = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        p = p - rate * (direction + decay * p)
        after.append(p)
    return after


def trust_decayed(p, g, decay, rate, eta=1e-3):
    u = g + decay * p
    top, bottom = math.sqrt((p**2).sum()), math.sqrt((u**2).sum())
    return u * eta * top / bottom if top > 0 and bottom > 0 else u


def trust_larc(p, g, decay, rate, eta=1e-3, eps=1e-8, clip=False):
    top, bottom = math.sqrt((p**2).sum()), math.sqrt((g**2).sum())
    if top == 0 or bottom == 0:
        return g
    trust = eta * top / (bottom + decay * top + eps)
    if clip:
        trust = min(trust / rate, 1) if rate > 0 else 1
    return trust * (g + decay * p)


def by_tensor(recurrence, params, grads, rates, decays, **options):
    """The same recurrence for every tensor; `options` may depend on the path."""
    columns = {}
    for path in SHAPES:
        own = {k: v(path) if k in ('plain', 'decay') else v for k, v in options.items()}
        weight = own.pop('decay', 1.0)
        if own.pop('plain', False):
            own['trust'] = None
        columns[path] = recurrence(
            params[path], [g[path] for g in grads], rates, [weight * d for d in decays], **own
        )
    return [{path: columns[path][i] for path in SHAPES} for i in range(len(grads))]


def tabulated(values):
    return lambda step: jnp.asarray(values)[step]


def is_vector(path):
    return len(SHAPES[path]) == 1


# LARS, SGD, AdamW


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('place', ['momentum', 'update'])
@pytest.mark.parametrize('ratio', ['decayed', 'larc', 'clipped'])
def test_lars(ratio, place, nesterov):
    params, grads = example()
    options, trust = {
        'decayed': ({}, trust_decayed),
        'larc': ({'ratio': 'larc', 'eps': 1e-8}, trust_larc),
        'clipped': (
            {'ratio': 'larc', 'eps': 1e-8, 'clip_ratio': True, 'trust_coefficient': 0.2},
            lambda *args: trust_larc(*args, eta=0.2, clip=True),
        ),
    }[ratio]
    tx = optimizers.lars(
        tabulated(EACH_RATE),
        weight_decay=0.05,
        learning_rate_in=place,
        nesterov=nesterov,
        **options,
    )
    expected = by_tensor(
        momentum_sgd,
        params,
        grads,
        EACH_RATE,
        [0.05] * STEPS,
        nesterov=nesterov,
        inside=place == 'momentum',
        trust=trust,
    )
    agree(train(tx, params, grads), expected)


def test_clipped_ratio_is_clipped_in_some_steps_only():
    """Otherwise the test above would say nothing of the limit."""
    params, grads = example()
    p, g = params[KERNEL], grads[1][KERNEL]
    below, above = (trust_larc(p, g, 0.05, rate, eta=0.2, clip=True) for rate in (0.8, 0.1))
    np.testing.assert_array_equal(above, g + 0.05 * p)
    assert np.linalg.norm(below) < np.linalg.norm(above)


def test_eps_of_the_decayed_ratio():
    params, grads = example()
    tx = optimizers.lars(0.1, weight_decay=0.0, momentum=0.0, eps=0.5, trust_coefficient=0.02)
    p, g = params[KERNEL], grads[0][KERNEL]
    expected = p - 0.1 * 0.02 * np.linalg.norm(p) / (np.linalg.norm(g) + 0.5) * g
    got = train(tx, params, grads[:1])[0][KERNEL]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_lars_is_that_of_optax():
    params, grads = example()
    mask = nest({path: not is_vector(path) for path in SHAPES})
    section = {'name': 'lars', 'learning_rate': 1.0, 'weight_decay': 0.05}
    section |= {'schedule': {'warmup_epochs': 1.0}}
    theirs = optax.lars(
        optimizers.learning_rate(section, **RUN),
        0.05,
        weight_decay_mask=mask,
        trust_ratio_mask=mask,
        momentum=0.9,
    )
    ours = optimizers.optimizer(section, {'norm_and_bias': NORM_AND_BIAS}, **RUN)
    agree(train(ours, params, grads), train(theirs, params, grads))


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd(nesterov):
    params, grads = example()
    tx = optimizers.sgd(tabulated(EACH_RATE), weight_decay=0.05, momentum=0.8, nesterov=nesterov)
    expected = by_tensor(
        momentum_sgd, params, grads, EACH_RATE, [0.05] * STEPS, momentum=0.8, nesterov=nesterov
    )
    agree(train(tx, params, grads), expected)


def test_adamw():
    params, grads = example()
    options = {'b1': 0.8, 'b2': 0.95, 'eps': 1e-3}
    tx = optimizers.adamw(tabulated(EACH_RATE), weight_decay=0.05, **options)
    expected = by_tensor(adam, params, grads, EACH_RATE, [0.05] * STEPS, **options)
    got = train(tx, params, grads)
    agree(got, expected)
    theirs = optax.adamw(tabulated(EACH_RATE), weight_decay=0.05, **options)
    agree(got, train(theirs, params, grads))


# Schedules


def values(function, steps):
    return [float(jax.jit(function)(jnp.int32(step))) for step in range(steps)]


def cosine(step, total, warmup, start, final):
    if step < warmup:
        return start + (1 - start) * step / warmup
    return final + (1 - final) * 0.5 * (
        1 + math.cos(math.pi * min((step - warmup) / (total - warmup), 1))
    )


@pytest.mark.parametrize(('start', 'final'), [(0.0, 0.0), (0.25, 0.1)])
@pytest.mark.parametrize('per', ['step', 'epoch'])
def test_warmup_cosine(per, start, final):
    function = schedules.schedule(5, 40, warmup_epochs=2.0, warmup_from=start, final=final, per=per)
    at = [step if per == 'step' else step - step % 5 for step in range(50)]
    expected = [cosine(step, 40, 10, start, final) for step in at]
    np.testing.assert_allclose(values(function, 50), expected, rtol=1e-12, atol=1e-15)
    assert max(expected) == expected[10] == 1  # the peak is where the warm-up ends
    assert expected[40:] == [final] * 10  # no restart


def test_warmup_of_part_of_an_epoch_is_rounded_to_steps():
    function = schedules.schedule(5, 40, name='constant', warmup_epochs=0.55)
    np.testing.assert_allclose(values(function, 5), [0, 1 / 3, 2 / 3, 1, 1], rtol=1e-12)


def test_other_shapes():
    linear = schedules.schedule(2, 8, name='linear', final=0.2)
    np.testing.assert_allclose(values(linear, 10)[::2], [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-12)
    drops = schedules.schedule(2, 8, name='step', milestones=(1, 3), factor=0.1)
    expected = [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose(values(drops, 8), expected, rtol=1e-12)
    never = schedules.schedule(2, 8, name='step')
    assert values(never, 8) == values(schedules.schedule(2, 8, name='constant'), 8) == [1.0] * 8


def test_schedule_is_float32_in_an_ordinary_program():
    with jax.enable_x64(False):
        for name in ('cosine', 'linear', 'constant', 'step'):
            function = schedules.schedule(2, 8, name=name, warmup_epochs=1.0, milestones=(2,))
            assert jax.eval_shape(function, jnp.int32(3)).dtype == jnp.float32
        late = schedules.schedule(5004, 5004 * 1000, warmup_epochs=10.0)(jnp.int32(5004 * 505))
        assert float(late) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(
    ('scaling', 'expected'), [('linear', 0.3 * 4096 / 256), ('sqrt', 0.3 * 64), ('none', 0.3)]
)
def test_scaling(scaling, expected):
    assert schedules.scaled(0.3, 4096, scaling) == pytest.approx(expected, rel=1e-15)
    section = {'learning_rate': 0.3, 'scaling': scaling, 'schedule': {'warmup_epochs': 1.0}}
    rate = optimizers.learning_rate(section, batch_size=4096, steps_per_epoch=4, total_steps=12)
    assert values(rate, 5) == pytest.approx([expected * s / 4 for s in range(5)], rel=1e-15)


# Groups


def sgd_section(**changes):
    section = {'name': 'sgd', 'learning_rate': 0.1, 'scaling': 'linear', 'schedule': CONSTANT}
    return section | {'weight_decay': 0.05, 'momentum': 0.9, 'nesterov': False} | changes


def sgd_oracle(path, params, grads, rates, decays=(0.05,) * STEPS, **options):
    column = momentum_sgd(params[path], [g[path] for g in grads], rates, decays, **options)
    return [{path: p} for p in column]


def test_lars_without_decay_or_trust_for_norms_and_biases():
    params, grads = example()
    section = {'name': 'lars', 'learning_rate': 0.3, 'scaling': 'linear', 'weight_decay': 0.05}
    section |= {'schedule': {'warmup_epochs': 1.0, 'per': 'step'}}
    tx = optimizers.optimizer(section, {'norm_and_bias': NORM_AND_BIAS}, **RUN)
    expected = by_tensor(
        momentum_sgd,
        params,
        grads,
        [0.6 * cosine(step, STEPS, 2, 0, 0) for step in range(STEPS)],
        [0.05] * STEPS,
        inside=True,
        trust=trust_decayed,
        plain=is_vector,
        decay=lambda path: 0.0 if is_vector(path) else 1.0,
    )
    agree(train(tx, params, grads), expected)


def test_weight_decay_that_follows_a_schedule():
    params, grads = example()
    decays = [0.4 + (0.04 - 0.4) * cosine(step, STEPS, 0, 0, 0) for step in range(STEPS)]
    assert decays[0] == pytest.approx(0.04)
    assert decays[3] == pytest.approx(0.22)
    growing = {'start': 0.04, 'end': 0.4, 'name': 'cosine'}
    group = {'norm_and_bias': {'pattern': '(scale|bias)$', 'weight_decay': 0.0}}
    for name, oracle in (('adamw', adam), ('sgd', momentum_sgd)):
        section = {'name': name, 'learning_rate': 0.1, 'schedule': CONSTANT}
        tx = optimizers.optimizer(section | {'weight_decay': growing}, group, **RUN)
        expected = by_tensor(
            oracle,
            params,
            grads,
            [0.1] * STEPS,
            decays,
            decay=lambda path: 0.0 if is_vector(path) else 1.0,
        )
        agree(train(tx, params, grads), expected)
    with pytest.raises(Problem, match='end'):
        optimizers.optimizer(sgd_section(weight_decay={'start': 0.1}), {}, **RUN)


def test_multiplier_and_own_schedule():
    params, grads = example()
    section = sgd_section(schedule={'name': 'cosine'})
    groups = {
        'predictor': {'pattern': '^predictor/', 'schedule': CONSTANT},
        'bias': {'pattern': 'bias$', 'learning_rate': 0.25},
        'conv': {'pattern': 'conv', 'learning_rate': 0.5, 'schedule': {'per': 'epoch'}},
    }
    got = train(optimizers.optimizer(section, groups, **RUN), params, grads)
    run = [0.2 * cosine(step, STEPS, 0, 0, 0) for step in range(STEPS)]
    epochs = [0.2 * cosine(step - step % 2, STEPS, 0, 0, 0) for step in range(STEPS)]
    agree(got, sgd_oracle(HEAD, params, grads, [0.2] * STEPS), [HEAD])
    agree(got, sgd_oracle(BIAS, params, grads, [0.25 * rate for rate in run]), [BIAS])
    agree(got, sgd_oracle(KERNEL, params, grads, [0.5 * rate for rate in epochs]), [KERNEL])
    agree(got, sgd_oracle(SCALE, params, grads, run), [SCALE])


@pytest.mark.parametrize('name', ['sgd', 'adamw', 'lars'])
def test_freeze_holds_decay_and_momentum_but_not_the_clock(name):
    params, grads = example()
    section = {'name': name, 'learning_rate': 0.1, 'weight_decay': {'start': 0.1, 'end': 0.3}}
    groups = {'predictor': {'pattern': '^predictor/', 'freeze_until': 3}}
    got = train(optimizers.optimizer(section, groups, **RUN), params, grads)
    for step in range(3):
        np.testing.assert_array_equal(got[step][HEAD], params[HEAD])
    rates = [0.1 * cosine(step, STEPS, 0, 0, 0) for step in range(STEPS)]
    decays = [0.3 - 0.2 * cosine(step, STEPS, 0, 0, 0) for step in range(STEPS)]
    oracle, options = {
        'sgd': (momentum_sgd, {}),
        'adamw': (adam, {}),
        'lars': (momentum_sgd, {'inside': True, 'trust': trust_decayed}),
    }[name]
    expected = by_tensor(oracle, params, grads, rates, decays, **options)
    agree(got, expected, [KERNEL, SCALE, BIAS])
    late = by_tensor(oracle, params, grads[3:], rates[3:], decays[3:], **options)
    agree(got[3:], late, [HEAD])


def test_never_frozen_and_frozen_for_ever():
    params, grads = example()
    groups = {
        'patches': {'pattern': 'conv/kernel$', 'frozen': True},
        'predictor': {'pattern': '^predictor/', 'freeze_until': -1, 'clip': None},
    }
    got = train(optimizers.optimizer(sgd_section(), groups, **RUN), params, grads)
    for after in got:
        np.testing.assert_array_equal(after[KERNEL], params[KERNEL])
    agree(got, sgd_oracle(HEAD, params, grads, [0.2] * STEPS), [HEAD])


def test_clip_is_per_tensor_and_before_everything_else():
    params, grads = example()
    tx = optimizers.optimizer(sgd_section(), {'every': {'pattern': '', 'clip': 2.0}}, **RUN)
    clipped, lengths = [], []
    for grad in grads:
        norms = {path: math.sqrt((g**2).sum()) for path, g in grad.items()}
        factors = {path: min(1.0, 2.0 / (norm + 1e-6)) for path, norm in norms.items()}
        clipped.append({path: factors[path] * g for path, g in grad.items()})
        lengths += norms.values()
    assert min(lengths) < 1.9
    assert max(lengths) > 2.1
    expected = by_tensor(momentum_sgd, params, clipped, [0.2] * STEPS, [0.05] * STEPS)
    agree(train(tx, params, grads), expected)


def test_clip_of_the_whole_gradient_is_of_what_moves_and_before_everything_else():
    params, grads = example()
    groups = {'still': {'pattern': 'predictor', 'frozen': True}}
    tx = optimizers.optimizer(sgd_section(clip=4.0), groups, **RUN)
    moving = SHAPES.keys() - {HEAD}
    norms = [math.sqrt(sum((grad[path] ** 2).sum() for path in moving)) for grad in grads]
    assert min(norms) < 4 < max(norms)
    factors = [min(1.0, 4.0 / norm) for norm in norms]
    clipped = [{p: f * g for p, g in grad.items()} for f, grad in zip(factors, grads, strict=True)]
    expected = by_tensor(momentum_sgd, params, clipped, [0.2] * STEPS, [0.05] * STEPS)
    agree(train(tx, params, grads), [after | {HEAD: params[HEAD]} for after in expected])


def test_groups_merge():
    params, grads = example()
    groups = {
        'vectors': {'pattern': '(scale|bias)$', 'weight_decay': 0.0},
        'encoder': {'pattern': '^encoder/', 'learning_rate': 0.5},
        'bn': {'pattern': '/bn/', 'learning_rate': 0.5, 'momentum': 0.5},
    }
    got = train(optimizers.optimizer(sgd_section(), groups, **RUN), params, grads)
    for path in (SCALE, BIAS):
        alone = sgd_oracle(path, params, grads, [0.1] * STEPS, [0.0] * STEPS, momentum=0.5)
        agree(got, alone, [path])
    agree(got, sgd_oracle(KERNEL, params, grads, [0.1] * STEPS), [KERNEL])
    agree(got, sgd_oracle(HEAD, params, grads, [0.2] * STEPS), [HEAD])


def test_layers_of_a_stack_are_groups():
    params, grads = example()
    groups = {f'layer{i}': {'pattern': f'^{path}$'} for i, path in enumerate(SHAPES)}
    for i, group in enumerate(groups.values()):
        group['learning_rate'] = 0.5**i
    got = train(optimizers.optimizer(sgd_section(), groups, **RUN), params, grads)
    for i, path in enumerate(SHAPES):
        agree(got, sgd_oracle(path, params, grads, [0.2 * 0.5**i] * STEPS), [path])


def test_each_leaves_every_bit_as_it_was():
    """Even where an optimizer looks at all of its parameters together."""
    params, grads = example()
    method = optax.chain(
        optax.clip_by_global_norm(0.5),
        optimizers.optimizer(sgd_section(), {'p': {'pattern': '^predictor', 'clip': 1.0}}, **RUN),
    )
    alone = train(method, params, grads)
    tx = optimizers.each({'method': method, 'probe': optimizers.adamw(0.1)})
    probe = {'predictor': {'kernel': np.full((3, 2), 5.0)}}
    got = run(
        tx,
        {'method': nest(params), 'probe': probe},
        [{'method': nest(grad), 'probe': probe} for grad in grads],
    )
    for together, expected in zip(got, alone, strict=True):
        for path, leaf in flatten(together['method']).items():
            np.testing.assert_array_equal(leaf, expected[path])
    moved = adam(np.full((3, 2), 5.0), [np.full((3, 2), 5.0)] * STEPS, [0.1] * STEPS, [0.1] * STEPS)
    np.testing.assert_allclose(got[-1]['probe']['predictor']['kernel'], moved[-1], rtol=1e-10)


# Layers

# of each family a tree of shapes and the layer of each leaf; blocks are stacked
ENCODERS = {
    'vit': {
        'cls_token': ((1, 1, 2), 0),
        'pos_embed': ((1, 5, 2), 0),
        'patch_embed/kernel': ((2, 2, 3, 2), 0),
        'blocks/norm1/scale': ((3, 2), (1, 2, 3)),
        'blocks/qkv/kernel': ((3, 2, 6), (1, 2, 3)),
        'norm/scale': ((2,), 4),
    },
    'resnet': {
        'conv1/kernel': ((3, 3, 3, 2), 0),
        'bn3/scale': ((2,), 0),  # of the stem of ResNet-D
        'layer1_0/conv1/kernel': ((2, 2), 1),
        'layer1_1/sk/conv2/kernel': ((2, 2), 1),
        'layer3_12/bn3/scale': ((2,), 3),
        'layer4_2/downsample_conv/kernel': ((2, 2), 4),
    },
    'convnet': {
        'conv1/kernel': ((3, 2), 1),
        'bn1/scale': ((2,), 1),
        'conv2/kernel': ((2, 2), 2),
        'bn10/bias': ((2,), 10),
    },
}
DEPTH = {'vit': 3, 'resnet': 4, 'convnet': 10}
LAYER_DECAY = 0.65


def deep(flat):
    """{'a/b': x} -> {'a': {'b': x}}."""
    tree = {}
    for path, leaf in flat.items():
        *folders, name = path.split('/')
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree


def layered_example(family):
    """Shapes, layers, parameters and gradients of a network with that encoder."""
    of = {f'encoder/{path}': about for path, about in ENCODERS[family].items()}
    top = DEPTH[family] + 1
    of |= {'projector/dense1/kernel': ((2, 3), top), 'predictor/bias': ((3,), top)}
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=shape) for path, (shape, _) in of.items()}
    grads = [{p: rng.normal(size=shape) for p, (shape, _) in of.items()} for _ in range(STEPS)]
    return {path: layer for path, (_, layer) in of.items()}, params, grads


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
@pytest.mark.parametrize('family', ENCODERS)
def test_layer_decay(family, name):
    """Every layer alone by the recurrence of its own learning rate, 0.65^(depth + 1 - layer)."""
    layer_of, params, grads = layered_example(family)
    section = {'name': name, 'learning_rate': 0.1, 'weight_decay': 0.05}
    groups = {
        'scale': {'pattern': '(scale|bias)$', 'weight_decay': 0.0},
        'projector': {'pattern': '^projector/', 'learning_rate': 0.5},
    }
    tx = optimizers.optimizer(section | {'layer_decay': LAYER_DECAY}, groups, **RUN)
    got = run(tx, deep(params), map(deep, grads))
    oracle = {'sgd': momentum_sgd, 'adamw': adam}[name]
    shape = [0.1 * cosine(step, STEPS, 0, 0, 0) for step in range(STEPS)]

    def alone(path, layer, pick):
        factor = LAYER_DECAY ** (DEPTH[family] + 1 - layer)
        factor *= 0.5 if path.startswith('projector') else 1.0
        decay = 0.0 if path.endswith(('scale', 'bias')) else 0.05
        mine = [pick(grad[path]) for grad in grads]
        return oracle(pick(params[path]), mine, [factor * r for r in shape], [decay] * STEPS)

    for path, layer in layer_of.items():
        if isinstance(layer, tuple):
            each = [alone(path, n, lambda x, i=i: x[i]) for i, n in enumerate(layer)]
            expected = [np.stack(step) for step in zip(*each, strict=True)]
        else:
            expected = alone(path, layer, lambda x: x)
        for tree, leaf in zip(got, expected, strict=True):
            found = tree
            for word in path.split('/'):
                found = found[word]
            np.testing.assert_allclose(found, leaf, rtol=1e-10, atol=1e-14, err_msg=path)


def test_layer_decay_of_1_is_none():
    params, grads = example()
    plain = train(optimizers.optimizer(sgd_section(), {}, **RUN), params, grads)
    off = train(optimizers.optimizer(sgd_section(layer_decay=1.0), {}, **RUN), params, grads)
    for one, other in zip(plain, off, strict=True):
        for path in SHAPES:
            np.testing.assert_array_equal(one[path], other[path])


@pytest.mark.parametrize('decay', [0.0, -0.5, None, math.nan])
def test_mistake_in_the_layer_decay(decay):
    assert 'optimizer.layer_decay' in problem(sgd_section(layer_decay=decay))


def test_layer_decay_needs_layers():
    params, _ = example()
    assert 'optimizer.layer_decay' in problem(sgd_section(layer_decay=0.5), {}, params)


# State


@pytest.mark.parametrize('x64', [False, True])
@pytest.mark.parametrize('name', ['lars', 'sgd', 'adamw'])
def test_state_keeps_its_types(name, x64):
    """A weak or changing type would compile the step again, and again after a restore."""
    with jax.enable_x64(x64):
        section = {'name': name, 'learning_rate': 0.1, 'weight_decay': {'start': 0.1, 'end': 0.3}}
        groups = {
            'norm_and_bias': {'pattern': '(scale|bias)$', 'weight_decay': 0.0, 'clip': 3.0},
            'predictor': {'pattern': '^predictor/', 'freeze_until': 3},
            'patches': {'pattern': 'conv', 'frozen': True},
        }
        tx = optimizers.optimizer(section, groups, **RUN)
        params = nest({path: jnp.ones(shape, jnp.float32) for path, shape in SHAPES.items()})
        state = tx.init(params)
        updates, after = jax.jit(tx.update)(params, state, params)
        types = [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
        assert types == [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(after)]
        assert jax.tree.structure(state) == jax.tree.structure(after)
        assert {dtype for _, dtype, _ in types} == {jnp.dtype('int32'), jnp.dtype('float32')}
        assert not any(weak for _, _, weak in types)
        moved = optax.apply_updates(params, updates)
        assert {x.dtype for x in jax.tree.leaves(moved)} == {jnp.dtype('float32')}


# Mistakes in a config


def problem(section, groups=None, params=None):
    if params is None:
        with pytest.raises(Problem) as caught:
            optimizers.optimizer(section, groups or {}, **RUN)
    else:
        tx = optimizers.optimizer(section, groups, **RUN)
        with pytest.raises(Problem) as caught:
            tx.init(nest(params))
    assert caught.value.code == CONFIG
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'name': 'sdg'}, ['"sdg"', '"sgd"']),
        ({'name': None}, ['name']),
        ({'momentun': 0.9}, ['"momentun"', '"momentum"']),
        ({'trust_coefficient': 1e-3}, ['"trust_coefficient"']),
        ({'scaling': 'liner'}, ['"liner"', '"linear"']),
        ({'schedule': {'nam': 'cosine'}}, ['"nam"', '"name"']),
        ({'schedule': {'name': 'cosin'}}, ['"cosin"', '"cosine"']),
        ({'schedule': {'per': 'epochs'}}, ['"epochs"', '"epoch"']),
        ({'learning_rate': -0.1}, ['learning_rate', '-0.1']),
        ({'learning_rate': math.nan}, ['learning_rate', 'nan']),
        ({'learning_rate': math.inf}, ['learning_rate', 'inf']),
        ({'learning_rate': None}, ['learning_rate', 'None']),
        ({'learning_rate': '0.1'}, ['learning_rate', '0.1']),
        ({'weight_decay': -1.0}, ['weight_decay', '-1.0']),
        ({'clip': -1.0}, ['optimizer.clip', '-1.0']),
    ],
)
def test_mistake_in_the_section(change, words):
    message = problem(sgd_section(**change))
    assert all(word in message for word in words), message


@pytest.mark.parametrize('change', [{'ratio': 'lark'}, {'learning_rate_in': 'moment'}])
def test_mistake_in_a_choice_of_lars(change):
    section = {'name': 'lars', 'learning_rate': 0.1} | change
    (word,) = change.values()
    assert f'"{word}"' in problem(section)


@pytest.mark.parametrize(
    ('group', 'words'),
    [
        ({'pattern': 'bias', 'weight_decya': 0.0}, ['"weight_decya"', '"weight_decay"']),
        ({'pattern': 'bias', 'adapt': False}, ['"adapt"']),  # SGD has no trust ratio
        ({'learning_rate': 0.1}, ['pattern']),
        ({'pattern': '(bias'}, ['pattern']),
        ({'pattern': 'bias', 'learning_rate': -1.0}, ['learning_rate', '-1.0']),
        ({'pattern': 'bias', 'clip': 0.0}, ['clip', '0.0']),
        ({'pattern': 'bias', 'schedule': {'name': 'cosin'}}, ['"cosin"', '"cosine"']),
    ],
)
def test_mistake_in_a_group(group, words):
    message = problem(sgd_section(), {'mine': group})
    assert all(word in message for word in words), message
    assert 'mine' in message or 'schedule' in message


def test_pattern_that_matches_nothing():
    params, _ = example()
    message = problem(sgd_section(), {'patches': {'pattern': '^encoder/patch/'}}, params)
    assert all(word in message for word in ('"patches"', '"^encoder/patch/"', BIAS)), message


def test_groups_that_disagree():
    params, _ = example()
    groups = {
        'vectors': {'pattern': 'scale$', 'weight_decay': 0.0},
        'encoder': {'pattern': '^encoder/', 'weight_decay': 0.1},
    }
    message = problem(sgd_section(), groups, params)
    words = ('"vectors"', '"encoder"', 'weight_decay', SCALE)
    assert all(word in message for word in words), message
    groups['encoder']['pattern'] = 'conv'
    optimizers.optimizer(sgd_section(), groups, **RUN).init(nest(params))


def test_keywords_are_keyword_only_with_defaults():
    """What a config lists is what the signature says."""
    for make in (optimizers.lars, optimizers.sgd, optimizers.adamw, schedules.schedule):
        for parameter in inspect.signature(make).parameters.values():
            if parameter.kind is not parameter.KEYWORD_ONLY:
                assert parameter.name in ('learning_rate', 'steps_per_epoch', 'total_steps')
            else:
                assert parameter.default is not parameter.empty
