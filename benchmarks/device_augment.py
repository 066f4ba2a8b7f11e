"""What making views on a TPU costs, by the cycles that its compiler estimates; needs libtpu and no TPU.

    python benchmarks/device_augment.py

Compiles `clr_jax.data.device_augment` for one chip of TPU v5e, a batch of 128 and views of 224 pixels by
SimCLR's settings, and prints microseconds a view: estimated cycles at 1.5 GHz (assumed). Estimates of
a compiler compare programs; nothing runs.
"""

import argparse
import os

BATCH, CLOCK = 128, 1.5e9


def main():
    """Compile each program, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()
    from clr_jax.preflight import answers

    os.environ |= answers.QUIET  # before JAX is imported
    answers.versions()
    from clr_jax.data.augment import View

    print('| | µs a view |\n|---|---|')
    for flavour in ('torch', 'tf'):
        view = View(flavour=flavour, area=(1.0, 1.0))  # of crops that the host has made
        kinds = {
            'without blur': view._replace(blur=0.0),
            'with blur': view,
            'with blur and solarisation': view._replace(solarize=0.2),
        }
        for name, each in kinds.items():
            print(f'| {flavour}, {name} | {changes(each):.1f} |', flush=True)
        cut = crops(View(flavour=flavour), 512)
        print(f'| {flavour}, crops from a canvas of 512 | {cut:.1f} |', flush=True)


def changes(view) -> float:
    """µs of all after the crop: uint8 crops and what was drawn for them -> pictures."""
    import jax
    import numpy as np

    from clr_jax.data import augment, device_augment, index

    _, packed = device_augment.split(view, augment.sample(view, index.key(np.arange(BATCH)), 0))
    images = jax.ShapeDtypeStruct((BATCH, view.size, view.size, 3), np.uint8)

    def made(images, packed):
        return device_augment.made({'views': (images,), 'drawn': (packed,)}, [one])['views'][0]

    one = view._replace(copies=1)
    return estimated(made, images, jax.ShapeDtypeStruct(packed.shape, packed.dtype))


def crops(view, side: int) -> float:
    """µs of crops from whole images on a canvas."""
    import jax
    import numpy as np

    from clr_jax.data import device_augment

    canvas = jax.ShapeDtypeStruct((BATCH, side, side, 3), np.uint8)
    boxes = jax.ShapeDtypeStruct((BATCH, 4), np.float32)
    return estimated(
        lambda canvas, boxes: device_augment.cropped(view, canvas, boxes), canvas, boxes
    )


def estimated(function, *shapes) -> float:
    """Of a function of a batch: µs a row, on one chip."""
    import jax

    from clr_jax.preflight import hlo, topologies

    device, *_ = topologies.devices(topologies.parse('v5e:1x1'))
    place = jax.sharding.SingleDeviceSharding(device)
    placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in shapes]
    text = jax.jit(function).lower(*placed).compile().as_text()
    return hlo.cycles(hlo.parse(text)) / CLOCK / BATCH * 1e6


if __name__ == '__main__':
    main()
