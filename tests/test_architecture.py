"""The house keeps its shape: what may stand where, and what every method brings along."""

import ast
import re
import subprocess

import pytest

from tests.conftest import ROOT, config

SOURCES = sorted((ROOT / 'clr_jax').rglob('*.py'))
METHODS = sorted(p.stem for p in (ROOT / 'clr_jax' / 'methods').glob('[a-z]*.py'))
CONFIGS = sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))
COLLECTIVES = {
    *('psum', 'pmean', 'pmax', 'pmin', 'ppermute', 'all_gather', 'all_to_all', 'psum_scatter'),
    *('axis_index', 'axis_size', 'pcast', 'shard_map', 'pmap', 'Mesh', 'make_mesh'),
}


def names(path):
    """Every name and attribute that a file uses, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno


def imports(path):
    """Every module that a file imports, and every name it imports from one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_collectives_stand_in_parallel_alone():
    ours = {name for name, _ in names(ROOT / 'clr_jax' / 'parallel.py')}
    assert {
        'psum',
        'pmean',
        'all_gather',
        'axis_index',
        'shard_map',
    } <= ours  # the search finds them
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in COLLECTIVES
            and ast.unparse(node.value) in ('jax', 'lax', 'jax.lax', 'jax.sharding')
        }
        imported = {name.rsplit('.', 1)[1] for name in imports(path) if '.' in name} & COLLECTIVES
        assert path.name == 'parallel.py' or not used | imported, path


def test_the_check_of_varying_axes_is_never_off():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == 'check_vma':
                assert path.name == 'parallel.py'
                assert ast.literal_eval(node.value) is True


def test_linen_is_initialised_and_applied_in_networks_alone():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ('mutable', 'rngs'):
                assert path.name == 'networks.py', (path, node.value.lineno)


def test_methods_import_no_method_and_flags_stay_in_entry_points():
    for path in SOURCES:
        modules = list(imports(path))
        if path.parent.name == 'methods':
            assert not [m for m in modules if m.startswith('clr_jax.methods')], path
        entry_points = (
            'main.py',
            '__main__.py',
            'entry.py',
            'pictures.py',
            'preview.py',
            'bucket.py',
            'pba.py',
        )
        if path.name not in entry_points:
            assert not [
                m for m in modules if m.startswith(('absl', 'ml_collections.config_flags'))
            ], path


def test_slow_and_optional_libraries_are_imported_late():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:  # module level
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            late = {'tensorflow', 'tensorflow_datasets', 'orbax', 'clu', 'tokenizers'}
            assert not late & {module.split('.')[0] for module in modules}, path


@pytest.mark.parametrize('method', METHODS)
def test_every_method_has_a_config_a_test_and_a_row(method):
    using = [name for name in CONFIGS if config(name).method.name == method]
    assert using
    assert (ROOT / 'tests' / 'methods' / f'test_{method}.py').exists()
    page = (ROOT / 'README.md').read_text()
    assert any(f'| `{name}` |' in page for name in using)


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_has_a_row_and_a_command(name):
    assert f'| `{name}` |' in (ROOT / 'README.md').read_text()
    text = (ROOT / 'configs' / f'{name}.py').read_text()
    assert f'python -m clr_jax.main --config=configs/{name}.py' in text
    assert 'Hardware:' in text


def test_every_module_is_in_the_architecture():
    page = (ROOT / 'ARCHITECTURE.md').read_text()
    for path in SOURCES:
        if path.name not in ('__init__.py',):
            assert path.name in page, path


def test_links_and_commands_of_the_documents_lead_somewhere():
    for page in (*ROOT.glob('*.md'), ROOT / 'launch' / 'README.md'):
        text = page.read_text()
        for target in re.findall(r'\]\((?!https?:)([^)#]+)\)', text):
            assert (page.parent / target).exists(), (page.name, target)
        for file in re.findall(r'--config=(configs/\w+\.py)', text):
            assert (ROOT / file).exists(), (page.name, file)
        for script in re.findall(r'\b((?:launch|tests|benchmarks)/[\w/]+\.(?:sh|py))\b', text):
            assert (ROOT / script).exists(), (page.name, script)


def test_shell_scripts_parse_and_can_be_run():
    scripts = [*ROOT.glob('launch/*.sh'), ROOT / 'tests' / 'run.sh', ROOT / '.ci' / 'run']
    for script in scripts:
        subprocess.run(['bash', '-n', script], check=True)
        assert script.stat().st_mode & 0o111, script
