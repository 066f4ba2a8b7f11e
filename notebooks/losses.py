# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The losses, one by one
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clr-jax/clr_jax/blob/main/notebooks/losses.ipynb)
#
# Every loss is a function of arrays. Here each is called on a small batch, with its value and the length of its gradient. In
# training the same functions see one shard's rows inside `parallel.shard` and are exact for the whole batch.

# %% tags=["parameters"]
steps = 100

# %%
import sys

if 'google.colab' in sys.modules:  # Colab has its own JAX and TensorFlow: leave them as they are
    from IPython import get_ipython

    shell = get_ipython().system
    shell("pip install -q --no-deps 'clr_jax @ git+https://github.com/clr-jax/clr_jax'")
    shell(
        'pip install -q clu ml-collections orbax-checkpoint importlib_resources tensorflow-datasets'
    )

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from clr_jax.evaluate.features import Features
from clr_jax.evaluate.knn import Knn, knn
from clr_jax.losses.contrastive import (
    bilinear,
    clip,
    critic,
    debiased,
    hard_negative,
    info_nce,
    invariant_spread,
    margin,
    mutual_information_bound,
    nce,
    nt_logistic,
    nt_xent,
    sigmoid,
    sup_con,
)
from clr_jax.losses.decorrelation import barlow_twins, vicreg
from clr_jax.losses.metric import contrastive, n_pair, triplet, triplet_mined
from clr_jax.networks import normalize

# %% [markdown]
# A batch: 8 examples of 4 classes, two views of each, 16 dimensions. Views of an example are alike, those of a class a little.

# %%
keys = jax.random.split(jax.random.key(0), 4)
label = jnp.arange(8) % 4
of_class = jax.random.normal(keys[0], (4, 16))[label]  # [8, 16]
of_example = of_class + jax.random.normal(keys[1], (8, 16))  # [8, 16]
z = of_example[:, None] + 0.5 * jax.random.normal(keys[2], (8, 2, 16))  # [8, 2, 16]
x, y = normalize(z[:, 0]), normalize(z[:, 1])  # [8, 16] each
memory = normalize(jax.random.normal(keys[3], (32, 16)))  # [32, 16] of other examples


def show(loss, *arrays):
    """Value and length of the gradient in the first array."""
    value, gradient = jax.value_and_grad(loss)(*arrays)
    print(f'loss {value:.3f}, gradient {jnp.linalg.norm(gradient):.3f}')


# %% [markdown]
# ## Two views of each example
#
# **NT-Xent** (SimCLR): which of the other 15 views is the sibling? By chance it would be log 15 = 2.708.

# %%
show(lambda z: nt_xent(z, temperature=0.5), z)

# %% [markdown]
# With a **memory** of earlier examples as further negatives (SimCLR v2).

# %%
show(lambda z: nt_xent(z, temperature=0.5, negatives=memory), z)

# %% [markdown]
# **NT-Logistic**: each pair by itself, positive or negative? **Mining** leaves the semi-hard negatives.

# %%
for mining in ('all', 'semi_hard'):
    show(lambda z: nt_logistic(z, temperature=0.5, mining=mining), z)

# %% [markdown]
# **Margin**: the positive should be more similar than a negative by 0.4; the rest costs nothing.

# %%
for mining in ('all', 'semi_hard'):
    show(lambda z: margin(z, 0.4, mining=mining), z)

# %% [markdown]
# **Invariant and spreading** (Ye et al.): a view is recognised from its sibling and from no other; the candidates are constants.

# %%
show(lambda z: invariant_spread(z, temperature=0.5), z)

# %% [markdown]
# **Debiased**: two of the 14 negatives are really of the same class here, and their part is taken out.

# %%
show(lambda z: debiased(z, temperature=0.5, tau_plus=1 / 7), z)

# %% [markdown]
# **Hard negatives** weigh more, the more `beta`.

# %%
for beta in (0.0, 1.0, 2.0):
    show(lambda z: hard_negative(z, temperature=0.5, tau_plus=1 / 7, beta=beta), z)

# %% [markdown]
# ## Labels
#
# **SupCon**: all views of a class are positives; -1 means that the label is not known.

# %%
show(lambda z: sup_con(z, label, temperature=0.5), z)
show(lambda z: sup_con(z, label.at[6:].set(-1), temperature=0.5), z)

# %% [markdown]
# ## Pairs
#
# **InfoNCE**: which key belongs to the query? It bounds the mutual information of the two, by log 8 = 2.079 at most.

# %%
show(lambda x: info_nce(x, y, temperature=0.1), x)
loss = info_nce(x, y, temperature=0.1)
print(f'at least {mutual_information_bound(loss, candidates=8):.3f} nats')

# %% [markdown]
# The score may be learned: a **bilinear form** of a context and what it predicts (CPC), or a **critic**, a small network.

# %%
show(lambda weights: info_nce(x, y, 1.0, score=bilinear(weights)), jnp.eye(16))
params = {'kernel1': 0.1 * jax.random.normal(keys[3], (32, 64)), 'bias1': jnp.zeros(64)}
params |= {'kernel2': 0.1 * jax.random.normal(keys[0], (64, 1)), 'bias2': jnp.zeros(1)}
show(lambda x: info_nce(x, y, 1.0, score=critic(params)), x)

# %% [markdown]
# **CLIP**: which text belongs to the image, and which image to the text? The scale of the logits is learned too.

# %%
show(lambda x: clip(x, y, jnp.log(1 / 0.07)), x)

# %% [markdown]
# **Sigmoid** (SigLIP): each image with each text, a pair or not, summed over the texts. At first the bias says no to all.

# %%
show(lambda x: sigmoid(x, y, jnp.log(10.0), -10.0), x)

# %% [markdown]
# In **chunks** of columns the same loss needs no matrix of all pairs: for large batches, where it is the default.

# %%
show(lambda x: clip(x, y, jnp.log(1 / 0.07), chunk=3), x)

# %% [markdown]
# **NCE**: is it the example, or one of m = 32 draws from the noise? For normalised models, or one whose normaliser is known.

# %%
log_p = lambda x: jnp.sum(x * y, -1) / 0.1  # [8]
log_noise = jnp.log(32) + 0.0  # m times the density, 1 here
show(lambda x: nce(log_p(x), x @ memory.T / 0.1, log_noise), x)

# %% [markdown]
# **N-pair**: InfoNCE of dot products, whose lengths are kept short by `l2`.

# %%
show(lambda x: n_pair(x, y, l2=0.01), x)

# %% [markdown]
# ## Decorrelation
#
# Two views without negatives: what keeps them from collapse is the batch's statistics. **Barlow Twins**: each dimension should
# correlate with itself in the other view, 1, and with no other, 0. The loss comes with its terms, before their weights.

# %%
views = z[:, 0, :8] / 2, z[:, 1, :8] / 2  # 8 dimensions, not of unit length
show(lambda x: barlow_twins(x, views[1])[0], views[0])
_, terms = barlow_twins(*views)
print({name: f'{term:.3f}' for name, term in terms.items()})

# %% [markdown]
# **VICReg**: the views are alike, each dimension has a standard deviation of at least 1, and no two covary.

# %%
show(lambda x: vicreg(x, views[1])[0], views[0])
_, terms = vicreg(*views)
print({name: f'{term:.3f}' for name, term in terms.items()})

# %% [markdown]
# ## Distances
#
# **Contrastive** (Hadsell et al.): the same are drawn together, others pushed to the margin.

# %%
other = jnp.array([4, 5, 6, 7, 1, 2, 3, 0])
same = label == label[other]
show(lambda x: contrastive(x, x[other], same, margin=1.5), x)

# %% [markdown]
# **Triplets** that are given: the other view is closer than another example.

# %%
show(lambda x: triplet(x, y, jnp.roll(y, 1, 0), margin=1.5), x)

# %% [markdown]
# ## Mining
#
# The triplets of a labelled batch: `all` of them, the `hard` ones, which are the farthest of the own class with the nearest of
# another, or the `semi_hard`, with the nearest of another class that is farther.

# %%
for mining in ('all', 'hard', 'semi_hard'):
    print(mining, end=': ')
    show(lambda x: triplet_mined(x, label, margin=0.5, mining=mining), x)

# %% [markdown]
# ## Train
#
# A linear map of scikit-learn's digits to three dimensions. Nearest neighbours of test images, before and after.

# %%
digits = load_digits()
images, test_images, labels, test_labels = train_test_split(
    digits.data.astype('float32') / 16, digits.target, test_size=0.3, random_state=0
)


def embed(kernel, images):
    return normalize((images - images.mean(1, keepdims=True)) @ kernel)


def accuracy(kernel):
    train, test = (
        Features(np.asarray(embed(kernel, x)), y)
        for x, y in ((images, labels), (test_images, test_labels))
    )
    return knn(Knn(), train, test, classes=10)['top1']


def learn(loss):
    """-> kernel [64, 3] after `steps` steps of Adam on batches of 128."""
    kernel = 0.1 * jax.random.normal(jax.random.key(0), (64, 3))
    optimizer = optax.adam(0.01)
    opt = optimizer.init(kernel)

    @jax.jit
    def step(kernel, opt, images, labels):
        gradient = jax.grad(lambda kernel: loss(embed(kernel, images), labels))(kernel)
        updates, opt = optimizer.update(gradient, opt)
        return optax.apply_updates(kernel, updates), opt

    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = rng.choice(len(images), 128, replace=False)
        kernel, opt = step(kernel, opt, images[batch], labels[batch])
    return kernel


start = 0.1 * jax.random.normal(jax.random.key(0), (64, 3))
kernels = {
    'triplet_mined': learn(lambda z, label: triplet_mined(z, label, 0.2, mining='semi_hard')),
    'sup_con': learn(lambda z, label: sup_con(z[:, None], label, 0.1)),
}
for name, kernel in kernels.items():
    print(f'{name}: kNN before {accuracy(start):.3f}, after {accuracy(kernel):.3f}')

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 4))
for axis, (name, kernel) in zip(axes, {'random': start, **kernels}.items(), strict=True):
    axis.scatter(*embed(kernel, test_images)[:, :2].T, c=test_labels, cmap='tab10', s=8)
    axis.set(title=name, aspect='equal')
    axis.axis('off')
plt.show()
