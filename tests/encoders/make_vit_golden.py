"""Write vit_golden.npz: small Vision Transformers of timm's, what they see and what they answer.

    pip install torch timm
    python tests/encoders/make_vit_golden.py

Written with timm 1.0.31 and torch 2.13.0. All weights are noise, so that no bias is zero and no
scale is one. Weights and images are float16, which is small and exact in any other precision;
answers are computed in float64, but for timm's interpolation of positions, which is in float32.
"""

from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

SMALL = {'img_size': 16, 'patch_size': 4, 'embed_dim': 12, 'depth': 2, 'num_heads': 3}
POOLS = {'token': {}, 'average': {'class_token': False, 'global_pool': 'avg', 'fc_norm': False}}
# grids of 4 x 4 patches, as the learned positions, and of others, to which they are interpolated
SIZES = ((16, 16), (24, 24), (12, 12), (8, 20))


def main():
    generator = torch.Generator().manual_seed(0)
    normal = lambda shape: torch.randn(shape, generator=generator)
    pixels = lambda shape: torch.randint(0, 256, shape, generator=generator) / 256
    images = {size: pixels((2, *size, 3)) for size in SIZES}
    arrays = {f'x/{h}x{w}': x.half().numpy() for (h, w), x in images.items()}
    for pool, options in POOLS.items():
        model = VisionTransformer(**SMALL, **options, num_classes=0, dynamic_img_size=True)
        model.eval().double()
        for name, weight in model.named_parameters():
            centre = 1 if 'norm' in name and name.endswith('weight') else 0
            weight.data = (centre + normal(weight.shape) / 3).half().double()
            arrays[f'{pool}/weights/{name}'] = weight.data.half().numpy()
        for (h, w), x in images.items():
            with torch.no_grad():
                arrays[f'{pool}/h/{h}x{w}'] = model(x.double().permute(0, 3, 1, 2)).numpy()
    np.savez_compressed(Path(__file__).with_name('vit_golden.npz'), **arrays)


if __name__ == '__main__':
    main()
