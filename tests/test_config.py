"""Configs are whole: each lists every keyword of what it names, survives JSON, and any can be shrunk to a laptop."""

import importlib
import inspect
import json
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from clr_jax import config as configs
from clr_jax.data.views import settings
from clr_jax.encoders.text import text
from clr_jax.entry import CONFIG, INPUT, Problem
from clr_jax.schedules import schedule
from clr_jax.train import describe
from tests.conftest import ROOT, config, resolved

NAMES = sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))
BOTH = [(name, variant) for name in NAMES for variant in ('', 'smoke')]


def keywords(function) -> dict:
    """Every keyword of a factory with its default."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def factory(module: str, name: str):
    return getattr(importlib.import_module(module), name)


def named(of) -> dict:
    """{section: what its keys are keywords of} of a config."""
    encoders = [part for part in ('encoder', 'text_encoder') if of[part]]
    return (
        {part: factory(f'clr_jax.encoders.{of[part].name}', of[part].name) for part in encoders}
        | {
            'method': factory(f'clr_jax.methods.{of.method.name}', of.method.name),
            'data': factory('clr_jax.data.sources', of.data.name),
            'optimizer': factory('clr_jax.optimizers', of.optimizer.name),
            'optimizer.schedule': schedule,
        }
        | {f'views.{name}': settings(view) for name, view in of.views.items()}
    )


def section(of, path: str):
    for word in path.split('.'):
        of = of[word]
    return of


def write(folder, text: str) -> str:
    path = folder / 'some_config.py'
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(('name', 'variant'), BOTH)
def test_every_keyword_is_listed_and_none_is_made_up(name, variant):
    of = config(name, variant)
    extra = {'optimizer': {'learning_rate', 'scaling', 'schedule', 'layer_decay', 'clip'}}
    for path, function in named(of).items():
        known = keywords(function)
        assert known, path  # the search for keywords finds some
        listed = set(section(of, path))
        assert set(known) <= listed, path
        assert listed - {'name'} == set(known) - {'name'} | extra.get(path, set()), path
    top = configs.default()
    assert set(of) == set(top)
    for key in ('probe', 'pretrained', 'evaluation'):
        assert set(of[key]) == set(top[key])


@pytest.mark.parametrize('name', NAMES)
def test_what_a_config_does_not_set_has_the_default_of_the_signature(name):
    text = (ROOT / 'configs' / f'{name}.py').read_text()
    of = config(name)
    for path, function in named(of).items():
        for key, default in keywords(function).items():
            if not re.search(rf'\b{key}\b', text) and key not in ('name', 'bn_groups'):
                assert section(of, path)[key] == default, (path, key)


@pytest.mark.parametrize(('name', 'variant'), BOTH)
def test_json_keeps_a_config(name, variant, tmp_path):
    before = config(name, variant).to_dict()
    configs.save(before, tmp_path)
    after = configs.saved(tmp_path)
    assert configs.differences(before, after) == []
    assert after == json.loads(json.dumps(before))
    assert [p.name for p in tmp_path.iterdir()] == ['config.json']


@pytest.mark.parametrize(('name', 'variant'), BOTH)
def test_a_config_describes_a_run(name, variant, tmp_path):
    """Also when it comes back from JSON; its groups of parameters are checked when they meet the parameters."""
    of = config(name, variant)
    configs.save(resolved(name, variant), tmp_path)
    for whole in (resolved(name, variant), configs.saved(tmp_path)):
        run = describe(whole, 50_000, 10)
        assert run.steps_per_epoch == 50_000 // of.batch_size
        assert run.total_steps == (of.steps or round(of.epochs * run.steps_per_epoch))
        for view, section in zip(run.views, of.views.values(), strict=True):
            said = json.loads(json.dumps(view._asdict()))
            assert said == json.loads(json.dumps({k: section[k] for k in view._fields}))


@pytest.mark.parametrize(('name', 'variant'), BOTH)
def test_bn_groups_reach_the_encoder_and_the_method(name, variant):
    of = config(name, variant)
    of.bn_groups = 4
    assert (of.encoder.bn_groups, of.method.bn_groups) == (4, 4)
    as_saved = json.loads(json.dumps(of.to_dict()))
    assert (as_saved['encoder']['bn_groups'], as_saved['method']['bn_groups']) == (4, 4)


@pytest.mark.parametrize('name', NAMES)
def test_groups_of_views_come_in_the_order_of_their_names(name):
    """ConfigDict sorts them; methods take anchor, positive and negative by their place."""
    of = config(name).views
    assert list(of) == sorted(of)
    parts = [view.part for view in of.values() if 'part' in view]
    assert parts == sorted(parts)
    sizes = [view.size for view in of.values() if 'size' in view]
    assert sizes == sorted(sizes, reverse=True)  # large crops come first


@pytest.mark.parametrize('name', NAMES)
def test_overrides_keep_their_type(name):
    """`--config.x=...` is parsed in the type of what stands there, so every value must have the right one."""
    of = config(name)
    assert isinstance(of.epochs, float)
    for key in (
        'seed',
        'steps',
        'batch_size',
        'log_every',
        'checkpoint_every',
        'keep',
        'bn_groups',
    ):
        assert type(of[key]) is int, key
    of.lock()
    with pytest.raises(TypeError):
        of.batch_size = 'many'
    with pytest.raises((AttributeError, KeyError)):
        of.batchsize = 3


@pytest.mark.parametrize('name', NAMES)
def test_smoke_keeps_what_the_run_is_about(name):
    full, small = config(name).to_dict(), config(name, 'smoke').to_dict()
    resized = (
        r'(data\.|subset\.|batch_size|epochs|steps|log_every|checkpoint_every|evaluation\.(size|crop|every)'
        r'|(text_)?encoder\.(depth|width|widths|small_stem|heads|patch|image_size|hidden|vocabulary)|views\.\w+\.(size|sigma|cutout|length|samples)'
        r'|tokenizer\.|unlabelled\.(batch_size|views\.\w+\.(size|sigma|cutout|length|back))'
        r'|method\.(projector|predictor|prototypes|clusters|queue_size|memory|noise|decoder_\w+|context_(width|depth)|patch|stride|filters)|(pretrained|teacher)\.workdir|pretrained\.weights'
        r'|optimizer\.(learning_rate|schedule\.warmup_epochs)|groups\.\w+\.freeze_until):? ?'
    )
    changed = configs.differences(full, small)
    assert changed
    for line in changed:
        assert re.match(resized, line), line
    for key in ('probe', 'seed'):
        assert full[key] == small[key]
    for group in small['groups'].values():  # what is frozen at first moves before the end
        assert (group.get('freeze_until') or 0) <= 20
    kind = '+'.join(sorted({view.get('name', 'image') for view in small['views'].values()}))
    made = {'image': 'digits', 'image+text': 'captioned_digits', 'text': 'docstrings'}
    made |= {'recording': 'tones', 'frames': 'moving_digits'}
    assert small['data']['name'] == made[kind]
    assert small['batch_size'] * small['epochs'] <= 256  # some ninety steps of 64 on 1,437 digits
    for key in ('pretrained', 'teacher'):  # runs in their smoke form
        named = full[key]['workdir']
        assert small[key]['workdir'] == (f'{named}_smoke' if named else '')
    share = full['optimizer']['schedule']['warmup_epochs'] / full['epochs']
    assert small['optimizer']['schedule']['warmup_epochs'] / small['epochs'] == pytest.approx(share)
    sizes = {view['size'] for view in small['views'].values() if 'size' in view}
    assert max(sizes, default=0) == small['evaluation']['size']
    assert sizes <= {8, 16}  # small crops stay small
    assert len(sizes) == len({view['size'] for view in full['views'].values() if 'size' in view})


def test_a_config_can_change_its_own_smoke_form():
    of = configs.finish(configs.default(), 'smoke', batch_size=32)
    assert of.batch_size == 32
    assert (
        configs.finish(configs.default(), '', batch_size=32).batch_size
        == configs.default().batch_size
    )


def test_a_text_encoder_is_completed_like_an_encoder_and_absent_if_it_is_not_named():
    assert configs.finish(configs.default()).text_encoder.to_dict() == {}
    for variant, width in (('', 128), ('smoke', 64)):
        of = configs.default()
        of.text_encoder = {'name': 'text', 'width': 128, 'length': 9}
        made = configs.finish(of, variant).text_encoder
        assert set(made) == {'name', *keywords(text)}
        vocabulary = 512 if variant else 49408
        assert (made.width, made.length, made.vocabulary) == (width, 9, vocabulary)


def test_a_run_gives_its_text_encoder_to_the_method():
    of = configs.default()
    of.method.name, of.text_encoder = 'clip', {'name': 'text', 'width': 128}
    run = describe(configs.finish(of, 'smoke').to_dict(), 1000, 0)
    batch = {'views': (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 77), np.int32))}
    params, _ = jax.eval_shape(run.method.init, jax.random.key(0), batch)
    assert params['text_encoder']['pos_embed'].shape == (77, 64)
    of.text_encoder.name = 'txt'
    with pytest.raises(Problem, match=r"^config\.text_encoder\.name='txt' is not in .* \"text\"\?"):
        describe(of.to_dict(), 1000, 0)


def test_an_evaluation_has_the_largest_size_of_the_views():
    of = configs.default()
    of.views = {'globals': {'size': 96}, 'locals': {'size': 32}}
    assert configs.finish(of).evaluation.size == 96
    of = configs.default()
    of.evaluation.size = 64
    assert configs.finish(of).evaluation.size == 64


def test_load_runs_the_file_with_its_variant(tmp_path):
    path = write(tmp_path, 'def get_config(variant):\n    return {"variant": variant}\n')
    assert configs.load(path) == {'variant': ''}
    assert configs.load(f'{path}:smoke') == {'variant': 'smoke'}
    digits = ROOT / 'configs' / 'simclr_digits.py'
    assert configs.load(f'{digits}:smoke').to_dict() == config('simclr_digits', 'smoke').to_dict()


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('x = 1\ndef get_config(variant:\n', 'line 2: SyntaxError'),
        ('def get_config(variant):\n    config = 1\n    config.x = 2\n', 'line 3: AttributeError'),
        ('import no_such_module\n', 'line 1: ModuleNotFoundError'),
        ('\nvalue = 1 / 0\n', 'line 2: ZeroDivisionError: division by zero'),
        ('def make(variant):\n    pass\n', 'defines no get_config(variant)'),
        ('def get_config():\n    pass\n', 'TypeError'),
    ],
)
def test_a_mistake_in_a_config_file_is_named_with_its_line(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(Problem) as error:
        configs.load(path)
    assert error.value.code == CONFIG
    assert path in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize('name', ['absent.py', '.', ''])
def test_a_config_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(Problem, match='no such file') as error:
        configs.load(str(tmp_path / name))
    assert error.value.code == CONFIG


def test_an_unknown_variant_is_refused_with_the_nearest():
    with pytest.raises(Problem, match='":smok": did you mean "smoke"') as error:
        config('simclr_digits', 'smok')
    assert error.value.code == CONFIG


@pytest.mark.parametrize('part', ['encoder', 'method', 'data', 'optimizer'])
@pytest.mark.parametrize('name', ['simclrr', 'Path'])
def test_a_name_in_a_file_that_does_not_exist_is_left_to_its_user(part, name):
    """`describe` and `sources.load` refuse it with the nearest name; here it must not end in a stack of frames."""
    of = configs.default()
    of[part].name = name
    configs.finish(of)


@pytest.mark.parametrize(
    ('key', 'value', 'said'),
    [
        ('batchsize', '3', 'config has no "batchsize"; did you mean "batch_size"?'),
        (
            'method.temprature',
            '1',
            'config.method has no "temprature"; did you mean "temperature"?',
        ),
        ('views.view.sise', '1', 'config.views.view has no "sise"; did you mean "size"?'),
        ('optimiser.name', 'sgd', 'did you mean "optimizer"?'),
        ('seed.x', '1', 'config.seed is a value and has no keys'),
        ('method', 'simclr', 'config.method is a section; set its keys: bn_groups, '),
    ],
)
def test_an_override_of_what_is_not_there_is_refused(key, value, said):
    with pytest.raises(Problem) as error:
        configs.check_override(config('simclr_digits'), key, value)
    assert error.value.code == CONFIG
    assert f'--config.{key}' in str(error.value)
    assert said in str(error.value)


def test_an_override_of_what_is_there_passes():
    of = config('simclr_digits')
    for key in (
        'seed',
        'method.temperature',
        'views.view.area',
        'optimizer.schedule.warmup_epochs',
    ):
        configs.check_override(of, key, '1')
    configs.check_override(of, 'method', '{"temperature": 0.5}')


def test_differences_are_named_by_path():
    then = {'a': 1, 'b': {'c': (1, 2), 'd': {'e': 'x'}}, 'gone': None}
    now = {'a': 2, 'b': {'c': [1, 2], 'd': {'e': 'y'}}, 'new': 0.5}
    assert configs.differences(then, then) == []
    assert configs.differences(then, now) == ['a: 1 -> 2', "b.d.e: 'x' -> 'y'", 'new: None -> 0.5']
    assert configs.differences({'a': {'b': 1}}, {'a': 1}) == ["a: {'b': 1} -> 1"]
    assert configs.differences({'a': (1, (2, 3))}, {'a': [1, [2, 4]]}) == [
        'a: [1, [2, 3]] -> [1, [2, 4]]'
    ]


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(Problem, match='is not the workdir of a run') as error:
        configs.saved(tmp_path)
    assert error.value.code == INPUT
    (tmp_path / 'config.json').write_text('{"seed": ')
    with pytest.raises(Problem, match=r'config\.json is not JSON') as error:
        configs.saved(tmp_path)
    assert error.value.code == CONFIG


def test_a_config_is_written_whole_or_not_at_all(tmp_path):
    configs.save({'seed': 1}, tmp_path)
    with pytest.raises(TypeError):
        configs.save({'seed': 2, 'bad': object()}, tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text()) == {'seed': 1}
    assert configs.saved(tmp_path)['seed'] == 1


def test_an_old_config_gets_the_settings_that_came_after_it(tmp_path):
    of = config('simclr_digits').to_dict()
    configs.save(of, tmp_path)
    saved = json.loads((tmp_path / 'config.json').read_text())
    del saved['views']['view']['flavour'], saved['tokenizer'], saved['subset']['repeat']
    del saved['data']['test_fraction']
    of['teacher']['run'] = config('simclr_digits').to_dict()
    saved['teacher']['run'] = json.loads(json.dumps(saved))
    (tmp_path / 'config.json').write_text(json.dumps(saved))
    assert configs.differences(configs.saved(tmp_path), of) == []


def test_the_default_is_new_each_time():
    of = configs.default()
    of.views.view = {'size': 8}
    of.seed = 5
    assert configs.default().seed == 0
    assert configs.default().views == ConfigDict({'view': {}})
