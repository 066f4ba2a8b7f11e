"""Classification without training: an image is of the class whose descriptions its embedding is nearest
to (Radford et al., 2021; arXiv:2103.00020, section 3.1)."""

import numpy as np


def class_embeddings(text, label, classes: int) -> np.ndarray:
    """Embeddings of prompts [m, e] and the class of each [m] -> unit embeddings of the classes
    [classes, e], float64: the mean of each class's normalised prompts, normalised again. A class
    without a prompt is a ValueError."""
    text, label = unit(text), np.asarray(label)
    missing = np.setdiff1d(np.arange(classes), label)
    if len(missing):
        raise ValueError(f'class {missing[0]} has no prompt')
    total = np.zeros((classes, text.shape[1]))
    np.add.at(total, label, text)
    return unit(total)


def classify(image, classes, k: int = 1, block: int = 4096) -> np.ndarray:
    """Embeddings of images [n, e] and of classes [c, e] -> the k classes of the greatest cosine, [n,
    k], the greatest first; of equals the lower number first. `block` images at a time."""
    image, classes = unit(image), unit(classes)
    pieces = [image[i : i + block] @ classes.T for i in range(0, len(image), block)]
    nearest = [np.argsort(-compared(piece), 1, kind='stable')[:, :k] for piece in pieces]
    return np.concatenate(nearest)


def unit(x) -> np.ndarray:
    """Rows [n, e] at length 1, in float64; a zero row stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def compared(similarity) -> np.ndarray:
    """Similarities of float64 in float32: what is equal stays so in whatever order it was summed."""
    return similarity.astype(np.float32)
