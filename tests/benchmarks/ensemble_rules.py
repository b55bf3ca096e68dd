"""The rules that combine several teachers: rows a second, and how near the answer is.

    nice python tests/benchmarks/ensemble_rules.py

A generalist and 3 or more specialists with dustbins answer rows of 10, 100 and 1,000 classes.
`alike`: all of them know one truth, with noise; `unrelated`: each answers at random. Printed are
rows a second of one thread by wall time and by CPU time, and the largest gradient of the sum of
divergences that the answers leave, which is 0 where the sum is smallest.
The aim is 50,000 rows a second on two cores for 10 classes and 3 specialists that are alike.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from streamkd.ensemble.rules import RULES, MemberClasses, make_rule

SIZES = ((10, 3), (10, 4), (100, 3), (100, 10), (1000, 3), (1000, 10))
AIM = 50_000


def teachers(num_classes: int, num_specialists: int) -> list[MemberClasses]:
    """Returns a generalist and specialists that share four fifths of the classes among them."""
    weights = np.ones(num_classes)
    members = [MemberClasses(columns=np.arange(num_classes), weights=weights)]
    size = max(2, num_classes * 4 // 5 // num_specialists)
    for first in range(0, size * num_specialists, size):
        columns = np.append(np.arange(first, min(first + size, num_classes)), -1)
        members.append(MemberClasses(columns=columns, weights=weights))
    return members


def answers_of(
    members: list[MemberClasses], rows: int, *, alike: bool, generator: np.random.Generator
) -> list[np.ndarray]:
    """Returns float32 logits of each teacher, `[rows, outputs]`."""
    num_classes = len(members[0].columns)
    truth = generator.normal(size=(rows, num_classes)) * 4
    answers = []
    for member in members:
        noise = generator.normal(size=(rows, len(member.columns)))
        if not alike:
            answers.append((4 * noise).astype(np.float32))
            continue
        own = member.columns[member.columns >= 0]
        logits = truth[:, own]
        if len(own) < len(member.columns):
            others = np.delete(truth, own, axis=1)
            largest = others.max(axis=1, keepdims=True)
            rest = largest + np.log(np.exp(others - largest).sum(axis=1, keepdims=True))
            logits = np.concatenate([logits, rest], axis=1)
        answers.append((logits + noise).astype(np.float32))
    return answers


def largest_gradient(
    members: list[MemberClasses], answers: list[np.ndarray], combined: np.ndarray
) -> float:
    """Returns the largest derivative of the sum of divergences in log q, over rows and classes."""
    q = softmax(combined)
    gradient = np.zeros_like(q)
    for member, answer in zip(members, answers, strict=True):
        p = softmax(answer)
        own = member.columns[member.columns >= 0]
        gradient += q
        gradient[:, own] -= p[:, : len(own)]
        if len(own) < q.shape[1]:
            others = np.setdiff1d(np.arange(q.shape[1]), own)
            within = q[:, others] / q[:, others].sum(axis=1, keepdims=True)
            gradient[:, others] -= p[:, -1:] * within
    return float(np.abs(gradient).max())


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(np.float64(logits) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024, help="of each batch")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{'classes':>7} {'specialists':>11} {'answers':>9} {'rule':>13}", end="")
    print(f" {'rows/s':>9} {'rows/CPU s':>10} {'gradient':>9}")
    for num_classes, num_specialists in SIZES:
        members = teachers(num_classes, num_specialists)
        for kind in ("alike", "unrelated"):
            generator = np.random.default_rng(0)
            answers = answers_of(members, args.rows, alike=kind == "alike", generator=generator)
            for name in RULES if kind == "alike" else ("divergence",):
                rule = make_rule(name, members, num_classes, "softmax")
                combined = rule.combine(answers)
                walls, cpus = [], []
                for _ in range(args.rounds):
                    wall, cpu = time.perf_counter(), time.process_time()
                    rule.combine(answers)
                    walls.append(time.perf_counter() - wall)
                    cpus.append(time.process_time() - cpu)
                speed, cpu_speed = args.rows / np.median(walls), args.rows / np.median(cpus)
                print(f"{num_classes:>7,} {num_specialists:>11} {kind:>9} {name:>13}", end="")
                print(f" {speed:>9,.0f} {cpu_speed:>10,.0f}", end="")
                exact = name == "divergence"
                gradient = largest_gradient(members, answers, combined) if exact else np.nan
                print(f" {gradient:>9.1e}" if exact else f" {'-':>9}")
                if (num_classes, num_specialists, kind) == (10, 3, "alike") and exact:
                    verdict = "met" if 2 * cpu_speed >= AIM else "missed"
                    print(f"  the aim, {AIM:,} rows a second on two cores, is {verdict}")


if __name__ == "__main__":
    main()
