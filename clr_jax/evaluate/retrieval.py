"""Retrieval: is the right text among the nearest of an image, and the right image among those of a
text (Karpathy & Fei-Fei, 2014; arXiv:1412.2306, section 4.1)?"""

import numpy as np

from clr_jax.evaluate.zeroshot import compared, unit


def recall(image, text, owner, ks=(1, 5, 10), block: int = 1024) -> dict:
    """-> {'image_to_text_1': share of images with any of their texts among the 1 of the greatest
    cosine, ..., 'text_to_image_1': share of texts with their image among that 1, ...}, for each of
    `ks`.

    image: [n, e], text: [m, e] with the number of each text's image, `owner` [m]; every image has
    one text at least, or it is a ValueError. Of equals the lower number is nearer. `block` rows are
    compared at a time, with all of the other side.
    """
    image, text, owner = unit(image), unit(text), np.asarray(owner)
    alone = np.setdiff1d(np.arange(len(image)), owner)
    if len(alone) or not np.isin(owner, np.arange(len(image))).all():
        which = f'image {alone[0]} has no text' if len(alone) else 'a text of no image'
        raise ValueError(f'retrieval takes texts of every image and of no other: {which}')
    images = np.arange(len(image))
    found = {
        'image_to_text': ranks(image, text, lambda rows: owner == rows[:, None], block),
        'text_to_image': ranks(text, image, lambda rows: owner[rows, None] == images, block),
    }
    return {f'{way}_{k}': float((rank < k).mean()) for way, rank in found.items() for k in ks}


def ranks(query, key, right, block: int) -> np.ndarray:
    """How many keys [m, e] are nearer to each query [n, e] than the nearest right one, [n]; right: of
    queries' numbers [b] -> which keys are right [b, m]."""
    found, place = [], np.arange(len(key))
    for start in range(0, len(query), block):
        rows = np.arange(start, min(start + block, len(query)))
        similarity, good = compared(query[rows] @ key.T), right(rows)  # [b, m]
        best = np.where(good, similarity, -np.inf).argmax(1)[:, None]  # [b, 1], the first of equals
        highest = np.take_along_axis(similarity, best, 1)
        nearer = (similarity > highest) | ((similarity == highest) & (place < best))
        found.append(nearer.sum(1))
    return np.concatenate(found)
