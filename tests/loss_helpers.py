"""The losses of the literature in float64 NumPy, from the formulas of their papers."""

from __future__ import annotations

import numpy as np
from run_helpers import distillation, log_softmax, softmax


def without(logits, labels):
    """The log-probabilities of the other classes, `[batch, num_classes - 1]`."""
    rows, classes = logits.shape
    others = np.arange(classes)[None] != np.asarray(labels)[:, None]
    return log_softmax(logits[others].reshape(rows, classes - 1))


def divergence(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def mse(teacher, student, labels):
    centred = [z - z.mean(axis=1, keepdims=True) for z in (teacher, student)]
    return 0.5 * ((centred[0] - centred[1]) ** 2).mean(axis=1)


def hard(teacher, student, labels):
    return -log_softmax(student)[np.arange(len(student)), teacher.argmax(axis=1)]


def dkd(teacher, student, labels, temperature=4.0, alpha=1.0, beta=8.0):
    rows = np.arange(len(labels))
    of_target = []
    for logits in (teacher, student):
        log = log_softmax(logits / temperature)
        others = np.delete(log[0], labels[0])[None] if len(labels) == 1 else None
        if others is None:
            mask = np.arange(log.shape[1])[None] != np.asarray(labels)[:, None]
            others = log[mask].reshape(len(log), -1)
        top = others.max(axis=1, keepdims=True)
        rest = top[:, 0] + np.log(np.exp(others - top).sum(axis=1))
        of_target.append(np.stack([log[rows, labels], rest], axis=1))
    target = divergence(*of_target)
    other = divergence(
        without(teacher / temperature, labels), without(student / temperature, labels)
    )
    return temperature**2 * (alpha * target + beta * other)


def nkd(teacher, student, labels, temperature=1.0, gamma=1.5):
    rows = np.arange(len(labels))
    target = -(softmax(teacher)[rows, labels] * log_softmax(student)[rows, labels])
    rest = np.exp(without(teacher / temperature, labels)) * without(student / temperature, labels)
    return target - gamma * temperature**2 * rest.sum(axis=1)


def ttm(teacher, student, labels, temperature=10.0):
    # A power of the probabilities, divided by its sum, as in the authors' code.
    powered = np.exp(log_softmax(teacher) / temperature)
    powered /= powered.sum(axis=1, keepdims=True)
    return divergence(np.log(powered), log_softmax(student))


def wttm(teacher, student, labels, temperature=5.0):
    weight = np.exp(log_softmax(teacher) / temperature).sum(axis=1)
    return weight * ttm(teacher, student, labels, temperature)


def correlations(a, b):
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / (norms + 1e-8)


def dist(teacher, student, labels, temperature=1.0):
    teacher, student = softmax(teacher / temperature), softmax(student / temperature)
    of_classes = 1 - correlations(student.T, teacher.T).mean()
    return temperature**2 * (1 - correlations(student, teacher) + of_classes)


def mlkd(teacher, student, labels):
    total = 0
    for temperature in (2.0, 3.0, 4.0, 5.0, 6.0):
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        by_example = ((q @ q.T - p @ p.T) ** 2).sum(axis=1)
        # |QᵀQ − PᵀP|², without a matrix of classes times classes.
        of_classes = ((q @ q.T) ** 2).sum() + ((p @ p.T) ** 2).sum() - 2 * ((p @ q.T) ** 2).sum()
        of_classes /= p.shape[1]
        total = total + distillation(teacher, student, temperature) + by_example + of_classes
    return total


ORACLES = {
    "mse": mse,
    "hard": hard,
    "dkd": dkd,
    "nkd": nkd,
    "ttm": ttm,
    "wttm": wttm,
    "dist": dist,
    "mlkd": mlkd,
}
