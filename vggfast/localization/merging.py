"""Greedy merging of boxes that are close (Sermanet et al. 2014, section 4.3).

For the boxes of one image and class: take the pair that matches best; while it matches well enough,
replace both by the average of their coordinates. The score of a merged box is the sum of the scores
of the boxes that went into it, and the best scored box is the prediction.

How well two boxes a and b match, 0 for equal ones:

    m(a, b) = |centre(a) - centre(b)| / ((diagonal(a) + diagonal(b)) / 2) + 1 - IoU(a, b)

the distance of the centres, in units that Sermanet et al. do not give, here in mean diagonals so
that objects of any size are treated alike, and what the two lack in overlap. A pair is merged while
m <= t. Of pairs that match equally well the first is taken, in the order of their first and then
of their second boxes.
"""

from __future__ import annotations

import numpy as np

THRESHOLD = 0.5  # t
MATCH_BYTES = 16 << 20  # of match scores held at a time


def merge(boxes: np.ndarray, threshold: float = THRESHOLD) -> tuple[np.ndarray, np.ndarray]:
    """Merge the boxes of each of P problems (an image, or an image and class), all at once.

    Each turn merges one pair in every problem that still has one. The best partner of each box is
    kept from turn to turn, so a turn costs P B operations, not P B^2, but for boxes whose partner
    is gone.

    Args:
        boxes: (P, B, 4), corners.
        threshold: t, at least 0.

    Returns:
        The merged boxes (P, B, 4), float64, each in the place of the first of its boxes (in
        the others' places there is nothing of use), and (P, B), int64: the place of the merged box
        into which each box went.
    """
    p, b = boxes.shape[:2]
    merged = boxes.astype(np.float64)
    owner = np.broadcast_to(np.arange(b), (p, b)).copy()
    at_once = max(1, MATCH_BYTES // (8 * b * b or 1))
    for start in range(0, p if b > 1 else 0, at_once):
        part = slice(start, start + at_once)
        _merge(merged[part], owner[part], threshold)
    return merged, owner


def _merge(merged: np.ndarray, owner: np.ndarray, threshold: float) -> None:
    """:func:`merge` in place."""
    p, b = owner.shape
    there = np.ones((p, b), bool)
    # match[p, i, j], i < j: how well box j matches box i; infinite below the diagonal.
    match = match_scores(merged[:, :, None], merged[:, None])
    match[:, np.tri(b, dtype=bool)] = np.inf
    best = match.min(2)
    partner = match.argmin(2)
    active = np.arange(p)
    while len(active):
        first = best[active].argmin(1)
        go = best[active, first] <= threshold
        active, first = active[go], first[go]
        if not len(active):
            break
        second = partner[active, first]
        merged[active, first] = (merged[active, first] + merged[active, second]) / 2
        rows = owner[active]
        owner[active] = np.where(rows == second[:, None], first[:, None], rows)
        there[active, second] = False
        _update(match, best, partner, merged, there, active, first, second)


def match_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """m (...) of boxes (..., 4) and (..., 4), broadcast."""
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = np.hypot(apart[..., 0], apart[..., 1])
    diagonal = (np.hypot(*np.moveaxis(size_a, -1, 0)) + np.hypot(*np.moveaxis(size_b, -1, 0))) / 2
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = sides.clip(min=0).prod(-1)
    union = size_a.prod(-1) + size_b.prod(-1) - both
    # Boxes without area overlap with nothing: at best, in one place, they match with 1.
    overlap = np.divide(both, union, out=np.zeros_like(union), where=union > 0)
    far = np.where(distance > 0, np.inf, 0.0)
    return np.divide(distance, diagonal, out=far, where=diagonal > 0) + 1 - overlap


def best_boxes(
    merged: np.ndarray, owner: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best scored merged box of each problem.

    Args:
        merged, owner: what :func:`merge` gave.
        scores: (P, B) of the boxes before merging, or (P, K, B), of K classes that share them.

    Returns:
        Boxes (P, 4) or (P, K, 4), and their scores (P,) or (P, K).
    """
    lead, b = scores.shape[:-1], scores.shape[-1]
    flat = scores.reshape(-1, b)
    problems = np.arange(len(flat))[:, None]
    each = np.broadcast_to(owner.reshape(len(owner), *(1,) * (scores.ndim - 2), b), scores.shape)
    bins = (problems * b + each.reshape(-1, b)).ravel()
    total = np.bincount(bins, flat.ravel(), minlength=flat.size).reshape(scores.shape)
    top = total.argmax(-1)
    boxes = merged[np.arange(len(merged)).reshape(-1, *(1,) * (len(lead) - 1)), top]
    return boxes, np.take_along_axis(total, top[..., None], -1)[..., 0]


def _update(
    match: np.ndarray,
    best: np.ndarray,
    partner: np.ndarray,
    merged: np.ndarray,
    there: np.ndarray,
    active: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> None:
    """Bring the match scores up to date after boxes ``second`` went into ``first``."""
    b = match.shape[1]
    index = np.arange(b)
    new = match_scores(merged[active, first][:, None], merged[active])  # (A, B)
    new[~there[active]] = np.inf
    later = index > first[:, None]
    match[active, first] = np.where(later, new, np.inf)
    match[active, :, first] = np.where(later | (index == first[:, None]), np.inf, new)
    match[active, second] = np.inf
    match[active, :, second] = np.inf
    best[active, second] = np.inf
    # Boxes whose partner was one of the two look for another; so does the merged box.
    partners = partner[active]
    lost = (partners == first[:, None]) | (partners == second[:, None])
    lost[np.arange(len(active)), first] = True
    who, row = np.nonzero(lost)
    problem = active[who]
    rows = match[problem, row]
    partner[problem, row] = rows.argmin(1)
    best[problem, row] = rows.min(1)
    # The merged box may now be the best partner of a box before it.
    changed = match[active, :, first]  # (A, B)
    nearer = (changed < best[active]) | (
        (changed == best[active]) & np.isfinite(changed) & (first[:, None] < partner[active])
    )
    who, row = np.nonzero(nearer)
    best[active[who], row] = changed[who, row]
    partner[active[who], row] = first[who]
