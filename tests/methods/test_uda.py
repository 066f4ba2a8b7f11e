"""The claims of UDA: only sure examples teach, by a sharpened target without a gradient; labels that are
known too well for their time do not; what is evaluated is an average."""

import jax
import numpy as np
import pytest

from clr_jax.entry import Problem
from clr_jax.methods.uda import uda
from tests.methods.tiny import BATCH, Linear, batch, close, outcome, train
from tests.steps import double

CLASSES, UNLABELLED = 4, 24


def data(seed=0):
    rng = np.random.default_rng(100 + seed)
    plain = rng.random((UNLABELLED, 4, 4, 3))
    strong = plain**1.5 + 0.2 * rng.random(plain.shape)
    made = batch(1, seed)
    made['label'] = np.where(np.arange(BATCH) < 13, made['label'], -1).astype(np.int32)
    return made | {'unlabelled': {'views': (plain, strong)}}


def begin(method, spread=2.0):
    """A classifier that says something."""
    with jax.enable_x64(True):
        params, state = jax.device_get(double(method.init(jax.random.key(1), data())))
    kernel = spread * np.random.default_rng(1).normal(size=(6, CLASSES))
    params['predictor'] = params['predictor'] | {'kernel': kernel}
    return params, state


def logits(params, x):
    p = params['encoder']['Dense_0']
    h = x.reshape(len(x), -1) @ p['kernel'] + p['bias']
    return h @ params['predictor']['kernel'] + params['predictor']['bias']


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def oracle(params, made, limit, temperature=0.4, confidence=0.8):
    """Both losses and the gradients to the logits, by loops."""
    of_label = []
    for x, label in zip(logits(params, made['views'][0]), made['label'], strict=True):
        if label >= 0 and softmax(x)[label] <= limit:
            of_label.append(np.log(softmax(x)[label]))
    plain, strong = (logits(params, x) for x in made['unlabelled']['views'])
    consistency, to_strong = 0.0, np.zeros_like(strong)
    for i in range(UNLABELLED):
        if softmax(plain[i]).max() > confidence:
            target, said = softmax(plain[i] / temperature), softmax(strong[i])
            consistency += (target * np.log(target / said)).sum() / UNLABELLED
            to_strong[i] = (said - target) / UNLABELLED
    return -np.sum(of_label) / max(len(of_label), 1), consistency, to_strong, len(of_label)


RISE = {
    'none': lambda p: 1.0,
    'linear': lambda p: p,
    'exp': lambda p: np.exp(5 * (p - 1)),
    'log': lambda p: 1 - np.exp(-5 * p),
}


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('annealing', RISE)
def test_the_losses_are_those_of_the_paper(annealing, devices):
    method = uda(Linear(), CLASSES, annealing=annealing, weight=0.7)
    params, state = begin(method)
    out = outcome(method, params, state, data(), devices, step=1)  # of 10
    limit = RISE[annealing](0.1) * (1 - 1 / CLASSES) + 1 / CLASSES
    limit = 2.0 if annealing == 'none' else limit
    supervised, consistency, to_strong, count = oracle(params, data(), limit)
    assert (count == 13) == (annealing == 'none')
    assert 0 < out.metrics['sure'] < 1
    np.testing.assert_allclose(out.metrics['supervised'], supervised, rtol=1e-9)
    np.testing.assert_allclose(out.metrics['consistency'], consistency, rtol=1e-9)
    np.testing.assert_allclose(out.metrics['counted'], count / BATCH)
    np.testing.assert_allclose(out.loss, supervised + 0.7 * consistency, rtol=1e-9)


def test_the_target_of_consistency_has_no_gradient():
    method = uda(Linear(), CLASSES)
    params, state = begin(method)
    unlabelled = data() | {'label': np.full(BATCH, -1, np.int32)}
    out = outcome(method, params, state, unlabelled)
    _, _, to_strong, _ = oracle(params, unlabelled, 2.0)
    x = data()['unlabelled']['views'][1].reshape(UNLABELLED, -1)
    to_h = to_strong @ params['predictor']['kernel'].T
    close(out.grads['encoder']['Dense_0']['kernel'], x.T @ to_h)


@pytest.mark.parametrize('joint', [True, False])
def test_both_streams_share_batch_statistics(joint):
    """Over all labelled and unlabelled rows, or all but strong augmentations, on any number of devices."""
    method = uda(Linear(1), CLASSES, joint=joint)
    params, state = begin(method)
    made = data()
    plain, strong = made['unlabelled']['views']
    passing = [made['views'][0], plain, *([strong] if joint else [])]
    x = np.concatenate(passing).reshape(-1, 48)
    p = params['encoder']['Dense_0']
    mean = (x @ p['kernel'] + p['bias']).mean(0)
    for devices in (1, 8):
        out = outcome(method, params, state, made, devices)
        found = out.state.stats['encoder']['BatchNorm_0']['mean']
        np.testing.assert_allclose(found, 0.1 * mean, rtol=1e-9)


def test_strong_augmentations_by_themselves_are_normalized_by_themselves():
    """As if the network had seen them alone; with joint=True they would move all that is said."""
    made, method = data(), uda(Linear(1), CLASSES, joint=False, confidence=0.0)
    params, state = begin(method)
    whole = outcome(method, params, state, made)
    plain, strong = made['unlabelled']['views']
    # batch norm takes the factor away
    twice = made | {'unlabelled': {'views': (plain, 2 * strong)}}
    np.testing.assert_allclose(
        outcome(method, params, state, twice).metrics['consistency'],
        whole.metrics['consistency'],
        rtol=1e-3,  # but for its epsilon, and the bias before it
    )
    other = made | {'unlabelled': {'views': (plain, strong[::-1] ** 2)}}
    found = outcome(method, params, state, other)
    close(found.metrics['supervised'], whole.metrics['supervised'])
    assert abs(found.metrics['consistency'] - whole.metrics['consistency']) > 1e-3


def test_the_average_is_evaluated():
    method = uda(Linear(), CLASSES, momentum=0.7)
    start = begin(method)
    target = start[1].target
    for params, state, _ in train(method, *start, [data(n) for n in range(3)]):
        target = jax.tree.map(lambda t, p: 0.7 * t + 0.3 * p, target, params)
        close(state.target, target)
    with jax.enable_x64(True):
        found = method.features(params, state, data())['logits']
    np.testing.assert_allclose(found, logits(target, data()['views'][0]), rtol=1e-9)
    assert method.variables(params, state)['params'] is state.target


def test_what_cannot_be_is_refused():
    method = uda(Linear(), CLASSES)
    with pytest.raises(Problem, match='there are 2 and 0'):
        method.init(jax.random.key(0), batch(2))
    made = data()
    made['unlabelled'] = {'views': tuple(x[:, :2] for x in made['unlabelled']['views'])}
    with pytest.raises(Problem, match=r'config\.unlabelled\.views: as large as'):
        method.init(jax.random.key(0), made)
    with pytest.raises(Problem, match='has one group'):
        uda(Linear(), CLASSES, bn_groups=2)
    with pytest.raises(Problem, match='annealing'):
        uda(Linear(), CLASSES, annealing='linea')
    with pytest.raises(Problem, match='needs labels'):
        uda(Linear(), 0)
