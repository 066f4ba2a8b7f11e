"""An evaluation is a function of a checkpoint: it says which weights and settings it used, and changes nothing.

The baseline of raw pixels is compared with scikit-learn on scikit-learn's own digits.
"""

import hashlib
import json

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from clr_jax import config as configs
from clr_jax import networks, parallel
from clr_jax.checkpoint import Checkpoints, checksum
from clr_jax.data import index, sources
from clr_jax.data.augment import Central
from clr_jax.entry import CONFIG, INPUT, Problem
from clr_jax.evaluate import protocols
from clr_jax.evaluate.features import Features, extract, forward, pixels
from clr_jax.evaluate.knn import Knn, knn
from clr_jax.evaluate.linear import Linear
from clr_jax.evaluate.protocols import LABELLED, OF_TEXTS, PROTOCOLS, evaluate, few
from clr_jax.train import blank_batch, describe, make_state
from tests.conftest import config

STEPS = (3, 7)
VIEW = {'size': 8, 'crop': 1.0}
SHOWN = [Central(**VIEW)]


@pytest.fixture(scope='module')
def states():
    """{step: the state at that step} of a run, with weights that are not those of its start."""
    of = run_config()
    run = describe(of, 1437, 10)
    fresh = make_state(
        run.method, run.optimizer, parallel.make_mesh(), blank_batch(run, 2), seed=of['seed']
    )
    rng = np.random.default_rng(0)
    noise = lambda x: x * np.exp(rng.normal(size=x.shape)).astype(np.float32)
    moved = lambda step: jax.tree.map(
        lambda x: x + step if x.dtype == np.int32 else noise(x), fresh
    )
    return run, {0: fresh} | {step: moved(step) for step in STEPS}


def run_config() -> dict:
    of = config('simclr_digits')
    of.batch_size, of.views.view.size, of.evaluation.size = 64, 8, 8
    of.encoder.widths, of.method.projector = (4, 8), (4,)
    return of.to_dict()


def write_run(folder, states):
    configs.save(run_config(), folder)
    checkpoints = Checkpoints(folder)
    for step in STEPS:
        checkpoints.save(step, states[1][step], {'examples': 1437, 'classes': 10})
    checkpoints.close()
    return folder


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, states):
    """What such a run leaves behind; evaluations add lines to its results.jsonl."""
    return write_run(tmp_path_factory.mktemp('run'), states)


@pytest.fixture(scope='module')
def records(workdir):
    """Those of kNN with its baselines, on all labels."""
    return evaluate(workdir, 'knn', baselines=True)


def contents(workdir) -> dict:
    """{file: digest} of all but the results."""
    files = (p for p in workdir.rglob('*') if p.is_file() and p.name != 'results.jsonl')
    return {str(p.relative_to(workdir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def digits() -> tuple[Features, Features]:
    """(train, test): the pixels, in -0.5..0.5, of scikit-learn's digits, split as the run's are."""
    data = load_digits()
    order = index.permutation(np.arange(1797), 1797, index.key(0))
    grey = np.round(data.images * (255 / 16)).reshape(1797, 64, 1) / 255 - 0.5
    h = np.repeat(grey, 3, 2).reshape(1797, 192).astype(np.float32)
    return tuple(
        Features(h[part], data.target[part].astype(np.int32)) for part in (order[360:], order[:360])
    )


def neighbours(train: Features, test: Features, protocol: Knn) -> tuple[float, float]:
    """The least and the most top-1 can be by scikit-learn in float64, as votes closer than rounding go either way."""
    weights = lambda distance: np.exp((1 - distance) / protocol.temperature)
    model = KNeighborsClassifier(
        min(protocol.k, len(train.h)), metric='cosine', weights=weights, algorithm='brute'
    )
    votes = model.fit(train.h.astype(np.float64), train.label).predict_proba(
        test.h.astype(np.float64)
    )
    ordered = np.sort(votes, 1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-4
    right = model.classes_[votes.argmax(1)] == test.label
    return (right & clear).mean(), (right | ~clear).mean()


# The record.


def test_a_record_says_what_was_evaluated_and_how(records, states):
    run, ts = states
    assert [r['source'] for r in records] == ['encoder', 'random', 'pixels']
    splits = [sources.load({'name': 'digits'}, split).fingerprint for split in ('train', 'test')]
    weights = [
        checksum(networks.select(run.method.variables(ts[n].params, ts[n].state), ['encoder']))
        for n in (STEPS[-1], 0)
    ]
    assert weights[0] != weights[1]
    for record, step, of in zip(records, (STEPS[-1], 0, 0), [*weights, None], strict=True):
        top1 = record.pop('top1')
        assert 0.1 < top1 < 1
        assert record == {
            'protocol': 'knn',
            'source': record['source'],
            'labels_per_class': None,
            'top1_std': 0.0,
            'draws': 1,
            'step': step,
            'weights': of,
            'train_examples': 1437,
            'test_examples': 360,
            'data': splits,
            'settings': {'version': 1, 'k': 20, 'temperature': 0.1} | VIEW,
        }
        record['top1'] = top1


def test_the_pixels_baseline_is_that_of_scikit_learn(records):
    least, most = neighbours(*digits(), Knn())
    assert most - least < 0.01
    assert least - 5e-6 <= records[2]['top1'] <= most + 5e-6  # five digits are recorded
    assert least > 0.9


def test_records_are_printed_and_appended(workdir, capsys):
    path = workdir / 'results.jsonl'
    before = path.read_text() if path.exists() else ''
    (record,) = evaluate(workdir, 'knn200')
    out = capsys.readouterr().out
    assert json.loads(out) == json.loads(json.dumps(record))
    assert len(out.splitlines()) == 1
    assert path.read_text() == before + out
    assert record['protocol'] == 'knn200'
    assert record['settings'] == {'version': 1, 'k': 200, 'temperature': 0.07} | VIEW


def test_the_linear_protocol_records_its_rate(workdir, capsys, monkeypatch):
    quick = Linear(epochs=2)
    monkeypatch.setitem(PROTOCOLS, 'linear', (PROTOCOLS['linear'][0], quick))
    evaluate(workdir, 'linear')
    record = json.loads(capsys.readouterr().out)
    assert record['learning_rate'] in Linear().learning_rates
    settings = quick._asdict() | {'learning_rates': list(quick.learning_rates)} | VIEW
    assert record['settings'] == settings
    assert {'version', 'epochs', 'batch_size', 'normalisation', 'holdout'} <= settings.keys()


def test_the_protocols_are_those_published():
    assert LABELLED == ('knn', 'knn200', 'linear', 'finetune', 'lora')
    assert PROTOCOLS.keys() == {*LABELLED, *OF_TEXTS, 'regression'}
    assert PROTOCOLS['knn200'][1] == Knn(
        version=1, k=200, temperature=0.07
    )  # Wu et al., 2018, section 3.4
    for name, (run, settings) in PROTOCOLS.items():
        assert settings.version >= 1, name
        assert callable(run)


def test_an_evaluation_changes_nothing_and_says_the_same_again(workdir, records):
    before = contents(workdir)
    assert len(before) > 10
    assert evaluate(workdir, 'knn') == records[:1]
    assert contents(workdir) == before


def test_the_step_can_be_chosen(workdir, records, states):
    run, ts = states
    (record,) = evaluate(workdir, 'knn', step=STEPS[0])
    assert record['step'] == STEPS[0]
    assert record['weights'] == checksum(
        networks.select(run.method.variables(ts[STEPS[0]].params, ts[STEPS[0]].state), ['encoder'])
    )
    assert record['weights'] != records[0]['weights']


def test_the_number_of_devices_does_not_matter(workdir, records, monkeypatch):
    """Eight before, three now, which do not divide the batch of 256."""
    make = parallel.make_mesh
    monkeypatch.setattr(parallel, 'make_mesh', lambda: make(jax.devices()[:3]))
    assert evaluate(workdir, 'knn') == records[:1]


# Few labels.


def test_few_labels_are_drawn_evenly_and_by_the_seed():
    rng = np.random.default_rng(0)
    label = rng.choice(4, 200, p=(0.1, 0.2, 0.3, 0.4)).astype(np.int32)
    features = Features(np.arange(200, dtype=np.float32)[:, None], label)
    draws = [few(features, 5, seed) for seed in (0, 0, 1, 2)]
    for drawn in draws:
        rows = drawn.h[:, 0].astype(int)
        assert len(set(rows)) == 20
        np.testing.assert_array_equal(drawn.label, label[rows])
        np.testing.assert_array_equal(np.bincount(drawn.label), [5] * 4)
    np.testing.assert_array_equal(draws[0].h, draws[1].h)
    assert len({tuple(d.h[:, 0]) for d in draws}) == 3
    rare = int(np.bincount(label).min())
    assert np.bincount(few(features, rare, 0).label).tolist() == [rare] * 4
    with pytest.raises(Problem, match=f'--labels_per_class={rare + 1}: class 0 has {rare} '):
        few(features, rare + 1, 0)


def test_each_example_is_drawn_about_as_often_as_any():
    features = Features(
        np.arange(40, dtype=np.float32)[:, None], np.repeat([0, 1], 20).astype(np.int32)
    )
    counts = np.zeros(40)
    for seed in range(1000):
        counts[few(features, 5, seed).h[:, 0].astype(int)] += 1
    assert counts.sum() == 10_000
    deviation = np.sqrt(1000 * 0.25 * 0.75)
    assert abs(counts - 250).max() < 4.5 * deviation


def test_with_few_labels_the_mean_and_spread_over_draws_are_recorded(workdir, states, monkeypatch):
    monkeypatch.setattr(
        protocols, 'make_state', lambda *_, **__: states[1][0]
    )  # compiled once is enough
    records = evaluate(workdir, 'knn', labels_per_class=2, draws=3, baselines=True)
    train, test = digits()
    bounds = np.array([neighbours(few(train, 2, seed), test, Knn()) for seed in range(3)])
    pixel = records[2]
    least, most = bounds.mean(0)
    assert most - least < 0.02
    assert least - 5e-6 <= pixel['top1'] <= most + 5e-6
    ours = [knn(Knn(), few(train, 2, seed), test, 10)['top1'] for seed in range(3)]
    assert pixel['top1'] == round(np.mean(ours), 5)
    assert pixel['top1_std'] == round(np.std(ours), 5) > 0
    for record in records:
        assert (record['labels_per_class'], record['draws'], record['train_examples']) == (
            2,
            3,
            1437,
        )


def test_few_labels_are_drawn_twenty_times_unless_said_otherwise(workdir):
    (record,) = evaluate(workdir, 'knn', labels_per_class=1)
    assert (record['draws'], record['labels_per_class']) == (20, 1)


# What cannot be evaluated.


@pytest.mark.parametrize(
    ('options', 'code', 'said'),
    [
        (
            {'name': 'kn'},
            CONFIG,
            '--protocol=kn does not exist: did you mean "knn"? Known: finetune, knn, knn200, ',
        ),
        ({'label_fraction': 0.1}, CONFIG, 'finetune and lora, not of --protocol=knn'),
        ({'label_list': 'some.txt'}, CONFIG, 'finetune and lora, not of --protocol=knn'),
        ({'epochs': 1.0}, CONFIG, 'finetune and lora, not of --protocol=knn'),
        ({'learning_rate': 0.0, 'name': 'linear'}, CONFIG, 'not of --protocol=linear'),
        ({'labels_per_class': -1}, CONFIG, '--labels_per_class'),
        ({'draws': -1}, CONFIG, '--draws'),
        ({'step': 5}, INPUT, 'no checkpoint 5; it has [3, 7]'),
        ({'labels_per_class': 200}, CONFIG, '--labels_per_class=200: class '),
    ],
)
def test_wrong_words_are_refused(workdir, options, code, said):
    before = (
        (workdir / 'results.jsonl').read_text() if (workdir / 'results.jsonl').exists() else None
    )
    with pytest.raises(Problem) as error:
        evaluate(workdir, **{'name': 'knn'} | options)
    assert error.value.code == code
    assert said in str(error.value)
    assert before is None or (workdir / 'results.jsonl').read_text() == before


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(Problem, match='is not the workdir of a run') as error:
        evaluate(tmp_path, 'knn')
    assert error.value.code == INPUT
    configs.save(run_config(), tmp_path)
    with pytest.raises(Problem, match='none was written') as error:
        evaluate(tmp_path, 'knn')
    assert error.value.code == INPUT


def test_data_without_labels_are_refused(workdir, monkeypatch):
    load = sources.load
    monkeypatch.setattr(sources, 'load', lambda *args: load(*args)._replace(classes=None))
    with pytest.raises(Problem, match=r'digits \(train\) has no labels'):
        evaluate(workdir, 'knn')


def test_the_data_may_have_moved(workdir, monkeypatch):
    def load(section, split):
        raise Problem(json.dumps(section))

    monkeypatch.setattr(sources, 'load', load)
    as_saved = configs.saved(workdir)['data']
    for data_dir, expected in (
        (None, as_saved),
        ('/elsewhere', as_saved | {'data_dir': '/elsewhere'}),
    ):
        with pytest.raises(Problem) as error:
            evaluate(workdir, 'knn', data_dir=data_dir)
        assert json.loads(str(error.value)) == expected


def test_another_test_set_may_be_named(workdir, monkeypatch):
    saved = configs.saved(workdir)
    saved['data']['test'] = 'held_out'
    monkeypatch.setattr(configs, 'saved', lambda _: saved)

    def load(section, split):
        raise Problem(section['test'])

    monkeypatch.setattr(sources, 'load', load)
    with pytest.raises(Problem, match='seen'):
        evaluate(workdir, 'knn', test='seen')


# Features.


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('batch_size', [100, 256, 360])
def test_features_are_of_every_example_in_order(devices, batch_size):
    """Also where the last batch is not full, or not a multiple of the devices."""
    source, (_, test) = sources.load({'name': 'digits'}, 'test'), digits()
    mesh = parallel.make_mesh(jax.devices()[:devices])
    run = forward(pixels, mesh)
    found = extract(lambda b: run({}, {}, b), mesh, source, SHOWN, batch_size=batch_size)
    np.testing.assert_allclose(found.h, test.h, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found.label, test.label)
    assert found.h.dtype == np.float32
    some = np.array([5, 359, 0, 5])
    found = extract(
        lambda b: run({}, {}, b), mesh, source, SHOWN, indices=some, batch_size=batch_size
    )
    np.testing.assert_allclose(found.h, test.h[some], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found.label, test.label[some])


def test_features_are_those_of_evaluation_mode(states, records):
    """Of each split as one array, by the method itself: batches, devices and padding leave no trace
    in the features, and the records are of these."""
    run, ts = states
    mesh = parallel.make_mesh()
    compiled, bounds = forward(run.method.features, mesh), []
    for record, state in zip(records, (ts[STEPS[-1]], ts[0]), strict=False):
        alone = jax.device_get((state.params, state.state))
        both = []
        for split, pixel in zip(('train', 'test'), digits(), strict=True):
            images = pixel.h.reshape(-1, 8, 8, 3) + 0.5
            expected = run.method.features(*alone, {'views': (images,)})['h']
            source = sources.load({'name': 'digits'}, split)
            found = extract(lambda b: compiled(state.params, state.state, b), mesh, source, SHOWN)
            np.testing.assert_allclose(found.h, expected, rtol=1e-4, atol=1e-5)
            both.append(Features(np.asarray(expected), pixel.label))
        bounds.append(neighbours(*both, Knn()))
        assert bounds[-1][0] - 5e-6 <= record['top1'] <= bounds[-1][1] + 5e-6
    assert min(map(max, bounds)) < max(map(min, bounds))  # no score would do for the other
    assert compiled._cache_size() == 1  # one program for all batches


def test_protocols_see_no_test_label(records, workdir, monkeypatch):
    """Other test labels change the score, and nothing else of the record."""
    honest = protocols.extract

    def extract(run, mesh, source, shown, **options):
        features = honest(run, mesh, source, shown, **options)
        return (
            features._replace(label=(features.label + 1) % 10) if source.size == 360 else features
        )

    monkeypatch.setattr(protocols, 'extract', extract)
    (other,) = evaluate(workdir, 'knn')
    assert {key for key in other if records[0][key] != other[key]} == {'top1'}
