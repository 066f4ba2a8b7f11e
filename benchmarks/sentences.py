"""SimCSE on a laptop: how well do cosines of sentences follow the scores that people gave?

    python benchmarks/sentences.py --stsb=stsbenchmark [--out=runs/sentences]

--stsb: a folder with the sts-train.csv and sts-dev.csv of STS Benchmark. Trains a small BERT from
scratch on WordNet's glosses (`configs/simcse_wordnet.py`), then on triples of sentences from
sts-train.csv (`configs/simcse_stsb.py`), and prints Spearman's correlation on sts-dev.csv: at random
initialisation, after the first and after the second training, as a Markdown table. What is done is
kept in --out.
"""

import argparse
import csv
import json
import os
import random
from pathlib import Path

from programs import call


def main():
    """Train and evaluate what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('--stsb', required=True)
    parser.add_argument('--out', default='runs/sentences')
    options = parser.parse_args()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    out, stsb = Path(options.out), Path(options.stsb)
    out.mkdir(parents=True, exist_ok=True)
    count = triples(stsb / 'sts-train.csv', out / 'triples.tsv')

    first, second = out / 'wordnet', out / 'stsb'
    train('simcse_wordnet', first)
    begin = [
        f'--config.data.path={out / "triples.tsv"}',
        f'--config.pretrained.workdir={first}',
        f'--config.tokenizer.path={first / "tokenizer.json"}',
    ]
    train('simcse_stsb', second, *begin)
    before, after = spearman(first, stsb, '--baselines'), spearman(second, stsb)
    print("Spearman's correlation on sts-dev.csv\n")
    print('| sentence encoder | correlation |\n|---|---|')
    print(f'| at random initialisation | {100 * before["random"]:.1f} |')
    print(f"| unsupervised, on WordNet's glosses | {100 * before['encoder']:.1f} |")
    print(f'| then supervised, on {count:,} triples | {100 * after["encoder"]:.1f} |')


def triples(scored: Path, file: Path) -> int:
    """Of every pair with a score of 4 or more, both ways: a sentence, the other one, and one that does
    not mean the same: the partner of the sentence in a pair with a score of 1 or less, or if it has
    none, any sentence of such a pair. -> their number."""
    rows = csv.reader(scored.open(newline=''), delimiter='\t', quoting=csv.QUOTE_NONE)
    pairs = [(float(row[4]), row[5], row[6]) for row in rows]
    apart = {a: b for score, x, y in pairs if score <= 1 for a, b in ((x, y), (y, x))}
    others, draw = sorted(apart), random.Random(0)
    with file.open('w', newline='') as target:
        target.write('sentence\tpositive\tnegative\n')
        same = [(a, b) for score, x, y in pairs if score >= 4 for a, b in ((x, y), (y, x))]
        for a, b in same:
            target.write(f'{a}\t{b}\t{apart.get(a) or draw.choice(others)}\n')
    return len(same)


def train(config: str, workdir: Path, *flags: str):
    file = f'--config=configs/{config}.py'
    call('clr_jax.main', file, f'--workdir={workdir}', *flags)


def spearman(workdir: Path, stsb: Path, *flags: str) -> dict:
    results = workdir / 'results.jsonl'
    if not results.exists():
        pairs = f'--pairs={stsb / "sts-dev.csv"}'
        call('clr_jax.evaluate', f'--workdir={workdir}', '--protocol=sts', pairs, *flags)
    return {line['source']: line['spearman'] for line in map(json.loads, results.open())}


if __name__ == '__main__':
    main()
