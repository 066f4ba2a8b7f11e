"""What a run has learned to see, as pictures: their grid, the files, and what cannot be shown."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from clr_jax import config as configs
from clr_jax import parallel
from clr_jax.checkpoint import Checkpoints
from clr_jax.data import pipeline, sources
from clr_jax.data.augment import Central, tensorflow
from clr_jax.entry import CONFIG, INPUT, USAGE, Problem
from clr_jax.evaluate.pictures import draw, grid
from clr_jax.train import blank_batch, describe, make_state
from tests.conftest import ROOT, config

STEP = 7


def run_config(**encoder) -> dict:
    of = config('dino_imagenet', 'smoke')
    of.encoder.update(width=12, depth=1, heads=3, **encoder)
    of.method.update(projector=(8, 4), prototypes=16)
    for view in of.views.values():
        view.size, view.copies = 8, 1
    of.evaluation.size = 8
    return of.to_dict()


def write_run(folder, of):
    """What a run leaves behind, at STEP."""
    run = describe(of, 1437, 10)
    blank = blank_batch(run, 2)
    state = make_state(run.method, run.optimizer, parallel.make_mesh(), blank, seed=0)
    configs.save(of, folder)
    checkpoints = Checkpoints(folder)
    checkpoints.save(STEP, state, {'examples': 1437, 'classes': 10})
    checkpoints.close()
    return run, state


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """(workdir, run, state)"""
    folder = tmp_path_factory.mktemp('run')
    return folder, *write_run(folder, run_config())


def read(path):
    return tensorflow().io.decode_png(path.read_bytes()).numpy()


# The grid.


@pytest.mark.parametrize(
    ('size', 'factor'), [((8, 8), 8), ((24, 30), 3), ((64, 64), 1), ((70, 65), 1)]
)
def test_a_row_for_each_example_enlarged_with_white_between(size, factor):
    n, k, (h, w) = 3, 2, size
    pictures = np.random.default_rng(0).uniform(-0.2, 1.2, (n, k, h, w, 3))
    image = grid(pictures)
    H, W = h * factor, w * factor
    assert min(H, W) >= 64
    assert image.dtype == np.uint8
    assert image.shape == (n * H + (n - 1) * 2, k * W + (k - 1) * 2, 3)
    left = np.ones(image.shape[:2], bool)  # what is no picture
    for i in range(n):
        for j in range(k):
            place = slice(i * (H + 2), i * (H + 2) + H), slice(j * (W + 2), j * (W + 2) + W)
            left[place] = False
            for channel in range(3):
                expected = np.rint(255 * np.clip(pictures[i, j, ..., channel], 0, 1))
                expected = np.kron(expected, np.ones((factor, factor)))
                np.testing.assert_array_equal(image[place][..., channel], expected)
    assert left.sum() == image.shape[0] * image.shape[1] - n * k * H * W
    assert (image[left] == 255).all()


# The files.


@pytest.mark.parametrize('split', ['test', 'train'])
def test_a_file_shows_what_the_method_does_of_the_first_examples(made, capsys, split):
    folder, run, state = made
    before = {p.name for p in folder.iterdir()}
    (path,) = draw(folder, examples=3, split=split)
    assert path == str(folder / 'pictures' / f'attention_{STEP}.png')
    assert capsys.readouterr().out == f'{path}\n'
    assert {p.name for p in folder.iterdir()} == before | {'pictures'}
    source = sources.load({'name': 'digits'}, split)
    batch = next(pipeline.eval_batches(source, [Central(8, 1.0)], batch_size=3))
    alone = jax.device_get((state.params, state.state))
    expected = jax.jit(run.method.pictures)(*alone, batch, key=jax.random.key(0))['attention']
    assert expected.shape == (3, 1 + 3, 8, 8, 3)
    image = read(folder / 'pictures' / f'attention_{STEP}.png')
    assert image.shape == (3 * 66 - 2, 4 * 66 - 2, 3)
    # the last bits of a float may round to another grey
    assert np.abs(image.astype(int) - grid(np.asarray(expected))).max() <= 1
    np.testing.assert_array_equal(image[:64:8, :64:8], batch['views'][0][0])


@pytest.mark.parametrize(
    ('options', 'code', 'said'),
    [
        ({'examples': 0}, CONFIG, '--examples=0: digits (test) has 360, show 1 or more'),
        ({'examples': 361}, CONFIG, '--examples=361: digits (test) has 360'),
        ({'split': 'tset'}, CONFIG, '--split: no "tset"; did you mean "test"?'),
        ({'step': 5}, INPUT, 'no checkpoint 5; it has [7]'),
    ],
)
def test_wrong_words_are_refused(made, options, code, said):
    with pytest.raises(Problem) as error:
        draw(made[0], **options)
    assert error.value.code == code
    assert said in str(error.value)


def test_a_method_without_pictures_is_refused(tmp_path):
    write_run(tmp_path, run_config(pool='average'))
    with pytest.raises(Problem, match='name=dino with config.encoder.name=vit has no pictures'):
        draw(tmp_path)
    assert not (tmp_path / 'pictures').exists()


def test_a_place_that_cannot_be_written_is_a_problem(made, tmp_path, monkeypatch):
    (tmp_path / 'config.json').write_text((made[0] / 'config.json').read_text())
    (tmp_path / 'checkpoints').symlink_to(made[0] / 'checkpoints')
    (tmp_path / 'pictures').write_text('a file')
    with pytest.raises(Problem, match='cannot be written: '):
        draw(tmp_path, examples=1)


def test_the_data_may_have_moved(made, monkeypatch):
    def load(section, split):
        raise Problem(json.dumps(section))

    monkeypatch.setattr(sources, 'load', load)
    with pytest.raises(Problem) as error:
        draw(made[0], data_dir='/elsewhere')
    saved = configs.saved(made[0])['data']
    assert json.loads(str(error.value)) == saved | {'data_dir': '/elsewhere'}


# The command.


def command(*words):
    program = [sys.executable, '-m', 'clr_jax.evaluate.pictures', *words]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


def test_the_command_prints_the_path(made):
    ended = command(f'--workdir={made[0]}', '--examples=2', '--step=7', '--split=train')
    path = made[0] / 'pictures' / f'attention_{STEP}.png'
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f'{path}\n', '')
    assert read(path).shape == (2 * 66 - 2, 4 * 66 - 2, 3)


@pytest.mark.parametrize(
    ('words', 'code', 'said'),
    [
        ([], USAGE, 'error: --workdir is missing'),
        (['--workdir=/absent'], INPUT, 'error: /absent is not the workdir of a run'),
        (['--examples=many'], USAGE, 'error: flag --examples=many'),
    ],
)
def test_a_mistake_ends_in_one_line(words, code, said):
    ended = command(*words)
    assert (ended.returncode, ended.stdout) == (code, '')
    assert ended.stderr.startswith(said)
    assert len(ended.stderr.splitlines()) == 1


def test_help_is_quick():
    """It answers before anything that takes seconds is imported."""
    script = (
        'import runpy, sys\n'
        'sys.argv = ["x", "--help"]\n'
        'try:\n'
        '    runpy.run_module("clr_jax.evaluate.pictures", run_name="__main__", alter_sys=True)\n'
        'except SystemExit as end:\n'
        '    print(end.code, sorted({"jax", "tensorflow"} & set(sys.modules)), file=sys.stderr)\n'
    )
    ended = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == '0 []\n'
    for flag in ('--workdir:', '--examples:', '--split:', '--[no]debug:'):
        assert flag in ended.stdout
