"""Recall is of sorted lists: in both directions, with several texts for an image, equals by number."""

import numpy as np
import pytest

from clr_jax.evaluate.retrieval import recall

KS = (1, 2, 5)
RNG = np.random.default_rng(0)
OWNER = np.array([3, 0, 1, 1, 2, 0, 4, 5, 3, 3, 2, 4, 5])
IMAGE = RNG.normal(size=(6, 3))
TEXT = (IMAGE[OWNER] + RNG.normal(size=(13, 3))) * RNG.uniform(1, 9, size=(13, 1))


def by_sorting(image, text, owner, ks):
    cosine = lambda a, b: a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
    found = {}
    for k in ks:
        hits = []
        for i, x in enumerate(image):
            order = sorted(range(len(text)), key=lambda j, x=x: -cosine(x, text[j]))  # stable
            hits.append(any(owner[j] == i for j in order[:k]))
        found[f'image_to_text_{k}'] = np.mean(hits)
        hits = []
        for j, y in enumerate(text):
            order = sorted(range(len(image)), key=lambda i, y=y: -cosine(image[i], y))
            hits.append(owner[j] in order[:k])
        found[f'text_to_image_{k}'] = np.mean(hits)
    return found


@pytest.mark.parametrize('block', [1, 4, 100])
def test_recall_is_the_share_of_queries_with_a_right_answer_among_the_nearest(block):
    expected = by_sorting(IMAGE, TEXT, OWNER, KS)
    found = recall(IMAGE.astype(np.float32), TEXT.astype(np.float32), OWNER, KS, block)
    assert found == pytest.approx(expected)
    assert 0 < found['image_to_text_1'] < 1
    assert 0 < found['text_to_image_1'] < found['text_to_image_2'] < 1


def test_of_equals_the_lower_number_is_nearer():
    """Three images with the same embedding, and texts with that of a fourth: whose are found?"""
    image = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    text = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    found = recall(image, text, np.array([2, 1, 0, 3, 3]), (1, 2, 3))
    # text 2 has image 0 first; the texts of image 3 find it; images 1 and 2 are second and third
    assert [found[f'text_to_image_{k}'] for k in (1, 2, 3)] == [3 / 5, 4 / 5, 1]
    # image 2 has text 0 first and image 3 both of its own; of the others one each more
    assert [found[f'image_to_text_{k}'] for k in (1, 2, 3)] == [2 / 4, 3 / 4, 1]


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_equal_embeddings_are_equal_wherever_they_stand(dtype):
    """A product of matrices sums in an order that depends on the place."""
    rng = np.random.default_rng(1)
    same = np.repeat(rng.normal(size=(1, 301)), 77, 0).astype(dtype)
    image = rng.normal(size=(77, 301)).astype(dtype)
    found = recall(image, same, np.arange(77), (1, 40, 77))
    assert [found[f'image_to_text_{k}'] for k in (1, 40, 77)] == [1 / 77, 40 / 77, 1]


@pytest.mark.parametrize(
    ('owner', 'message'),
    [([0, 0, 2], 'image 1 has no text'), ([0, 1, 2, 3], 'a text of no image')],
)
def test_images_without_texts_and_texts_without_images_are_refused(owner, message):
    with pytest.raises(ValueError, match=message):
        recall(np.eye(3), np.ones((len(owner), 3)), np.array(owner))
