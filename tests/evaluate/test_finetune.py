"""Evaluation by training: it starts from the run's encoder, resumes, and is recorded like any other."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clr_jax import config as configs
from clr_jax import networks
from clr_jax.checkpoint import Checkpoints, checksum
from clr_jax.data import sources, subsets
from clr_jax.entry import CONFIG, INPUT, Problem
from clr_jax.evaluate import finetune as module
from clr_jax.evaluate.finetune import LORA, Finetune, accuracy, altered, crop, recipe, settle
from clr_jax.evaluate.protocols import PROTOCOLS, evaluate
from clr_jax.train import fit, restore
from tests.conftest import ROOT, config

STEPS = (120, 240)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """What a short run of SimCLR on the digits leaves behind."""
    folder = tmp_path_factory.mktemp('original') / 'run'
    of = config('simclr_digits')
    of.batch_size, of.steps, of.checkpoint_every = 128, STEPS[-1], STEPS[0]
    of.encoder.widths, of.method.projector = (16, 32, 64), (32, 16)
    of.evaluation.update(train_examples=64, test_examples=64)
    of.log_every = STEPS[-1]
    fit(of.to_dict(), str(folder))
    return folder


@pytest.fixture
def workdir(original, tmp_path):
    """A copy of that run."""
    return shutil.copytree(original, tmp_path / 'run')


@pytest.fixture
def quick(monkeypatch):
    """Protocols of 40 steps, at rates for that."""
    for name, rate in (('finetune', 0.5), ('lora', 0.01)):
        measure, protocol = PROTOCOLS[name]
        short = {'epochs': 6, 'few_epochs': 6, 'min_steps': 40, 'learning_rate': rate}
        monkeypatch.setitem(PROTOCOLS, name, (measure, protocol._replace(**short)))


def encoder(workdir, step=-1, kinds=('params', 'batch_stats')):
    """The checksum of the encoder in a workdir."""
    run, ts, _ = restore(workdir, step)
    variables = networks.select(run.method.variables(ts.params, ts.state), ('encoder',))
    return checksum({kind: variables[kind] for kind in kinds})


def trained(workdir, pattern='*'):
    """The one folder that a fine-tuning left."""
    (folder,) = workdir.glob(f'{pattern}_seed*')
    return folder


def read(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def contents(folder) -> dict:
    files = (p for p in folder.rglob('*') if p.is_file() and 'seed' not in str(p))
    return {p: p.read_bytes() for p in files if p.name != 'results.jsonl'}


# A training and its record.


def test_few_labels_go_further_from_the_run_than_from_random_weights(workdir, capsys, monkeypatch):
    measure, protocol = PROTOCOLS['finetune']
    protocol = protocol._replace(min_steps=60, learning_rate=0.2)
    monkeypatch.setitem(PROTOCOLS, 'finetune', (measure, protocol))
    before = contents(workdir)
    records = evaluate(workdir, 'finetune', labels_per_class=4, baselines=True)
    assert contents(workdir) == before
    assert [r['source'] for r in records] == ['encoder', 'random']
    assert records[0]['top1'] > records[1]['top1'] + 0.08
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps(records))
    assert (workdir / 'results.jsonl').read_text().splitlines() == lines

    part = subsets.subset(sources.load({'name': 'digits'}, 'train'), per_class=4)
    test = sources.load({'name': 'digits'}, 'test')
    for record in records:
        pretrained = record['source'] == 'encoder'
        top1, top5 = record.pop('top1'), record.pop('top5')
        assert 0 < top1 < top5 <= 1
        assert record == {
            'protocol': 'finetune',
            'source': record['source'],
            'labels_per_class': 4,
            'label_fraction': None,
            'label_list': None,
            'top1_std': 0.0,
            'draws': 1,
            'step': STEPS[-1] if pretrained else 0,
            'weights': encoder(workdir) if pretrained else None,
            'train_examples': 40,
            'test_examples': 360,
            'data': [part.fingerprint, test.fingerprint],
            'settings': protocol._asdict()
            | {'batch_size': 40, 'steps': 60, 'size': 8, 'crop': 1.0, 'flip': 0.0}
            | {'area': [0.4, 1.0], 'ratio': [0.5, 2.0], 'min_object_covered': 0.1}
            | {'interpolation': 'bicubic', 'flavour': 'tf'},
        }
        folder = trained(workdir, f'finetune_4_per_class_{record["source"]}')
        checkpoints = Checkpoints(folder, read_only=True)
        assert checkpoints.steps() == [60]
        found = {'classes': 10, 'examples': 40, 'content': part.fingerprint}
        assert checkpoints.data() == found


@pytest.mark.parametrize(('name', 'least'), [('finetune', 0.85), ('lora', 0.6)])
def test_all_labels(workdir, quick, name, least):
    (record,) = evaluate(workdir, name)
    assert record['top1'] > least
    assert (record['train_examples'], record['labels_per_class']) == (1437, None)
    settings = record['settings']
    assert (settings['batch_size'], settings['steps']) == (256, 40)
    assert record['data'][0] == sources.load({'name': 'digits'}, 'train').fingerprint
    folder = trained(workdir, f'{name}_all_labels_encoder')
    assert read(folder)[-1]['test_top1'] == pytest.approx(record['top1'], abs=1e-5)
    _, ts, _ = restore(folder)
    frozen = name == 'lora'
    assert hasattr(ts.state, 'encoder') == frozen
    if frozen:  # the encoder that was adapted is that of the run
        run, before, _ = restore(workdir)
        own = run.method.variables(before.params, before.state)['params']['encoder']
        assert checksum(ts.state.encoder) == checksum(own)


@pytest.mark.parametrize('step', STEPS)
def test_a_training_starts_from_the_step_of_the_run(workdir, step):
    """At a rate of zero nothing is learned but batch statistics."""
    (record,) = evaluate(
        workdir, 'finetune', step=step, label_fraction=0.1, epochs=1.0, learning_rate=0.0
    )
    assert (record['step'], record['label_fraction'], record['train_examples']) == (step, 0.1, 144)
    settings = record['settings']
    assert (settings['epochs'], settings['learning_rate'], settings['steps']) == (1.0, 0.0, 1)
    folder = trained(workdir, 'finetune_0.1_encoder')
    assert encoder(folder, kinds=['params']) == encoder(workdir, step, kinds=['params'])
    assert encoder(folder) != encoder(workdir, step) == record['weights']
    assert len({encoder(workdir, step) for step in STEPS}) == 2


def test_draws_are_trainings_of_their_own(workdir, quick):
    (record,) = evaluate(workdir, 'finetune', labels_per_class=2, draws=2)
    folders = sorted(workdir.glob('finetune_2_per_class_encoder_seed*'))
    assert [p.name.split('_')[-2] for p in folders] == ['seed0', 'seed1']
    content = {Checkpoints(p, read_only=True).data()['content'] for p in folders}
    assert len(content) == 2
    scores = [read(p)[-1]['test_top1'] for p in folders]
    assert record['draws'] == 2
    assert record['top1'] == pytest.approx(np.mean(scores), abs=1e-5)
    assert record['top1_std'] == pytest.approx(np.std(scores), abs=1e-5)
    assert len({read(p)[-1]['loss'] for p in folders}) == 2  # accuracies may be the same
    assert 'top5' in record


def test_what_was_interrupted_goes_on(workdir, quick, tmp_path, monkeypatch):
    """To the same bits; and what is done is not done again."""
    plan = module.recipe

    def often(*args):
        return plan(*args) | {'checkpoint_every': 10, 'log_every': 10, 'keep': 9}

    monkeypatch.setattr(module, 'recipe', often)
    options = {'name': 'finetune', 'label_fraction': 0.05}
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    save = Checkpoints.save

    def die(self, step, *args):
        save(self, step, *args)
        if step == 20:
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, 'save', die)
    with pytest.raises(KeyboardInterrupt):
        evaluate(copy, **options)
    assert not (copy / 'results.jsonl').exists()
    folder = trained(copy)
    assert sorted(p.name for p in (folder / 'checkpoints').iterdir()) == ['10', '20']
    monkeypatch.setattr(Checkpoints, 'save', save)
    records = [evaluate(place, **options) for place in (workdir, copy)]
    assert records[0] == records[1]
    assert checksum(restore(folder)[1]) == checksum(restore(trained(workdir))[1])
    assert [line['step'] for line in read(folder)] == [10, 20, 30, 40]

    monkeypatch.setattr(Checkpoints, 'save', None)
    assert evaluate(copy, **options) == records[1]
    assert trained(copy) == folder
    assert len((copy / 'results.jsonl').read_text().splitlines()) == 2


def test_a_list_of_labels(workdir, quick, tmp_path):
    path = tmp_path / 'some.txt'
    path.write_text('\n'.join(map(str, range(0, 1437, 30))))
    (record,) = evaluate(workdir, 'lora', label_list=str(path))
    assert (record['label_list'], record['train_examples']) == (str(path), 48)
    assert configs.saved(trained(workdir, 'lora_some_encoder'))['subset']['list'] == str(path)


def test_the_command_prints_one_line(workdir):
    command = [sys.executable, '-m', 'clr_jax.evaluate', f'--workdir={workdir}']
    command += ['--protocol=finetune', '--label_fraction=0.02', '--epochs=3']
    command += ['--learning_rate=0.1', '--draws=1']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert done.stdout == (workdir / 'results.jsonl').read_text()
    assert (record['label_fraction'], record['train_examples']) == (0.02, 29)
    settings = record['settings']
    assert (settings['steps'], settings['learning_rate']) == (3, 0.1)
    assert 'step 3/3' in done.stderr
    assert 'Traceback' not in done.stderr


# Its parts.


def test_top1_and_top5():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(200, 12)), rng.integers(0, 12, 200)
    rank = [int((row > row[k]).sum()) for row, k in zip(logits, label, strict=True)]
    expected = {'top1': np.mean([r < 1 for r in rank]), 'top5': np.mean([r < 5 for r in rank])}
    assert accuracy(logits, label) == expected
    assert accuracy(np.zeros((4, 9)), np.arange(4)) == {'top1': 0.25, 'top5': 1.0}
    assert accuracy(np.zeros((9, 9)), np.arange(9))['top5'] == 5 / 9  # a tie is no licence


@pytest.mark.parametrize(
    ('examples', 'share', 'devices', 'batch_size', 'steps'),
    [
        (12_811, 0.01, 8, 256, 60 * 50),
        (128_116, 0.1, 8, 256, 30 * 500),
        (1_281_167, 1.0, 8, 256, 30 * 5004),
        (10, 0.007, 8, 8, 500),
        (10, 0.007, 1, 10, 500),
        (144, 0.1, 3, 144, 500),
        (1437, 1.0, 3, 255, 500),
        (5000, 1.0, 512, 512, 500),
    ],
)
def test_what_the_protocol_comes_to(examples, share, devices, batch_size, steps):
    expected = {'batch_size': batch_size, 'steps': steps}
    assert settle(Finetune(), examples, share, devices) == expected


def test_too_few_for_the_devices():
    with pytest.raises(Problem, match='7 labelled examples are too few for 8 devices'):
        settle(Finetune(), 7, 0.1, 8)


def test_epochs_and_rate_can_be_others():
    assert altered(Finetune()) == Finetune()
    for share in (0.01, 1.0):
        assert settle(altered(Finetune(), epochs=2.5), 1000, share, 1)['steps'] == 8  # 7.5
        assert settle(altered(Finetune(), epochs=0.01), 1000, share, 1)['steps'] == 1
    assert altered(LORA, learning_rate=0.5) == LORA._replace(learning_rate=0.5)
    for epochs in (0.0, -1.0, float('inf'), float('nan')):
        with pytest.raises(Problem, match=f'--epochs={epochs}'):
            altered(Finetune(), epochs=epochs)


def test_the_published_protocol():
    """SimCLR, appendix B.5: a rate of 0.8 at a batch of 4096 without decay, 60 epochs on 1 %, 30 on
    10 %; random crops and flips only."""
    assert 0.05 * 4096 / 256 == 0.8
    assert Finetune()[:8] == (1, 'finetune', 'sgd', 0.05, 'linear', 30.0, 60.0, 0.02)
    of = config('simclr_imagenet')
    of.bn_groups = 8
    saved = json.loads(json.dumps(of.to_dict()))
    settled, pretrained = {'batch_size': 256, 'steps': 3000}, {'workdir': 'x', 'step': 7}
    found = recipe(Finetune(), saved, settled, {'fraction': 0.01}, pretrained, 3)
    assert (found['seed'], found['batch_size'], found['steps']) == (3, 256, 3000)
    assert found['subset'] == saved['subset'] | {'fraction': 0.01, 'seed': 3}
    rest = {'parts': ('encoder',), 'weights': ''}
    assert found['pretrained'] == {'workdir': 'x', 'step': 7} | rest
    assert found['data'] == saved['data']
    assert found['encoder'] == saved['encoder'] | {'bn_groups': 1}
    optimizer = found['optimizer']
    assert optimizer['schedule']['name'] == 'cosine'
    assert optimizer['schedule']['warmup_epochs'] == 0
    kept = ('name', 'nesterov', 'momentum', 'learning_rate', 'scaling', 'weight_decay')
    assert [optimizer[key] for key in kept] == ['sgd', True, 0.9, 0.05, 'linear', 0.0]
    view = found['views']['view']
    assert {key: view[key] for key in crop(saved)} == {
        'flavour': 'tf',
        'area': [0.08, 1.0],
        'ratio': [3 / 4, 4 / 3],
        'min_object_covered': 0.1,
        'interpolation': 'bicubic',
        'flip': 0.5,
    }
    off = ('jitter', 'grayscale', 'blur', 'rotate', 'solarize')
    assert (view['copies'], view['size'], *(view[key] for key in off)) == (1, 224, *[0.0] * 5)
    assert found['probe']['learning_rate'] == 0
    assert found['method']['name'] == 'finetune'
    lora = recipe(LORA, saved, settled, {}, {}, 0)
    assert (lora['method']['name'], lora['optimizer']['name']) == ('lora', 'adamw')
    assert 'nesterov' not in lora['optimizer']
    assert lora['pretrained']['workdir'] == ''


def test_crops_are_those_of_the_largest_views():
    views = {'local': {'size': 96, 'area': 1}, 'some': {'size': 224, 'area': 2}}
    rest = dict.fromkeys(module.CROP, 0)
    saved = {'views': {name: rest | view for name, view in views.items()}}
    assert crop(saved)['area'] == 2


def test_another_config_is_in_another_folder():
    base = recipe(Finetune(), saved_digits(), {'batch_size': 8, 'steps': 5}, {}, {}, 0)
    name = module.name(base, 'random')
    assert name.startswith('finetune_all_labels_random_seed0_')
    there = base | {'data': base['data'] | {'data_dir': '/elsewhere', 'path': '/elsewhere'}}
    assert module.name(there, 'random') == name
    assert module.name(json.loads(json.dumps(base)), 'random') == name
    others = [base | {'steps': 6}, base | {'pretrained': base['pretrained'] | {'step': 3}}]
    assert len({name, *(module.name(other, 'random') for other in others)}) == 3


def saved_digits() -> dict:
    return json.loads(json.dumps(config('simclr_digits').to_dict()))


# What cannot be evaluated.


@pytest.mark.parametrize(
    ('options', 'code', 'said'),
    [
        ({'label_fraction': 0.0}, CONFIG, '--label_fraction=0.0: above 0 and at most 1'),
        ({'label_fraction': 2.0}, CONFIG, '--label_fraction=2.0: above 0 and at most 1'),
        ({'label_fraction': 0.1, 'labels_per_class': 1}, CONFIG, 'use one of them'),
        ({'label_fraction': 0.1, 'label_list': 'x'}, CONFIG, 'use one of them'),
        ({'labels_per_class': 1, 'label_list': 'x'}, CONFIG, 'use one of them'),
        ({'labels_per_class': -1}, CONFIG, '--labels_per_class'),
        ({'labels_per_class': 200}, CONFIG, 'per_class=200: class '),
        ({'label_list': '/no/list.txt'}, INPUT, '/no/list.txt'),
        ({'label_fraction': 0.003}, CONFIG, '4 labelled examples are too few for 8 devices'),
        ({'epochs': 0.0}, CONFIG, '--epochs=0.0'),
        ({'learning_rate': -1.0}, CONFIG, 'learning_rate is -1'),
        ({'step': 5}, INPUT, 'no checkpoint 5'),
    ],
)
def test_wrong_words_are_refused(original, options, code, said):
    with pytest.raises(Problem) as error:
        evaluate(original, **{'name': 'finetune'} | options)
    assert error.value.code == code
    assert said in str(error.value)
    assert not list(original.glob('*seed*'))
    assert not (original / 'results.jsonl').exists()
