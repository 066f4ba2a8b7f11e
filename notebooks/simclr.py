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
# # SimCLR in minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/clr-jax/clr_jax/blob/main/notebooks/simclr.ipynb)
#
# Two random views of an image should agree, against all other images of the batch (Chen et al., 2020). This notebook trains a
# small ConvNet that way, without a single label, on scikit-learn's handwritten digits: nothing to download. The settings are for
# a small run, not for a published number; those are in `configs/`.

# %% tags=["parameters"]
steps = 600
dataset = {
    'name': 'digits'
}  # or {'name': 'tfds', 'dataset': 'cifar10'}, {'name': 'folder', 'path': 'my/images'}

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
import matplotlib.pyplot as plt
from sklearn.manifold import TSNE

from clr_jax import config as configs
from clr_jax import parallel, train
from clr_jax.data import pipeline, sources, views
from clr_jax.evaluate.features import extract, forward
from clr_jax.evaluate.knn import Knn, knn

print(f'{jax.device_count()} {jax.default_backend()} device(s)')

# %% [markdown]
# ## A config
#
# The same object that `python -m clr_jax.main --config=…` reads. A section with a `name` is a function's keyword arguments.

# %%
config = configs.default()
config.batch_size, config.steps = 128, steps
config.data = dataset
config.views.view = {
    'size': 8,
    'area': (0.4, 1.0),
    'ratio': (0.5, 2.0),
    'flip': 0.0,
    'brightness': 0.4,
    'contrast': 0.4,
    'saturation': 0.0,
    'hue': 0.0,
    'grayscale': 0.0,
    'blur': 0.0,
}
config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
config.method.update(name='simclr', projector=(128, 64), temperature=0.5)
config.optimizer = {
    'name': 'adamw',
    'learning_rate': 2e-3,
    'scaling': 'none',
    'weight_decay': 1e-4,
    'schedule': {},
}
config = configs.finish(config).to_dict()

data, test = (sources.load(config['data'], split) for split in ('train', 'test'))
run = train.describe(config, data.size, data.classes)
mesh = parallel.make_mesh()
batches = pipeline.train_batches(data, run.views, seed=0, batch_size=config['batch_size'])

# %% [markdown]
# ## Two views of each image

# %%
batch = next(batches)
figure, axes = plt.subplots(2, 10, figsize=(10, 2.2))
for view, row in zip(batch['views'], axes, strict=True):
    for image, axis in zip(view, row, strict=False):
        axis.imshow(image)
        axis.axis('off')
figure.suptitle('above and below: the same image, twice augmented')
plt.show()

# %% [markdown]
# ## Nearest neighbours before training
#
# The encoder is random so far. kNN looks up the labels of the nearest training images: no classifier is trained.

# %%
ts = train.make_state(run.method, run.optimizer, mesh, train.blank_batch(run, 2), seed=0)
encode = forward(run.method.features, mesh)

shown = views.evaluated(config)


def features(source):
    """Frozen features of a whole split."""
    return extract(lambda b: encode(ts.params, ts.state, b), mesh, source, shown)


before = knn(Knn(), features(data), features(test), data.classes)['top1']
print(f'kNN before training: {before:.3f}')

# %% [markdown]
# ## Train
#
# `train.make_step` is the step of every run, from this notebook to a pod: loss and gradient on every device, exact for the
# whole batch.

# %%
pace = {'steps_per_epoch': run.steps_per_epoch, 'total_steps': run.total_steps}
step = train.make_step(run.method, run.optimizer, mesh, seed=0, health_every=10, **pace)
history = []
for number in range(steps):
    ts, metrics = step(ts, parallel.spread(next(batches), mesh))
    if (number + 1) % 10 == 0:
        history.append(
            {name: float(value) for name, value in metrics.items()} | {'step': number + 1}
        )

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3))
for axis, name in zip(axes, ('loss', 'alignment', 'effective_rank'), strict=True):
    axis.plot([row['step'] for row in history], [row[name] for row in history])
    axis.set(title=name, xlabel='step')
plt.show()

# %% [markdown]
# ## Nearest neighbours after training

# %%
trained = features(test)
after = knn(Knn(), features(data), trained, data.classes)['top1']
print(f'kNN before {before:.3f}, after {after:.3f}')

# %% [markdown]
# ## The embedding
#
# t-SNE of the test images' features. The colours are labels, which training never saw.

# %%
points = TSNE(random_state=0, perplexity=min(30, len(trained.h) // 4)).fit_transform(trained.h)
plt.figure(figsize=(6, 6))
plt.scatter(*points.T, c=trained.label, cmap='tab10', s=12)
plt.axis('off')
plt.show()

# %% [markdown]
# Next: `python -m clr_jax.main --config=configs/simclr_cifar10_small.py`, your own images with `configs/simclr_folder.py`, and the
# published recipes beside them.
