"""What a policy keeps of a block, in the program of its gradient; that results are the same is tested
with each encoder."""

import jax
import jax.numpy as jnp
import pytest

from clr_jax import networks
from clr_jax.encoders.vit import vit
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import Network

TINY = {'width': 8, 'depth': 3, 'heads': 2, 'patch': 4, 'image_size': 8}
X = jnp.zeros((2, 8, 8, 3))


def products(remat: str) -> int:
    """How many matrix products the gradient has for one block, in the bodies of its loops."""
    network = Network(vit(**TINY, remat=remat))
    params, _ = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), X))
    loss = lambda params: networks.apply(network, params, {}, X)[0].h.sum()
    return str(jax.make_jaxpr(jax.grad(loss))(params)).count('dot_general[')


def test_a_policy_keeps_products_with_kernels_or_nothing():
    """A block has four of them, of which the last one's result is in no gradient, and two of attention."""
    kept = products('')
    assert products('dots') == kept + 2
    assert products('full') == kept + 5


def test_a_policy_that_does_not_exist_is_a_problem_of_one_line():
    with pytest.raises(Problem, match='^encoder.remat: no "dot"; ') as problem:
        products('dot')
    assert problem.value.code == CONFIG
