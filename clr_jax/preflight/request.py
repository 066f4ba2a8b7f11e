"""From a config to a question that the compiler can answer without the data."""

import json
from pathlib import Path

from clr_jax import config as configs
from clr_jax.data import sources, subsets
from clr_jax.entry import DATA, INPUT, Problem

# Training examples and classes as published, of data sets that configs name and few have at hand.
PUBLISHED = {
    'imagenet2012': (1_281_167, 1000),
    'cifar10': (50_000, 10),
    'fashion_mnist': (60_000, 10),
    'stl10': (105_000, 10),  # with those without labels
    'imdb_reviews': (25_000, 2),
}


def request(
    config: dict, topology: str, slices: int, examples: int = 0, classes: int = -1
) -> tuple[dict, str]:
    """-> (the question, in words where the number of examples comes from).

    The program depends on these numbers by the probe, memories and the length of the run: given
    ones, else the published ones, else those of the data where it is prepared here, else ImageNet's.
    """
    if examples and classes >= 0:
        said = 'given'
    else:
        *known, said = _size(config)
        said = f'given in part, else {said}' if examples or classes >= 0 else said
        examples, classes = examples or known[0], classes if classes >= 0 else known[1]
    asked = {'topology': topology, 'slices': slices, 'examples': examples, 'classes': classes}
    config = _with_teacher(config, examples, classes)
    return {'config': json.loads(json.dumps(config))} | asked, said


def _size(config: dict) -> tuple[int, int, str]:
    data, subset = config['data'], config['subset']
    name = data.get('dataset', '')
    if name in PUBLISHED and '[' not in data['train']:  # a large one takes minutes to look at
        said = f'as published of {name}'
    else:
        name, said = 'imagenet2012', "assumed: ImageNet's; the data is not here"
        try:
            train = subsets.subset(sources.load(data, 'train'), **subset)
            return train.size, train.classes or 0, f'found here: {train.name}'
        except Problem as problem:
            if problem.code not in (INPUT, DATA):
                raise
    examples, classes = PUBLISHED[name]
    share = subset['per_class'] * classes or round(subset['fraction'] * examples)
    return share * subset['repeat'], classes, said


def _with_teacher(config: dict, examples: int, classes: int) -> dict:
    """As train.with_teacher, but the teacher's run need not be there: its config is then that of
    `configs/` by the name of its workdir."""
    where = config['teacher']['workdir']
    if not where:
        return config
    name = Path(where).name.removesuffix('_smoke')
    if (Path(where) / 'config.json').is_file():
        run = configs.saved(where)
    else:
        of = f'configs/{name}.py{":smoke" * where.endswith("_smoke")}'
        run = _with_teacher(configs.load(of).to_dict(), examples, classes)
    about = {'run': run, 'examples': examples, 'classes': classes}
    return config | {'teacher': config['teacher'] | about}
