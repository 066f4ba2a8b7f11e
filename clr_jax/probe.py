"""The online probe: a linear classifier trained beside any method on its stopped features, as a
wrapper of the method."""

import jax
import jax.numpy as jnp

from clr_jax.losses.classification import cross_entropy
from clr_jax.method import Method


def probed(method: Method, classes: int) -> Method:
    """`method` with a linear probe. Parameters become {'method': ..., 'probe': ...}; the method's
    own are untouched.

    The probe reads the training features h of every view under a stopped gradient, and the batch's
    `label` [b], where -1 means none. Give it its own optimizer: `optimizers.each({'method': ...,
    'probe': ...})`.
    """

    def init(key, batch, pretrained=None):
        params, state = method.init(key, batch, pretrained)
        h = jax.eval_shape(method.features, params, state, batch)['h']
        probe = {
            'kernel': jnp.zeros((h.shape[-1], classes), h.dtype),
            'bias': jnp.zeros((classes,), h.dtype),
        }
        return {'method': params, 'probe': probe}, state

    def loss(params, state, batch, *, key, time):
        value, aux = method.loss(params['method'], state, batch, key=key, time=time)
        h = jax.lax.stop_gradient(aux.h)  # [b, v, d]
        logits = h @ params['probe']['kernel'] + params['probe']['bias']  # [b, v, classes]
        probe_loss, top1 = cross_entropy(logits, batch['label'])
        # its gradient; its value is exactly 0
        value = value + (probe_loss - jax.lax.stop_gradient(probe_loss))
        return value, aux._replace(
            metrics=aux.metrics | {'probe_loss': probe_loss, 'probe_top1': top1}
        )

    def features(params, state, batch):
        return method.features(params['method'], state, batch)

    def update(params, state, *, key, time):
        inner, state = method.update(params['method'], state, key=key, time=time)
        return params | {'method': inner}, state

    def variables(params, state):
        return method.variables(params['method'], state)

    def refresh(params, state, features, *, key, time):
        inner, state = method.refresh(params['method'], state, features, key=key, time=time)
        return params | {'method': inner}, state

    def pictures(params, state, batch, *, key):
        return method.pictures(params['method'], state, batch, key=key)

    return Method(
        init,
        loss,
        features,
        update,
        variables,
        method.refresh and refresh,
        method.pictures and pictures,
    )
