"""CURL on frames of a real environment: how much of its true state does a linear map read out?

    pip install 'gymnasium[classic-control]'
    python benchmarks/control.py [--env=Pendulum-v1] [--frames=10000] [--epochs=10] [--out=runs/control]

Records episodes of random actions, frames of 100 pixels and states, trains `configs/curl_control.py` on
most of the episodes, and prints R^2 on the held-out ones: of the encoder, of the encoder at random
initialisation and of pixels, as a Markdown table. What is done is kept in --out.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from programs import call

SIDE = 100


def main():
    """Record, train and evaluate what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('--env', default='Pendulum-v1')
    parser.add_argument('--frames', type=int, default=10_000)
    parser.add_argument('--epochs', type=float, default=10.0)
    parser.add_argument('--out', default='runs/control')
    options = parser.parse_args()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    episodes, workdir = Path(options.out) / 'episodes', Path(options.out) / 'curl'
    record(options.env, options.frames, episodes)
    data = [f'--config.data.path={episodes}', f'--config.epochs={options.epochs}']
    config = '--config=configs/curl_control.py'
    call('clr_jax.main', config, f'--workdir={workdir}', *data)
    results = workdir / 'results.jsonl'
    if not results.exists():
        call('clr_jax.evaluate', f'--workdir={workdir}', '--protocol=regression', '--baselines')
    print(f'{options.env}, R^2 of a linear read-out of the state on held-out episodes\n')
    print('| features | mean | each |\n|---|---|---|')
    for record_ in map(json.loads, results.open()):
        each = ', '.join(f'{value:.3f}' for value in record_['each'])
        print(f'| {record_["source"]} | {record_["r2"]:.3f} | {each} |')


def record(name: str, frames: int, folder: Path):
    """Episodes of random actions, one .npz file each with 'frames' and 'state', until there are enough."""
    import gymnasium

    folder.mkdir(parents=True, exist_ok=True)
    environment = gymnasium.make(name, render_mode='rgb_array')
    environment.action_space.seed(0)
    made, number = 0, 0
    while made < frames:
        observation, _ = environment.reset(seed=number)
        pictures, states, over = [], [], False
        while not over:
            pictures.append(smaller(environment.render()))
            states.append(observation)
            action = environment.action_space.sample()
            observation, _, terminated, truncated, _ = environment.step(action)
            over = terminated or truncated
        path = folder / f'{number:04}.npz'
        if not path.exists():
            np.savez(path, frames=np.stack(pictures), state=np.stack(states).astype(np.float32))
        made, number = made + len(pictures), number + 1
    environment.close()


def smaller(picture: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> [SIDE, SIDE, 3], the middle square by means of blocks."""
    side = min(picture.shape[:2]) // SIDE * SIDE
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    square = picture[top : top + side, left : left + side]
    blocks = square.reshape(SIDE, side // SIDE, SIDE, side // SIDE, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


if __name__ == '__main__':
    main()
