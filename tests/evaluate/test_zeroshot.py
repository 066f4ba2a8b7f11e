"""Zero-shot classification is by the mean of normalised prompts; equals are decided by number."""

import numpy as np
import pytest

from clr_jax.evaluate.zeroshot import class_embeddings, classify


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_a_class_is_the_mean_of_its_normalised_prompts_normalised_again():
    text, label = normal(7, 4) * np.arange(1, 8)[:, None], np.array([2, 0, 1, 0, 2, 2, 1])
    found = class_embeddings(text.astype(np.float32), label, 3)
    for c in range(3):
        rows = [row / np.sqrt((row**2).sum()) for row, k in zip(text, label, strict=True) if k == c]
        mean = sum(rows) / len(rows)
        np.testing.assert_allclose(found[c], mean / np.sqrt((mean**2).sum()), atol=1e-6)
    # long prompts weigh no more than short ones
    np.testing.assert_allclose(
        class_embeddings(text * label[:, None] + text, label, 3), found, atol=1e-6
    )


def test_a_class_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match='^class 1 has no prompt$'):
        class_embeddings(normal(3, 4), np.array([0, 2, 2]), 3)


@pytest.mark.parametrize('block', [1, 3, 100])
def test_the_nearest_classes_come_first(block):
    image, classes = normal(8, 4), normal(5, 4, seed=1) * np.arange(1, 6)[:, None]
    found = classify(image.astype(np.float32), classes.astype(np.float32), k=3, block=block)
    for x, nearest in zip(image, found, strict=True):
        cosine = [x @ c / np.linalg.norm(c) for c in classes]
        assert list(nearest) == sorted(range(5), key=lambda c, cosine=cosine: -cosine[c])[:3]
    np.testing.assert_array_equal(classify(image, classes, block=block)[:, 0], found[:, 0])


def test_of_equal_classes_the_first_is_chosen():
    classes = np.repeat(normal(1, 37), 50, 0)
    found = classify(normal(20, 37, seed=1), classes, k=4)
    np.testing.assert_array_equal(found, [[0, 1, 2, 3]] * 20)
