"""The step and the loop: the only ones, for every method."""

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import PartitionSpec as P

import clr_jax
from clr_jax import accumulate, networks, optimizers, parallel, placement
from clr_jax import config as configs
from clr_jax import workdir as workdirs
from clr_jax.checkpoint import Checkpoints, check_structure, shapes
from clr_jax.data import damage, device_augment, index, pipeline, sources, subsets, text, views
from clr_jax.data.source import Source
from clr_jax.entry import NO_PROGRESS, PREEMPTED, Problem, known
from clr_jax.evaluate.features import extract, forward
from clr_jax.evaluate.online import online_judge
from clr_jax.guard import Watchdog, preemption
from clr_jax.health import health
from clr_jax.log import Log, Profile, say
from clr_jax.method import Method, check_keywords, load, make_time, named, needs
from clr_jax.probe import probed
from clr_jax.weights import encoder_weights


class TrainState(NamedTuple):
    """Everything that changes in a run, and all that a checkpoint must hold."""

    step: jax.Array  # [] int32, steps done
    params: Any  # what the optimizer trains
    opt: Any  # the optimizer's state
    state: Any  # the method's state


def make_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    mesh,
    *,
    seed: int,
    steps_per_epoch: int,
    total_steps: int,
    health_every: int = 1,
    sharded: bool = False,
    plain: int = 1,
) -> jax.stages.Wrapped:
    """-> step(TrainState, batch) -> (TrainState, metrics), compiled once, the old state donated.

    Loss and gradient run on every shard, where collectives are explicit; the optimizer and
    `method.update` after them on whole arrays. The gradient is exact for the global batch: the
    objective is the mean over shards, parameters are marked as varying in their own dtype, and
    their gradients are summed in it. Metrics are global; the health measures are computed at every
    `health_every`-th step and the last, and NaN at others. sharded: of `placement.shardings`; plain:
    pieces of `accumulate.plain`.
    """

    def gradient(step, key, params, state, batch):  # on this shard's rows
        now = make_time(step, steps_per_epoch, total_steps)

        def objective(params, key, state, batch):
            loss, aux = method.loss(params, state, batch, key=key, time=now)
            return parallel.mean(loss), aux

        slope = accumulate.plain(jax.value_and_grad(objective, has_aux=True), plain)
        parted = placement.parted(state, sharded)
        (loss, aux), grads = slope(parallel.vary(params), key, parted, batch)
        due = ((step + 1) % health_every == 0) | (step + 1 == total_steps)
        measured = lambda: parallel.vary(health(jax.lax.stop_gradient(aux.z)))
        blank = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), jax.eval_shape(measured))
        unknown = lambda: parallel.vary(blank)
        metrics = {'loss': loss} | aux.metrics | jax.lax.cond(due, measured, unknown)
        return parallel.reduce(grads), placement.joined(aux.state), parallel.mean(metrics)

    def step(ts, batch):
        key = jax.random.fold_in(jax.random.key(seed), ts.step)
        specs = placement.specs(ts.state, sharded)
        takes, gives = (P(), P(), P(), specs, P(parallel.DATA)), (P(), specs, P())
        on_shards = parallel.shard(gradient, mesh, takes, gives)
        grads, state, metrics = on_shards(ts.step, key, ts.params, ts.state, batch)
        updates, opt = optimizer.update(grads, ts.opt, ts.params)
        params = optax.apply_updates(ts.params, updates)
        after = make_time(ts.step + 1, steps_per_epoch, total_steps)
        params, state = method.update(params, state, key=key, time=after)
        metrics |= {'gradient_norm': optax.tree.norm(grads)}
        return placement.place(TrainState(ts.step + 1, params, opt, state), mesh, sharded), metrics

    return jax.jit(step, donate_argnums=0)


def initializer(method: Method, optimizer, mesh, batch, sharded: bool = False) -> Callable:
    """(key, pretrained) -> the TrainState before the first step; of `batch` only shapes count."""

    def init(key, pretrained):
        params, state = method.init(key, batch, pretrained)
        ts = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), state)
        return placement.place(ts, mesh, sharded)

    return init


def make_state(
    method: Method, optimizer, mesh, batch, *, seed: int, pretrained=None, sharded: bool = False
) -> TrainState:
    """The TrainState before the first step, on the devices of `mesh`; the same for the same seed."""
    key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)  # apart from every step's key
    cpu = mesh.devices.flat[0].platform == 'cpu'
    # it runs once, in far less time than LLVM takes to make it faster
    options = {'xla_backend_optimization_level': 0} if cpu else {}
    init = initializer(method, optimizer, mesh, batch, sharded)
    return jax.jit(init, compiler_options=options)(key, pretrained)


class Run(NamedTuple):
    """What a config describes, before anything is computed."""

    method: Method
    optimizer: optax.GradientTransformation
    learning_rate: Callable
    views: list  # groups of them, of `data.views.KINDS`
    steps_per_epoch: int
    total_steps: int
    unlabelled: Sequence = ()  # groups of the second stream
    extra: int = 0  # its examples in a batch


def describe(config: dict, examples: int, classes: int) -> Run:
    """The objects that a resolved config names, for a data set of this many examples and classes
    (0: unlabelled)."""
    batch_size = config['batch_size']
    if examples < batch_size:
        few = f'there are {examples} training examples'
        raise Problem(f'config.batch_size={batch_size} is too large: {few}')
    given: dict = {'examples': examples, 'classes': classes, 'teacher': None, 'text_encoder': None}
    given['encoder'] = load('clr_jax.encoders', config['encoder'])
    if config['text_encoder']:
        section = config['text_encoder']
        given['text_encoder'] = load('clr_jax.encoders', section, 'text_encoder')
    teacher = config['teacher']
    if teacher.get('run'):  # its classes are the student's
        given['teacher'] = describe(teacher['run'], teacher['examples'], teacher['classes']).method
        given['classes'] = teacher['classes']
    method = load('clr_jax.methods', config['method'], **given)
    if (pieces := config['accumulate']['exact']) > 1:
        kinds = {type(given[name]) for name in ('encoder', 'text_encoder') if given[name]}
        method = accumulate.exact(method, tuple(kinds), pieces)
    name = config['method']['name']
    has_rows = 'examples' in needs(named('clr_jax.methods', name, 'method'))
    for setting in ('balance', 'weights'):
        if config['subset'][setting] and has_rows:
            rows, twice = (
                'has one row for each example',
                'an example may then come twice in a batch',
            )
            raise Problem(f'config.subset.{setting}: {name} {rows}, and {twice}')
    make = lambda of, at: [views.make(of[name], f'config.{at}.{name}') for name in of]
    groups, extra = make(config['views'], 'views'), config['unlabelled']['batch_size']
    others = make(config['unlabelled']['views'], 'unlabelled.views')
    if bool(others) != bool(extra) or extra < 0:
        raise Problem('config.unlabelled: set batch_size and views, or neither')
    device_augment.check(**config['augment'], views=groups + others)
    if config['augment']['device']:
        method = device_augment.augmented(method, groups, others)
    steps_per_epoch = examples // batch_size
    total = config['steps'] or config['epochs'] * steps_per_epoch
    if not 1 <= total < math.inf:
        raise Problem(f'a run of {total} steps: set config.epochs or config.steps above zero')
    total = round(total)
    pace = {'batch_size': batch_size, 'steps_per_epoch': steps_per_epoch, 'total_steps': total}
    optimizer = optimizers.optimizer(config['optimizer'], config['groups'], **pace)
    if classes and config['probe']['learning_rate']:
        method = probed(method, classes)
        probe = optax.adam(config['probe']['learning_rate'])
        optimizer = optimizers.each({'method': optimizer, 'probe': probe})
    rate = optimizers.learning_rate(config['optimizer'], **pace)
    return Run(method, optimizer, rate, groups, steps_per_epoch, total, others, extra)


def step_of(config: dict, run: Run, mesh) -> jax.stages.Wrapped:
    """The step of a config on these devices."""
    return make_step(
        *(run.method, run.optimizer, mesh),
        steps_per_epoch=run.steps_per_epoch,
        total_steps=run.total_steps,
        seed=config['seed'],
        sharded=config['sharded'],
        plain=config['accumulate']['plain'],
        health_every=config['log_every'],
    )


def blank_batch(run: Run, examples: int) -> dict:
    """A batch of zeros in the shapes of a real one, but for the number of examples."""
    batch = views.blank(run.views, examples)
    if run.extra:
        batch['unlabelled'] = {'views': views.blank(run.unlabelled, examples)['views']}
    return batch


def batches(run: Run, config: dict, mesh, train: Source, whole: Source, start: int = 0):
    """Endless training batches from step `start` on, this process's rows: `views`, `label` and `index`
    of `train`, and where there is a second stream `unlabelled`, its views of `whole`."""
    place = config['augment']
    how = {'start': start, 'canvas': place['canvas'] if place['device'] else None}
    ours = {'batch_size': config['batch_size'], 'rows': parallel.rows(mesh, config['batch_size'])}
    first = pipeline.train_batches(train, run.views, seed=config['seed'], **ours, **how)
    if not run.extra:
        yield from first
    ours = {'batch_size': run.extra, 'rows': parallel.rows(mesh, run.extra)}
    seed = index.fold(config['seed'], 'unlabelled')
    second = pipeline.train_batches(whole, run.unlabelled, seed=seed, **ours, **how)
    for batch, other in zip(first, second, strict=True):
        kept = {name: x for name, x in other.items() if name not in ('label', 'index')}
        yield batch | {'unlabelled': kept}


def fit(config: dict, workdir: str):
    """Train as `config` says, from the last checkpoint in `workdir` if there is one, to the end, or
    until the machine is taken away."""
    with ExitStack() as inside:
        _fit(config, workdir, inside.enter_context)


def _fit(config, workdir, enter):
    begun, watchdog = time.perf_counter(), Watchdog(config['stuck_after'], 'config.stuck_after')
    enter(watchdog)
    preempted = enter(preemption())
    config = views.with_schedules(with_teacher(config, workdir))
    workdirs.check(workdir, config)
    mesh, whole, train, run = prepare(config, workdir)
    batch_size, judge = config['batch_size'], None
    if train.classes:
        judge = online_judge(config, run.method, mesh, train, sources.load(config['data'], 'test'))
    refresh = refresher(config, run, mesh, train) if run.method.refresh else None
    saved_steps = Checkpoints(workdir, read_only=True).steps()
    ours = enter(workdirs.occupied(workdir, max(saved_steps, default=0)))
    ts = state_of(config, run, mesh, new=not saved_steps)
    workdirs.claim(workdir, config, train.tokenizer)
    checkpoints = Checkpoints(workdir, config['keep'])
    data = {'classes': train.classes or 0, 'examples': train.size, 'content': train.fingerprint}
    start = 0
    if saved_steps:
        ts, saved, start = checkpoints.restore(ts)
        if saved != data:
            change = f'{saved}, now {data}'
            raise Problem(f'{workdir} was trained on other data ({change}): use another --workdir')
        say(f'resumed from step {start}')
    step: Any = step_of(config, run, mesh)
    sizes = {'total_steps': run.total_steps, 'batch_size': batch_size}
    log = Log(workdir, start=start, begun=begun, **sizes)
    profile = Profile(workdir, *config['profile'])
    say(
        f'{config["method"]["name"]} on {train.name}: {train.size} examples, '
        f'{run.total_steps} steps of {batch_size} on {mesh.size} {jax.default_backend()} devices '
        f'of {jax.process_count()} processes'
    )
    stream = batches(run, config, mesh, train, whole, start)
    previous = None
    for number in range(start + 1, run.total_steps + 1):
        watchdog.beat()
        if refresh and (number - 1) % run.steps_per_epoch == 0:
            with log.pause():
                ts = refresh(ts)
        with log.wait():
            batch = next(stream)
        batch = parallel.spread(batch, mesh)
        profile.before(number)
        if previous is None:
            with log.pause():
                step = compiled(step, ts, batch, config['compiler_options'])
        ts, metrics = step(ts, batch)
        if previous is not None:
            jax.block_until_ready(previous)  # at most two steps in flight
        profile.after(number, metrics)
        watchdog.beat()
        previous, leaving = metrics['loss'], preempted(number)
        due = lambda every: number == run.total_steps or (every and number % every == 0)
        saving, judging = due(config['checkpoint_every']), due(config['evaluation']['every'])
        if due(run.steps_per_epoch):
            damage.report(whole)
        logging = saving or judging or due(config['log_every'])
        if not (logging or leaving):
            continue
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not (math.isfinite(metrics['loss']) and math.isfinite(metrics['gradient_norm'])):
            checkpoints.close()
            raise Problem(
                f'the loss is not finite at step {number} (loss {metrics["loss"]}, gradient norm '
                f'{metrics["gradient_norm"]}): lower config.optimizer.learning_rate; '
                'checkpoints before it are good',
                NO_PROGRESS,
            )
        if judging and judge:
            with log.pause():
                metrics |= judge(ts.params, ts.state)
        if logging:
            metrics |= damage.counted(whole)
            log.write(number, metrics | {'learning_rate': float(run.learning_rate(number - 1))})
        if saving or leaving:  # after the log, so that none of its lines is missing after a resume
            ours()
            watchdog.beat()
            with log.pause():
                top1 = metrics.get('test_top1', metrics.get('knn_top1'))
                checkpoints.save(number, ts, data, top1)
        if leaving and number < run.total_steps:
            checkpoints.close()
            goes_on = 'the same command goes on from there'
            raise Problem(f'step {number} of {run.total_steps} is saved: {goes_on}', PREEMPTED)
    checkpoints.close()
    log.close()
    say(f'done: {workdir}')


def prepare(config: dict, workdir) -> tuple[Any, Source, Source, Run]:
    """-> the mesh, all training examples, those of config.subset, and the run that a complete config
    describes with these; all processes have found the same."""
    mesh = parallel.make_mesh(groups=config['bn_groups'])
    parallel.check_batch(config['batch_size'], mesh, config['bn_groups'], **config['accumulate'])
    check_keywords(subsets.subset, config['subset'], 'config.subset')
    whole = sources.load(config['data'], 'train')
    whole = whole._replace(tokenizer=text.tokenizer(config, workdir, whole))
    train = subsets.subset(whole, **config['subset'])
    run = describe(config, train.size, train.classes or 0)
    if run.extra:
        parallel.check_batch(run.extra, mesh, **config['accumulate'])
    versions = f'{clr_jax.__version__}, jax {jax.__version__}, numpy {np.__version__}'
    said = json.dumps(config, sort_keys=True)
    parallel.agree({'config': said, 'installation': versions, 'data set': train.fingerprint})
    return mesh, whole, train, run


def state_of(config: dict, run: Run, mesh, new: bool) -> TrainState:
    """The state before a config's first step, or, if not `new`, one of its shape to restore into."""
    other = others(config, run, mesh) if new else None
    begin = {'seed': config['seed'], 'pretrained': other, 'sharded': config['sharded']}
    return make_state(run.method, run.optimizer, mesh, blank_batch(run, 2), **begin)


def compiled(step: jax.stages.Wrapped, ts: TrainState, batch, options: str = '') -> Callable:
    """`step` compiled for these arguments, once all processes are found to have the same program.
    options: of config.compiler_options; raises Problem for what the compiler does not take."""
    asked = dict(option(word) for word in options.split(',') if word)
    lowered = step.lower(ts, batch)
    if jax.process_count() > 1:
        parallel.agree({'program': lowered.as_text()})
    try:
        return lowered.compile(compiler_options=asked)
    except jax.errors.JaxRuntimeError as error:
        if asked and re.search('No such compile option|While setting option', str(error)):
            raise Problem(f'config.compiler_options: {error}') from None
        raise


def option(word: str) -> tuple:
    """'name=value' of a compiler's option -> both, the value as what it looks like."""
    name, is_one, value = word.strip().partition('=')
    if not is_one:
        raise Problem(f'config.compiler_options: "{word}" is not name=value')
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def refresher(config: dict, run: Run, mesh, train: Source) -> Callable:
    """-> refresh(TrainState) -> TrainState: what the method makes of the features of all training
    examples before an epoch. A function of the state alone, so that a resume at the boundary
    repeats it."""
    encode, shown = forward(run.method.features, mesh), views.evaluated(config)
    key = jax.random.fold_in(jax.random.key(config['seed']), 2**31 - 2)  # apart from every step's

    def refresh(ts):
        time = make_time(ts.step, run.steps_per_epoch, run.total_steps)
        say(f'epoch {int(time.epoch)}: features of {train.size} examples')
        found = extract(lambda batch: encode(ts.params, ts.state, batch), mesh, train, shown)
        own = jax.random.fold_in(key, int(time.epoch))
        before = placement.whole((ts.params, ts.state), mesh)
        params, state = run.method.refresh(*before, found.h, key=own, time=time)
        where = placement.shardings(ts, mesh, config['sharded'])
        params, state = placement.everywhere((params, state), (where.params, where.state))
        return ts._replace(params=params, state=state)

    return refresh


def restore(workdir, step: int = -1) -> tuple[Run, TrainState, int]:
    """The run in `workdir` as its config describes it, its state at `step` (-1: the latest), and
    that step."""
    config = configs.saved(workdir)
    checkpoints = Checkpoints(workdir, read_only=True)
    wanted = None if step < 0 else step
    data = checkpoints.data(wanted)
    run = describe(config, data['examples'], data['classes'])
    mesh = parallel.make_mesh()
    like = state_shapes(run, mesh)
    ts, _, found = checkpoints.restore(parallel.placed(like, mesh), wanted)
    checkpoints.close()
    return run, ts, found


def state_shapes(run: Run, mesh) -> TrainState:
    """What `make_state` makes, without values."""
    init = initializer(run.method, run.optimizer, mesh, blank_batch(run, 2))
    return jax.eval_shape(init, jax.random.key(0), None)


def with_teacher(config: dict, workdir) -> dict:
    """`config` with the config of the run that config.teacher names, and the size and classes of its
    data: saved with this one, they describe the teacher when that run is gone."""
    teacher = config['teacher']
    if not teacher['workdir']:
        return config
    about = {}
    if (epath.Path(workdir) / 'config.json').exists():
        about = configs.saved(workdir)['teacher']
    if about.get('workdir') != teacher['workdir']:
        about = {'run': configs.saved(teacher['workdir'])}
        about |= Checkpoints(teacher['workdir'], read_only=True).data()
    kept = {name: about[name] for name in ('run', 'examples', 'classes')}
    return config | {'teacher': teacher | kept}


def others(config: dict, run: Run, mesh):
    """What a method's `init` takes from elsewhere, or None: the parts of another run that
    config.pretrained names, or its file of an encoder's weights, checked against those of this run,
    and the teacher's (params, state)."""
    taken: dict = {'params': {}, 'batch_stats': {}}
    workdir, step, parts = (config['pretrained'][key] for key in ('workdir', 'step', 'parts'))
    file = config['pretrained']['weights']
    if file and workdir:
        raise Problem('config.pretrained: either a workdir or a file of weights, not both')
    if file:
        new = state_shapes(run, mesh)
        like = jax.eval_shape(run.method.variables, new.params, new.state)['params']['encoder']
        encoder = load('clr_jax.encoders', config['encoder'])
        taken['params']['encoder'] = encoder_weights(file, encoder, like)
    if workdir:
        other, ts, step = restore(workdir, step)
        taken = networks.select(other.method.variables(ts.params, ts.state), parts)
        new = state_shapes(run, mesh)
        ours = jax.eval_shape(run.method.variables, new.params, new.state)
        known(parts, ours['params'], 'config.pretrained.parts')
        ours = networks.select(ours, parts)
        for kind, tree in taken.items():  # of a head, the layers that are kept
            for part in tree.keys() & ours[kind].keys() - {'encoder'}:
                kept = ours[kind][part]
                tree[part] = {name: x for name, x in tree[part].items() if name in kept}
        where = f'step {step} of config.pretrained.workdir={workdir}'
        check_structure(shapes(taken), ours, where)
    workdir, step = (config['teacher'][key] for key in ('workdir', 'step'))
    if workdir:
        _, ts, _ = restore(workdir, step)
        taken['teacher'] = ts.params, ts.state
    return taken if any(taken.values()) else None
