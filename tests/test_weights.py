"""Files of weights: what they hold enters a run, or one line says why not."""

import jax
import numpy as np
import pytest

from clr_jax import parallel, train, weights
from clr_jax.encoders import vit
from clr_jax.entry import INPUT, Problem
from tests.conftest import resolved


def start(**pretrained):
    """What the smoke form of a config with a vit takes from elsewhere, and its encoder's shapes."""
    config = resolved('mae_cifar10_small', 'smoke')
    config['pretrained'] |= pretrained
    run, mesh = train.describe(config, 1000, 10), parallel.make_mesh(jax.devices()[:1])
    shapes = train.state_shapes(run, mesh)
    like = jax.eval_shape(run.method.variables, shapes.params, shapes.state)['params']['encoder']
    return like, lambda: train.others(config, run, mesh)


def written(path, change=lambda params: params):
    like, _ = start()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like)
    weights.write(path, vit.to_weights(change(params)))
    return params


def test_a_file_of_weights_is_what_a_run_starts_from(tmp_path):
    path = str(tmp_path / 'vit.safetensors')
    params = written(path)
    taken = start(weights=path)[1]()
    assert taken['params'].keys() == {'encoder'}
    jax.tree.map(np.testing.assert_array_equal, taken['params']['encoder'], params)
    assert start()[1]() is None


def test_other_precisions_become_float32(tmp_path):
    path = str(tmp_path / 'vit.safetensors')
    params = written(path, lambda params: jax.tree.map(lambda x: x.astype(np.float16), params))
    taken = start(weights=path)[1]()['params']['encoder']
    assert {x.dtype for x in jax.tree.leaves(taken)} == {np.dtype('float32')}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6), taken, params)


def refused(**pretrained):
    with pytest.raises(Problem) as problem:
        start(**pretrained)[1]()
    assert '\n' not in str(problem.value)
    return str(problem.value), problem.value.code


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    path = str(tmp_path / 'vit.safetensors')
    where = f'config.pretrained.weights={path}'
    missing = str(tmp_path / 'none.safetensors')
    assert refused(weights=missing) == (
        f'{missing} cannot be read: No such file or directory',
        INPUT,
    )
    weights.write(path, {'fc.weight': np.ones((2, 2))})
    assert refused(weights=path)[0].startswith(f'{where}: these are not the weights of a ViT')

    def shorter(params):
        return params | {'blocks': jax.tree.map(lambda x: x[:1], params['blocks'])}

    written(path, shorter)
    message, _ = refused(weights=path)
    assert message.startswith(f'{where}: blocks/fc1/bias is float32[1, ')
    (tmp_path / 'vit.safetensors').write_bytes(b'\x10' + b'\0' * 20)
    assert refused(weights=path)[0].startswith(f'{path} is not a safetensors file')
    both = refused(weights=path, workdir='runs/other')[0]
    assert both == 'config.pretrained: either a workdir or a file of weights, not both'


def test_an_encoder_without_a_reader_says_so():
    from clr_jax.encoders.convnet import convnet

    with pytest.raises(Problem, match='weights=x: an encoder convnet reads no such files'):
        weights.encoder_weights('x', convnet(), {})
