"""What a compiler must know of the data without the data."""

import json

import pytest

from clr_jax import train
from clr_jax.preflight.request import request
from tests.conftest import ROOT, config


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    """No prepared data set, in the folder where configs/ is."""
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    monkeypatch.chdir(ROOT)


def asked(name, variant='', *given, **changes):
    c = config(name, variant)
    c.update(changes)
    found, said = request(c.to_dict(), 'v5e:8x8', 1, *given)
    return found['examples'], found['classes'], said


def test_data_that_are_here_are_counted():
    assert asked('simclr_digits') == (1437, 10, 'found here: digits (train)')


def test_of_others_the_published_numbers():
    assert asked('simclr_imagenet') == (1281167, 1000, 'as published of imagenet2012')
    assert asked('simclr_cifar10') == (50000, 10, 'as published of cifar10')
    assumed = "assumed: ImageNet's; the data is not here"
    assert asked('clip_laion') == (1281167, 1000, assumed)
    assert asked('simclrv2_finetune_imagenet')[:2] == (128117, 1000)  # a tenth


def test_given_numbers_lead():
    assert asked('simclr_imagenet', '', 5000, 0) == (5000, 0, 'given')
    found = asked('simclr_imagenet', '', 5000)
    assert found[:2] == (5000, 1000)
    assert found[2].startswith('given in part, else as published of imagenet2012')


def test_a_teachers_config_is_that_of_its_name_where_there_is_no_run():
    found, _ = request(config('simclrv2_distill_imagenet').to_dict(), 'v5e:8x8', 1)
    teacher = found['config']['teacher']
    assert (teacher['examples'], teacher['classes']) == (1281167, 1000)
    own = config('simclrv2_finetune_imagenet').to_dict()
    assert teacher['run']['encoder'] == json.loads(json.dumps(own['encoder']))
    assert train.describe(found['config'], 1281167, 1000).method


def test_a_request_is_json():
    found, _ = request(config('dino_imagenet').to_dict(), 'v5e:8x8', 2)
    assert json.loads(json.dumps(found)) == found
    assert (found['topology'], found['slices']) == ('v5e:8x8', 2)
