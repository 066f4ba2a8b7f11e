"""Protocols of runs that know texts, on short runs: what they record is what the embeddings say, computed
again by hand."""

import json

import numpy as np
import pytest

from clr_jax.data import sources, text
from clr_jax.entry import DATA, INPUT, Problem
from clr_jax.evaluate.protocols import evaluate
from clr_jax.train import fit, restore
from tests.conftest import config


def short(name, folder, **changes):
    """The smoke form of a config, a few steps long."""
    of = config(name, 'smoke')
    of.update(changes)
    of.steps, of.checkpoint_every, of.evaluation.every = 12, 12, 0
    fit(of.to_dict(), str(folder))
    return folder


@pytest.fixture(scope='module')
def captioned(tmp_path_factory):
    return short('clip_emoji', tmp_path_factory.mktemp('run') / 'clip')


@pytest.fixture(scope='module')
def spoken(tmp_path_factory):
    return short('simcse_wordnet', tmp_path_factory.mktemp('run') / 'simcse')


def embeddings(folder):
    """Images [n, e], their texts [n, t, e] and labels [n] of the test split, by the method itself."""
    run, ts, _ = restore(folder)
    of = json.loads((folder / 'config.json').read_text())
    source = sources.load(of['data'], 'test')
    tokenizer = text.tokenizer(of, folder, source)
    from clr_jax.data import augment, pipeline

    length = of['views']['text']['length']
    views = [augment.Central(16, 1.0), text.Text(length=length), text.Text(length=length, part=1)]
    source = source._replace(tokenizer=tokenizer)
    (batch,) = pipeline.eval_batches(source, views, batch_size=source.size)
    image, *texts = batch['views']
    found = run.method.features(ts.params, ts.state, batch | {'views': (image,)})['z']
    of_texts = [
        run.method.features(ts.params, ts.state, batch | {'views': (tokens,)})['text']
        for tokens in texts
    ]
    return np.asarray(found), np.stack(of_texts, 1), batch['label']


def test_retrieval_counts_all_texts_of_an_image(captioned):
    """In smoke data the captions of a class are the same: of equals the first is taken."""
    (record,) = evaluate(captioned, 'retrieval')
    image, texts, _ = embeddings(captioned)
    n, t, e = texts.shape
    similarity = (image @ np.concatenate([texts[:, 0], texts[:, 1]]).T).astype(np.float64)
    best = [max(row[i], row[n + i]) for i, row in enumerate(similarity)]
    above = (similarity > np.array(best)[:, None] + 1e-6).sum(1)
    at_most = (similarity > np.array(best)[:, None] - 1e-6).sum(1)
    for k in (1, 5, 10):
        least, most = np.mean(at_most <= k), np.mean(above < k)
        assert least - 1e-6 <= record[f'image_to_text_{k}'] <= most + 1e-6
    assert record['protocol'] == 'retrieval'
    assert {f'text_to_image_{k}' for k in (1, 5, 10)} <= record.keys()


def test_zero_shot_is_the_nearest_of_the_classes_prompts(captioned, tmp_path):
    (record,) = evaluate(captioned, 'zeroshot')
    assert 0 <= record['top1'] <= record['top5'] <= 1
    prompts = tmp_path / 'prompts.txt'
    prompts.write_text('a handwritten {}\nthe digit {}\n')
    (named,) = evaluate(captioned, 'zeroshot', prompts=str(prompts))
    image, texts, label = embeddings(captioned)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    first = [int(np.flatnonzero(label == c)[0]) for c in range(10)]
    classes = unit(unit(texts[first]).mean(1))  # the smoke captions are these very prompts
    top1 = float(((image @ classes.T).argmax(1) == label).mean())
    assert abs(named['top1'] - top1) < 0.01  # close calls
    assert named['settings']['templates'] == ('a handwritten {}', 'the digit {}')


def test_sts_is_the_rank_correlation_of_cosines(spoken, tmp_path):
    rows = [
        (5.0, 'return the sum of two numbers', 'return the sum of two numbers'),
        (3.0, 'open the given file for reading', 'open a file'),
        (2.0, 'close the connection to the server', 'open the connection'),
        (0.0, 'raise an error if the name is unknown', 'the length of the list'),
    ]
    plain, benchmark = tmp_path / 'plain.tsv', tmp_path / 'benchmark.csv'
    plain.write_text(''.join(f'{s}\t{a}\t{b}\n' for s, a, b in rows))
    benchmark.write_text(
        ''.join(f'g\tf\t2012\t{n}\t{s}\t{a}\t{b}\n' for n, (s, a, b) in enumerate(rows))
    )
    (record,) = evaluate(spoken, 'sts', pairs=str(plain))
    (same,) = evaluate(spoken, 'sts', pairs=str(benchmark))
    assert record['spearman'] == same['spearman']
    run, ts, _ = restore(spoken)
    of = json.loads((spoken / 'config.json').read_text())
    from clr_jax.data import sentences, tokens

    tokenizer = text.tokenizer(of, spoken, sentences.source('none', [['x']]))

    def encoded(texts):
        batch = {'views': (tokens.encode(tokenizer, texts, of['views']['text']['length']),)}
        h = np.asarray(run.method.features(ts.params, ts.state, batch)['h'], np.float64)
        return h / np.linalg.norm(h, axis=1, keepdims=True)

    cosine = (encoded([r[1] for r in rows]) * encoded([r[2] for r in rows])).sum(1)
    ranks = cosine.argsort().argsort()
    of_scores = np.array([3, 2, 1, 0])
    assert record['spearman'] == pytest.approx(np.corrcoef(ranks, of_scores)[0, 1], abs=1e-5)


def test_a_run_keeps_its_tokenizer(spoken):
    """Learned from the training texts; another process learns the same."""
    kept = (spoken / 'tokenizer.json').read_text()
    of = json.loads((spoken / 'config.json').read_text())
    source = sources.load(of['data'], 'train')
    assert text.tokenizer(of, 'none', source).model.to_str() == kept


@pytest.mark.parametrize(
    ('protocol', 'options', 'code', 'said'),
    [
        ('sts', {}, INPUT, '--pairs is missing'),
        ('sts', {'pairs': 'absent.csv'}, INPUT, 'cannot be read'),
        ('sts', {'pairs': 'bad.csv'}, DATA, 'each line is a score and two sentences'),
        ('retrieval', {}, None, 'is for a run on images with texts'),
        ('zeroshot', {}, None, 'is for a run on images with texts'),
        ('regression', {}, None, 'has no targets'),
        ('knn', {'label': 'speaker'}, None, 'has one label only'),
        ('knn', {'test': 'seen'}, None, 'has one test only'),
    ],
)
def test_what_cannot_be_evaluated_is_refused(spoken, tmp_path, protocol, options, code, said):
    (tmp_path / 'bad.csv').write_text('five\ta\tb\n')
    options = options | ({'pairs': str(tmp_path / options['pairs'])} if 'pairs' in options else {})
    with pytest.raises(Problem) as raised:
        evaluate(spoken, protocol, **options)
    assert said in str(raised.value)
    assert code is None or raised.value.code == code
