"""The kernels for TPUs: as interpreted here they are the equations, and the compiler for TPUs takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from clr_jax.losses import pallas
from clr_jax.losses.contrastive import clip, nt_xent, sup_con
from clr_jax.preflight import topologies
from tests import oracles
from tests.losses.cases import normal
from tests.oracles import assert_close

D = 24
Z, LABEL = normal(128, 2, D), np.random.default_rng(1).integers(-1, 9, 128)
IMAGE, TEXT = normal(256, D, seed=2), normal(256, D, seed=3)


def of_rows(name):
    """A loss of this shard's rows of arrays, in chunks or blocks, its arrays and its value."""
    label = lambda z: jnp.asarray(LABEL)[parallel.positions(len(z))]
    return {
        'nt_xent': (lambda z: nt_xent(z, 0.2, chunk=128), (Z,), oracles.nt_xent(Z, 0.2)),
        'sup_con': (
            lambda z: sup_con(z, label(z), 0.2, chunk=128),
            (Z,),
            oracles.sup_con(Z, LABEL, 0.2),
        ),
        'clip': (
            lambda x, y: clip(x, y, 2.0, chunk=128),
            (IMAGE, TEXT),
            oracles.clip(IMAGE, TEXT, 2.0),
        ),
    }[name]


def value_and_gradient(loss, mesh):
    """The jitted step of a loss whose arrays are spread over the mesh."""
    rows = P(parallel.DATA)

    def step(arrays):
        return jax.value_and_grad(lambda arrays: parallel.mean(loss(*arrays)))(arrays)

    return jax.jit(parallel.shard(step, mesh, (rows,), (P(), rows)))


@pytest.mark.parametrize('name', ['nt_xent', 'sup_con', 'clip'])
def test_kernels_are_the_equation(name, monkeypatch):
    """In value; in gradient, the scan over chunks, which its own test has beside the equation."""
    loss, arrays, expected = of_rows(name)
    mesh = parallel.make_mesh(jax.devices()[:2])
    arrays = tuple(jnp.asarray(x) for x in arrays)
    monkeypatch.setattr(pallas, 'ROWS', 64)  # several blocks
    monkeypatch.setattr(pallas, 'COLUMNS', 128)
    with jax.default_matmul_precision('highest'):
        _, in_chunks = value_and_gradient(loss, mesh)(arrays)
        monkeypatch.setattr(lax, 'platform_dependent', lambda *, tpu, default: tpu())
        with pltpu.force_tpu_interpret_mode():
            value, grads = value_and_gradient(loss, mesh)(arrays)
    assert_close(value, expected, 1e-5)
    for grad, true in zip(grads, in_chunks, strict=True):
        assert_close(grad, true, 1e-5)


@pytest.mark.parametrize(
    ('precision', 'brief'), [(None, True), ('bfloat16', True), ('high', False), ('highest', False)]
)
def test_products_have_at_least_the_precision_that_is_asked_for(precision, brief):
    x = jnp.ones((128, 8))
    with jax.default_matmul_precision(precision):
        assert ('bf16' in str(jax.make_jaxpr(lambda x: pallas.sums(x, x)[0])(x))) == brief


def test_what_does_not_fill_registers_is_left_to_chunks():
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    assert pallas.blocks(shape(2048, 128), shape(2**19, 128)) == (256, 1024)
    assert pallas.blocks(shape(48, 2048), shape(384, 2048)) == (16, 128)
    assert pallas.fits(shape(48, 2048), shape(384, 2048))
    assert not pallas.fits(shape(24, 8), shape(384, 8))
    assert not pallas.fits(shape(48, 8), shape(192, 8))


@pytest.mark.parametrize(
    ('pod', 'name'),
    [
        *(('v5e:2x2', 'nt_xent'), ('v5e:2x2', 'clip')),
        *((pod, 'sup_con') for pod in ('v5e:2x2', 'v5p:2x2x1', 'v6e:2x2')),
    ],
)
def test_the_compiler_takes_them(pod, name, libtpu):
    mesh = parallel.make_mesh(topologies.devices(topologies.parse(pod)))
    loss, arrays, _ = of_rows(name)
    place = NamedSharding(mesh, P(parallel.DATA))
    given = tuple(
        jax.ShapeDtypeStruct((2048, *x.shape[1:]), x.dtype, sharding=place) for x in arrays
    )
    text = value_and_gradient(loss, mesh).lower(given).compile().as_text()
    both = {'nt_xent': 2, 'sup_con': 2, 'clip': 6}[name]
    assert text.count('custom_call_target="tpu_custom_call"') == both
