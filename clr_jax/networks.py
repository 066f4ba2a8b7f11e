"""Networks: encoder h, projector z, predictor p, and the layers every encoder shares.

The only file that touches Linen's init, apply and mutable collections. Modules take `rows`, the
global numbers of their examples [b] in training and None in evaluation: what is random is random by
example, whichever device holds it.
"""

import inspect
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from clr_jax import parallel
from clr_jax.entry import Problem, known

# He initialisation as in the ResNets of the papers (fan-out, normal).
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Outputs(NamedTuple):
    """What a network says of its input rows."""

    h: jax.Array  # [n, d] features, what we keep
    z: jax.Array  # [n, e] projection, what the loss sees
    p: jax.Array  # [n, e] prediction (z itself without a predictor)


class Network(nn.Module):
    """x -> features h -> projection z -> prediction p."""

    encoder: nn.Module
    projector: nn.Module | None = None
    predictor: nn.Module | None = None

    def __call__(self, x, rows=None):
        return self.project(self.encode(x, rows), rows)

    def encode(self, x, rows):
        """Images [n, ...] -> features h [n, d]."""
        if rows is not None and (isinstance(rows, bool) or rows.ndim != 1):
            raise TypeError(
                'rows: the [n] global numbers of the examples in training, None in evaluation'
            )
        return self.encoder(x, rows)

    def project(self, h, rows):
        """Features -> `Outputs`."""
        z = h if self.projector is None else self.projector(h, rows)
        return Outputs(h, z, z if self.predictor is None else self.predictor(z, rows))


def init(network: nn.Module, key, x, pretrained=None, **given):
    """-> (params, batch statistics), on shapes alone; the parts that `pretrained` has are its.
    given: what else the network takes by keyword."""
    variables = network.init(key, jnp.zeros_like(view(x)), **given)
    params, stats = variables['params'], variables.get('batch_stats', {})
    if pretrained is None:
        return params, stats
    return params | pretrained['params'], stats | pretrained['batch_stats']


def select(variables, parts: Sequence[str]):
    """The named parts of a network's variables {'params': {part: ...}, 'batch_stats': {...}}."""
    return {kind: {n: tree[n] for n in parts if n in tree} for kind, tree in variables.items()}


def apply(network: nn.Module, params, stats, x, *, key=None, rows=None, method='__call__', **given):
    """Training mode on this shard's rows x [b, ...] -> (outputs, new batch statistics). key: without
    one nothing is random. method: the part of the network that takes x. given: what else it takes."""
    x = view(x)
    rows = parallel.positions(len(x)) if rows is None else rows
    rngs = {} if key is None else {'dropout': key}
    variables = {'params': params, 'batch_stats': stats}
    how = {'rngs': rngs, 'mutable': ['batch_stats'], 'method': method}
    outputs, updated = network.apply(variables, x, rows, **how, **given)
    return outputs, updated.get('batch_stats', {})


def apply_views(
    network: Network, params, stats, views: Sequence[jax.Array], *, key=None, joint=True
):
    """Training mode, one pass of the encoder for each resolution: views [b, ...] of one shape share a
    batch and its statistics; then one of the heads for all views, as in SwAV's multi-crop (Caron et
    al., 2020; arXiv:2006.09882). `joint`=False: one pass of both for each view.

    They are stacked example-major, [b, v, ...] flattened, so that rows keep their global numbers on
    any device count. -> (outputs per view, new batch statistics)
    """
    resolutions: dict = {}
    for i, x in enumerate(views):
        resolutions.setdefault(x.shape if joint else i, []).append(i)
    encoding = list(resolutions.values())
    heads = [list(range(len(views)))] if joint else encoding
    number = itertools.count()

    def through(method, passes, views, stats):
        made: list = [None] * len(views)
        for same in passes:
            x = jnp.stack([views[i] for i in same], 1)  # [b, v, ...]
            b, v, *shape = x.shape
            # rows of two passes share their numbers, so each pass has a key
            own = None if key is None else jax.random.fold_in(key, next(number))
            x = x.reshape(b * v, *shape)
            y, stats = apply(network, params, stats, x, key=own, method=method)
            for n, i in enumerate(same):
                made[i] = jax.tree.map(lambda y, n=n: y.reshape(b, v, *y.shape[1:])[:, n], y)
        return made, stats

    features, stats = through('encode', encoding, views, stats)
    return through('project', heads, features, stats)


def stack(outputs: Sequence[Outputs]) -> Outputs:
    """Outputs of v views, [b, ...] each -> [b, v, ...]."""
    return jax.tree.map(lambda *views: jnp.stack(views, 1), *outputs)


def evaluate(network: nn.Module, params, stats, x, **given):
    """Evaluation mode: running statistics, nothing random."""
    return network.apply({'params': params, 'batch_stats': stats}, view(x), **given)


def in_pieces(kinds: tuple[type, ...], pieces: int):
    """A context in which modules of these `kinds` take their rows in as many pieces, one after the other,
    that the backward pass computes again: calls of methods (x [n, ...], rows [n] or None, ...), where
    all that is given and said is by row."""
    within = False

    def interceptor(call, args, kwargs, context):
        nonlocal within
        takes_rows = 'rows' in inspect.signature(context.orig_method).parameters
        if within or not takes_rows or not isinstance(context.module, kinds):
            return call(*args, **kwargs)
        within = True
        try:
            return _loop(context.module, context.method_name, (args, kwargs), pieces)
        finally:
            within = False

    return nn.intercept_methods(interceptor)


def _loop(module: Any, name: str, given, pieces: int):
    alone, variables = module.unbind()

    def one(given):
        args, kwargs = given
        # keys that know where the module is in its network, so that it draws what it would there
        return alone.apply(variables, *args, rngs=module.scope.rngs, method=name, **kwargs)

    cut = lambda x: x.reshape(pieces, -1, *x.shape[1:])  # [pieces, n / pieces, ...]
    said = lax.map(jax.checkpoint(one, prevent_cse=False), jax.tree.map(cut, given))
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), said)  # [n, ...]


def sown(module: nn.Module, params, x):
    """What a module without batch statistics sows on its way, in evaluation mode."""
    _, seen = module.apply({'params': params}, x, None, mutable=['intermediates'])
    return seen['intermediates']


def view(x):
    """A view as the network sees it, in float32: the bytes of pixels 0..255 become 0..1, the 16-bit
    integers of a recording -1..1 (excluding 1); all else passes."""
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 255
    return x.astype(jnp.float32) / 2**15 if x.dtype == jnp.int16 else x


def standardize(x, mean, std):
    """(x - mean) / std of pixels x [n, h, w, c], channel by channel; encoders begin with it."""
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def sobel(x):
    """The Sobel filters of the mean over colours, [n, h, w, c] -> [n, h, w, 2]: how much brighter it
    is to the left than to the right, and above than below; beyond the image are zeros."""

    def filtered(x):  # [n, h + 2, w + 2] -> [n, h, w]
        x = x[:, :, :-2] - x[:, :, 2:]
        return x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]

    gray = jnp.pad(x.mean(-1), ((0, 0), (1, 1), (1, 1)))
    return jnp.stack([filtered(gray), filtered(gray.mT).mT], -1)


def wide(x):
    """x in float32 at least: for sums, norms and exponentials."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pool(x):
    """Global average pooling [n, h, w, c] -> [n, c], in float32 at least."""
    return wide(x).mean((1, 2))


def normalize(x, axis=-1):
    """x / |x| along `axis`, in float32 at least; a zero vector stays zero, with a finite gradient."""
    x = wide(x)
    return x * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis, keepdims=True), 1e-12))


class BatchNorm(nn.Module):
    """Batch normalisation over the global batch, or over `groups` contiguous parts of its rows.

    Statistics are float32 whatever the input; running averages keep the biased variance, as Flax
    and TensorFlow do. The result does not depend on the number of devices.
    """

    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, rows):
        c = x.shape[-1]
        mean = self.variable('batch_stats', 'mean', jnp.zeros, (c,))
        var = self.variable('batch_stats', 'var', jnp.ones, (c,))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        if rows is None:
            y, mu, sigma2 = x, mean.value, var.value
        else:
            number, held, axes = parallel.parts(rows, self.groups)
            y = x.astype(wide)
            if held > 1:
                share = jax.nn.one_hot(number, held, dtype=wide) * held / len(y)  # [n, groups here]

            def moment(y):  # -> [groups here, c]; no axes are merged: XLA is slow at that on a CPU
                if held == 1:
                    return y.mean(tuple(range(y.ndim - 1)))[None]
                each = y.mean(tuple(range(1, y.ndim - 1)))  # [n, c]
                return jnp.matmul(share.T, each, precision=lax.Precision.HIGHEST)

            # both in one all-reduce
            mu, power = parallel.mean((moment(y), moment(jnp.square(y))), axes)
            sigma2 = jnp.maximum(power - jnp.square(mu), 0)
            others = tuple(axis for axis in parallel.DATA if axis not in axes)
            for running, new in ((mean, mu), (var, sigma2)):
                fresh = parallel.mean(lax.stop_gradient(new).mean(0), others)
                running.value = self.momentum * running.value + (1 - self.momentum) * fresh
            if held > 1:
                mu, sigma2 = mu[number], sigma2[number]  # [n, c]
            mu, sigma2 = (m.reshape(-1, *(1,) * (y.ndim - 2), c) for m in (mu, sigma2))
        factor = lax.rsqrt(sigma2 + self.epsilon)
        if self.use_scale:
            factor = factor * self.param('scale', self.scale_init, (c,))
        offset = -mu * factor
        if self.use_bias:
            offset = offset + self.param('bias', nn.initializers.zeros, (c,))
        y = y * factor.astype(wide) + offset.astype(wide)
        return y.astype(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016; arXiv:1607.06450) of the channels at each place by
    themselves, in float32 at least; called as a BatchNorm is."""

    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, rows):
        c = x.shape[-1]
        y = wide(x)
        y = y - y.mean(-1, keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        y = y * self.param('scale', self.scale_init, (c,))
        return (y + self.param('bias', nn.initializers.zeros, (c,))).astype(x.dtype)


def normalization(name: str, bn_groups: int) -> Callable:
    """What an encoder's setting `norm` means: 'batch' or 'layer' -> a module of (x, rows)."""
    norms: dict[str, Callable] = {'batch': partial(BatchNorm, groups=bn_groups), 'layer': LayerNorm}
    known([name], norms, 'config.encoder.norm')
    return norms[name]


class Dropout(nn.Module):
    """Dropout whose mask depends on the example, not on the device that holds it."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, rows):
        if rows is None or not self.rate or not self.has_rng('dropout'):
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng('dropout'), rows)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), 0)


class Conv(nn.Module):
    """A convolution of images, [b, h, w, c] -> [b, h', w', features], or of sequences, [b, t, c] ->
    [b, t', features].

    padding: 'SAME' (TensorFlow: uneven when strided), 'torch' (kernel // 2 on each side) or a number
    of pixels on each side. On a CPU it runs as patches and one matrix product, which is faster
    there (`benchmarks/cpu_step.py`); `form` fixes one of the two.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: str | int = 'SAME'
    form: str = 'auto'  # auto | direct | patches
    bias: bool = False
    kernel_init: Callable = he_normal
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        axes = x.ndim - 2
        kernel, strides = (self.kernel,) * axes, (self.stride,) * axes
        w = self.param('kernel', self.kernel_init, (*kernel, x.shape[-1], self.features))
        x, w = nn.dtypes.promote_dtype(x, w, dtype=self.dtype)
        pads = lax.padtype_to_pads(x.shape[1:-1], kernel, strides, 'SAME')
        if self.padding != 'SAME':
            side = self.kernel // 2 if self.padding == 'torch' else int(self.padding)
            pads = [(side, side)] * axes
        order = ('NHWC', 'HWIO', 'NHWC') if axes == 2 else ('NWC', 'WIO', 'NWC')
        forms = {
            'direct': lambda x, w: lax.conv_general_dilated(
                x, w, strides, pads, dimension_numbers=order
            ),
            'patches': lambda x, w: through_patches(x, w, self.stride, pads),
        }
        if self.form not in ('auto', *forms):
            raise Problem(f'encoder.conv={self.form}: auto, direct or patches')
        # decided when the program is lowered, so that a CPU machine still compiles for TPUs
        if self.form == 'auto':
            y = lax.platform_dependent(x, w, cpu=forms['patches'], default=forms['direct'])
        else:
            y = forms[self.form](x, w)
        if not self.bias:
            return y
        return y + self.param('bias', nn.initializers.zeros, (self.features,)).astype(y.dtype)


def through_patches(x, w, stride: int, pads):
    """The convolution of x [b, ..., c] with w [k, ..., c, f] as one matrix product -> [b, ..., f]."""
    k = len(w)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    sides = [(n - k) // stride + 1 for n in x.shape[1:-1]]
    cut = lambda i, n: slice(i, i + (n - 1) * stride + 1, stride)
    patches = jnp.concatenate(
        [
            x[:, *(cut(i, n) for i, n in zip(place, sides, strict=True))]
            for place in itertools.product(range(k), repeat=len(sides))
        ],
        -1,
    )  # [b, ..., k ... c]
    # two axes: XLA's CPU product needs them
    y = patches.reshape(-1, patches.shape[-1]) @ w.reshape(-1, w.shape[-1])
    return y.reshape(*patches.shape[:-1], -1)
