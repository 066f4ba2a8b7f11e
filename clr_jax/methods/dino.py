"""DINO (Caron et al., 2021; arXiv:2104.14294): self-distillation. A student says of any crop what its
slowly moving copy, the teacher, says of a large one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import networks, parallel
from clr_jax.encoders.vit import ViT, attention_maps
from clr_jax.entry import Problem
from clr_jax.heads import MLP, WeightNormed, gelu
from clr_jax.method import Aux, Method, check_views, ema, rising
from clr_jax.networks import Network, wide


class DINOState(NamedTuple):
    stats: Any  # batch statistics of the student
    target: Any  # parameters of the teacher, an average of past params
    target_stats: Any  # its own batch statistics, not an average
    centre: jax.Array  # [K] running mean of the teacher's logits


def dino(
    encoder,
    *,
    projector=(2048, 2048, 256),
    projector_norm=None,
    prototypes=65536,
    norm_last_layer=True,
    temperature=0.1,
    teacher_temperature=0.04,
    warmup_temperature=0.04,
    warmup_epochs=0,
    momentum=0.996,
    centring=True,
    centre_momentum=0.9,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The first two views are the large crops, which teacher and student see; all others only the
    student. What h, z and `variables` keep is the teacher's.

    projector: widths up to the bottleneck, whose unit rows are z; projector_norm: None or of
    `heads.NORMS`. prototypes: K, the logits that the last layer, the predictor, has of z;
    norm_last_layer: its columns have length 1, else lengths that it learns. temperature: of the
    student; the teacher's rises in a line from warmup_temperature in epoch 0 to teacher_temperature
    in epoch warmup_epochs - 1. momentum: of the teacher, which begins as a copy, at the start; it
    rises to 1 by half a cosine. dtype: of the heads' computation.

    A teacher's sharpening, a temperature below the student's, and its centring keep each other from
    collapse (section 5.3): without centring one prototype wins, `teacher_entropy` falls to 0;
    without sharpening, teacher_temperature=1, say, all are equally likely, it rises to ln K. In
    both `kl`, of the student from the teacher, vanishes.

    The last layer does not learn in the first epoch, and each tensor's gradient is cut to length 3:
    groups with `freeze_until` and `clip` in the config.
    """
    temperatures = {'temperature': temperature, 'teacher_temperature': teacher_temperature}
    for name, value in (temperatures | {'warmup_temperature': warmup_temperature}).items():
        if not value > 0:
            raise Problem(f'config.method.{name}={value}: must be above 0')
    if warmup_epochs < 0:
        raise Problem(f'config.method.warmup_epochs={warmup_epochs}: at least 0')
    rise = np.linspace(warmup_temperature, teacher_temperature, int(warmup_epochs))
    by_epoch = np.append(rise, teacher_temperature)
    layers: dict = {'bias': True, 'last_norm': None, 'last_bias': True, 'kernel_std': 0.02}
    layers |= {'norm': projector_norm, 'activation': gelu, 'unit': True}
    project = MLP(tuple(projector), **layers, bn_groups=bn_groups, dtype=dtype)
    network = Network(encoder, project, WeightNormed(prototypes, not norm_last_layer, dtype))

    def init(key, batch, pretrained=None):
        check_views(batch, 2, more=True)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, DINOState(stats, params, stats, jnp.zeros(prototypes))

    def loss(params, state, batch, *, key, time):
        views = batch['views']
        student, stats = networks.apply_views(network, params, state.stats, views, key=key)
        large = state.target, state.target_stats, views[:2]
        teacher, target_stats = networks.apply_views(network, *large)  # without a key: no drop-path
        h, z, said = networks.stack(student)  # [b, v, d], [b, v, e], [b, v, K]
        told = wide(networks.stack(teacher).p)  # [b, 2, K]
        own = jnp.asarray(by_epoch, told.dtype)[jnp.minimum(time.epoch, len(rise))]
        target = jax.nn.log_softmax((told - state.centre) / own)
        target = jax.lax.stop_gradient(target)  # [b, 2, K]
        said = jax.nn.log_softmax(wide(said) / temperature)
        others = said.sum(1, keepdims=True) - said[:, :2]  # [b, 2, K], of all views but its own
        probability = jnp.exp(target)
        value = -(probability * others).sum(-1).mean() / (len(views) - 1)
        entropy = -(probability * target).sum(-1).mean()
        metrics = {'teacher_entropy': entropy, 'kl': value - entropy}
        if centring:
            mean = parallel.mean(told.mean((0, 1)))  # [K]
            state = state._replace(centre=ema(state.centre, mean, centre_momentum))
        state = state._replace(stats=stats, target_stats=target_stats)
        return value, Aux(state, metrics, h[:, :2], z[:, :2])

    def features(params, state, batch):
        out = networks.evaluate(network, state.target, state.target_stats, batch['views'][0])
        return {'h': out.h, 'z': out.z}

    def update(params, state, *, key, time):
        m = rising(momentum, time.progress)
        return params, state._replace(target=ema(state.target, params, m))

    def variables(params, state):
        return {'params': state.target, 'batch_stats': state.target_stats}

    def pictures(params, state, batch, *, key):
        """The picture and what each head of the last block's class token looks at, the most white."""
        x = networks.view(batch['views'][0])  # [n, h, w, 3]
        maps = attention_maps(encoder, state.target['encoder'], x)  # [n, heads, h / p, w / p]
        maps = maps / maps.max((2, 3), keepdims=True)
        maps = maps.repeat(encoder.patch, 2).repeat(encoder.patch, 3)[..., None]
        maps = jnp.broadcast_to(maps, (*maps.shape[:4], 3))  # [n, heads, h, w, 3]
        return {'attention': jnp.concatenate([x[:, None], maps], 1)}

    seen = pictures if isinstance(encoder, ViT) and encoder.pool == 'token' else None
    return Method(init, loss, features, update, variables, pictures=seen)
