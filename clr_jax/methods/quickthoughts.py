"""Quick thoughts (Logeswaran & Lee, 2018; arXiv:1803.02893): a sentence tells the one beside it in
running text from the other sentences of the batch."""

import flax.linen as nn
import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.losses.contrastive import info_nce, mutual_information_bound
from clr_jax.method import Aux, Method, State, check_views, features
from clr_jax.networks import Network


class Thoughts(Network):
    """h of a sentence is what both encoders say of it, f and g side by side."""

    context: nn.Module | None = None  # g; without one it is f

    def encode(self, x, rows):
        f = super().encode(x, rows)
        return f if self.context is None else jnp.concatenate([f, self.context(x, rows)], -1)


def quickthoughts(encoder, *, shared=False, bn_groups=1) -> Method:
    """The views are two sentences in a row. exp(f(s) . g(t)) is in proportion to the probability that t
    is beside s (section 3): the classifier has no parameters, so that all is learned by the
    encoders. Candidates are all sentences of the global batch but s itself, and the second sentence
    looks for the first one as the first does for the second.

    shared: one encoder is f and g. Otherwise g is a copy of another initialisation, and h is both
    [f, g]; what other runs start from, and config.pretrained, is f. `bn_groups`: every method is
    given it; here only the encoder may have batch norm.
    """
    network = Thoughts(encoder, context=None if shared else encoder.clone())

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        outs, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        h = networks.stack(outs).h  # [b, 2, d]
        f, g = (h, h) if shared else jnp.split(h, 2, -1)

        def among(this, other):
            """The sentences `this` find those beside them, the `other`s, among all but themselves."""
            others = {'hard': g[:, this], 'hard_weight': -jnp.inf}
            return info_nce(f[:, this], g[:, other], 1.0, **others)

        value = (among(0, 1) + among(1, 0)) / 2
        candidates = 2 * len(h) * parallel.size() - 1
        metrics = {
            'information': mutual_information_bound(value, candidates),
            'information_ceiling': jnp.log(candidates),
        }
        return value, Aux(State(stats), metrics, h, jnp.stack([f[:, 0], g[:, 1]], 1))

    return Method(init, loss, features(network))
