"""Write torch.npz: what torchvision and Pillow make of two small pictures.

    pip install torch torchvision pillow
    python tests/data/golden/make_torch.py

Written with torchvision 0.29.1, torch 2.14.1 and Pillow 13.0.0. Colours are of torchvision's functions
of float tensors; crops, resizing and the blur `pillow` are of Pillow's images, as the published codes
have them.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import CenterCrop, Compose, RandomResizedCrop, Resize
from torchvision.transforms.v2 import functional as F

MODES = {'bilinear': F.InterpolationMode.BILINEAR, 'bicubic': F.InterpolationMode.BICUBIC}
COLOURS = ('brightness', 'contrast', 'saturation', 'hue')
VALUES = {
    'brightness': (0.3, 1.7),
    'contrast': (0.2, 1.8),
    'saturation': (0.0, 1.8),
    'hue': (-0.2, 0.45),
}
JITTER = {'brightness': 1.6, 'contrast': 1.5, 'saturation': 0.4, 'hue': 0.1}
ORDERS = ((0, 1, 2, 3), (3, 1, 0, 2), (2, 0, 3, 1))
BOXES = ((5, 3, 40, 31), (0, 0, 61, 47), (50, 30, 7, 9))  # top, left, height, width
# shape, area, ratio: the usual; often too wide; never fitting, too wide and too tall
CROPS = (
    ((375, 500), (0.08, 1.0), (3 / 4, 4 / 3)),
    ((100, 180), (0.5, 1.0), (3 / 4, 4 / 3)),
    ((20, 300), (0.9, 1.0), (3 / 4, 4 / 3)),
    ((300, 21), (0.9, 1.0), (3 / 4, 4 / 3)),
)


def main():
    rng = np.random.default_rng(0)
    arrays = {'picture': picture(rng, 20, 20), 'large': picture(rng, 61, 47)}
    x = torch.tensor(arrays['picture']).permute(2, 0, 1) / 255
    keep = lambda name, y: arrays.update({name: y.permute(1, 2, 0).numpy()})
    for name, values in VALUES.items():
        for value in values:
            keep(f'{name}/{value}', adjust(name, x, value))
    for order in ORDERS:
        y = x
        for k in order:
            y = adjust(COLOURS[k], y, JITTER[COLOURS[k]])
        keep('jitter/' + ''.join(map(str, order)), y)
    keep('grayscale', F.rgb_to_grayscale(x, 3))
    keep('solarize', F.solarize(x, 0.5))
    for kernel, sigma in ((3, 0.4), (3, 2.0), (9, 1.5)):
        keep(f'gaussian/{kernel}/{sigma}', F.gaussian_blur(x, [kernel] * 2, [sigma] * 2))
    image = Image.fromarray(arrays['picture'])
    for sigma in (0.1, 0.7, 1.3, 1.9):
        arrays[f'pillow/{sigma}'] = np.array(image.filter(ImageFilter.GaussianBlur(sigma)))
    image = Image.fromarray(arrays['large'])
    for name, mode in MODES.items():
        for number, box in enumerate(BOXES):
            arrays[f'resized/{name}/{number}'] = np.array(
                F.resized_crop(image, *box, [16, 16], mode)
            )
        central = Compose([Resize(18, mode), CenterCrop(16)])
        arrays[f'central/{name}'] = np.array(central(image))
    for number, (shape, area, ratio) in enumerate(CROPS):
        draws = rng.random((12, 22))
        boxes = [crop(shape, area, ratio, row) for row in draws]
        arrays |= {f'crop/{number}/draws': draws, f'crop/{number}/boxes': np.array(boxes)}
    np.savez_compressed(Path(__file__).with_name('torch.npz'), **arrays)


def picture(rng, height, width):
    """Patches of colour with noise, some greys, all brightnesses."""
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    x = coarse.repeat(4, 0).repeat(4, 1)[:height, :width] + rng.integers(
        -40, 41, (height, width, 3)
    )
    x[:2] = x[:2, :, :1]
    return x.clip(0, 255).astype(np.uint8)


def adjust(name, x, value):
    return getattr(F, f'adjust_{name}')(x, value)


def crop(shape, area, ratio, draws):
    """The box (top, left, height, width) of RandomResizedCrop where its generator says `draws`: ten
    areas, ten ratios, and the place."""
    pairs = iter(np.stack([draws[:10], draws[10:20]], 1).ravel())
    place = iter(draws[20:])
    uniform, randint = torch.Tensor.uniform_, torch.randint
    torch.Tensor.uniform_ = lambda x, low, high: x.double().fill_(low + (high - low) * next(pairs))
    torch.randint = lambda low, high, size: torch.tensor([low + int(next(place) * (high - low))])
    try:
        return RandomResizedCrop.get_params(torch.zeros(3, *shape), area, ratio)
    finally:
        torch.Tensor.uniform_, torch.randint = uniform, randint


if __name__ == '__main__':
    main()
