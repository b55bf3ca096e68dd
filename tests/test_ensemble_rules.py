"""What several teachers say together, beside an optimiser that takes row by row, class by class."""

import numpy as np
import pytest

from streamkd.ensemble.rules import LOWEST, MemberClasses, make_rule
from streamkd.errors import OptionError

DUSTBIN = -1


def member(columns, *, weight=1.0, num_classes=10, ratio=1.0):
    weights = np.broadcast_to(np.asarray(weight, np.float64), num_classes)
    return MemberClasses(
        columns=np.array(columns), weights=weights, log_oversampling=float(np.log(ratio))
    )


def drawn(members, rows, *, scale=2.0, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (scale * generator.normal(size=(rows, len(one.columns)))).astype(np.float32)
        for one in members
    ]


def softmax(logits):
    powers = np.exp(np.float64(logits) - np.max(logits))
    return powers / powers.sum()


def sum_of_divergences(log_q, members, answers):
    """Equation 5, class by class, for one row; and its gradient in log q."""
    q = softmax(log_q)
    total, gradient = 0.0, np.zeros(len(q))
    for one, answer in zip(members, answers, strict=True):
        logits = np.float64(answer) + one.log_oversampling * (one.columns == DUSTBIN)
        p = softmax(logits)
        own = one.columns[one.columns >= 0]
        weights = one.weights[one.columns]
        if DUSTBIN in one.columns:
            weights[one.columns == DUSTBIN] = one.weights[own].mean()
            others = np.setdiff1d(np.arange(len(q)), own)
            groups = [[c] if c >= 0 else list(others) for c in one.columns]
        else:
            groups = [[c] for c in own]
        scope = np.concatenate([np.array(group) for group in groups])
        for share, weight, group in zip(p, weights, groups, strict=True):
            said = q[group].sum() / q[scope].sum()
            if share > 0:
                total += weight * share * (np.log(share) - np.log(said))
            gradient[group] -= weight * share * q[group] / q[group].sum()
            gradient[scope] += weight * share * q[scope] / q[scope].sum()
    return total, gradient


def smallest(members, answers, num_classes):
    """Newton with the gradient's differences and a line search, one row at a time."""
    z = np.zeros(num_classes)
    for _ in range(200):
        value, gradient = sum_of_divergences(z, members, answers)
        if np.abs(gradient).max() < 1e-9:
            break
        width = 1e-6
        curvature = np.array(
            [
                sum_of_divergences(z + width * unit, members, answers)[1]
                - sum_of_divergences(z - width * unit, members, answers)[1]
                for unit in np.eye(num_classes)
            ]
        ) / (2 * width)
        curves, directions = np.linalg.eigh((curvature + curvature.T) / 2)
        curves = np.maximum(np.abs(curves), 1e-7)
        step = directions @ ((directions.T @ gradient) / curves)
        step -= step.mean()
        length = min(1.0, 5.0 / np.abs(step).max())
        while length > 1e-9:
            if sum_of_divergences(z - length * step, members, answers)[0] <= value:
                break
            length /= 2
        z = z - length * step
    return z


def agrees(members, rows, *, num_classes=10, scale=2.0, seed=0, tolerance=2e-6):
    answers = drawn(members, rows, scale=scale, seed=seed)
    rule = make_rule("divergence", members, num_classes, "softmax")
    combined = rule.combine(answers)
    assert combined.dtype == np.float32
    assert combined.shape == (rows, num_classes)
    for row in range(rows):
        own = [answer[row] for answer in answers]
        expected = smallest(members, own, num_classes)
        np.testing.assert_allclose(softmax(combined[row]), softmax(expected), atol=tolerance)
        value = sum_of_divergences(np.float64(combined[row]), members, own)[0]
        assert value <= sum_of_divergences(expected, members, own)[0] + 1e-9


GENERALIST = member(range(10))
SPECIALISTS = [member([*group, DUSTBIN]) for group in ((0, 1), (2, 3, 4), (5, 6, 7))]


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([GENERALIST, *SPECIALISTS], id="a generalist and three specialists"),
        pytest.param(
            [
                GENERALIST,
                member([4, DUSTBIN, 0, 9], weight=2.5, ratio=6),
                member([9, 8, 7, 4, DUSTBIN], weight=0.3),
            ],
            id="overlapping clusters in any order, weights, oversampling",
        ),
        pytest.param(
            [member([0, 1, 2, 3, 4, 5]), member([4, 5, 6, 7]), member([7, 0, 8, 9], weight=0.2)],
            id="no dustbin: the teachers meet at a few classes",
        ),
        pytest.param(
            [member([0, 1, 2, 3, 4, DUSTBIN]), member([5, 6, 7, 8, 9, DUSTBIN])],
            id="two specialists and no generalist",
        ),
        pytest.param(
            [member([3, 1, 2, DUSTBIN]), member(range(10)), member([1, 7, 8])],
            id="a part without a dustbin beside a specialist with one",
        ),
        pytest.param(
            [member(range(10), weight=np.linspace(0.1, 1.0, 10)), SPECIALISTS[1]],
            id="weights by class",
        ),
    ],
)
def test_the_solution_is_that_of_an_optimiser(members):
    agrees(members, 3)
    agrees(members, 1, scale=6.0, seed=1)


def test_a_dustbin_of_a_teacher_of_all_classes_means_nothing():
    members = [member([*range(10), DUSTBIN]), SPECIALISTS[0]]
    answers = drawn(members, 5)
    plain = [GENERALIST, SPECIALISTS[0]]
    np.testing.assert_allclose(
        make_rule("divergence", members, 10, "softmax").combine(answers),
        make_rule("divergence", plain, 10, "softmax").combine([answers[0][:, :10], answers[1]]),
        atol=1e-6,
    )


def test_oversampling_adds_its_logarithm_to_the_dustbin():
    plain = [GENERALIST, member([0, 1, DUSTBIN])]
    answers = drawn(plain, 6)
    by_hand = [answers[0], answers[1] + np.float32([0, 0, np.log(8)])]
    corrected = make_rule(
        "divergence", [GENERALIST, member([0, 1, DUSTBIN], ratio=8)], 10, "softmax"
    )
    np.testing.assert_allclose(
        corrected.combine(answers),
        make_rule("divergence", plain, 10, "softmax").combine(by_hand),
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["logits", "probabilities", "divergence"])
def test_teachers_that_agree_are_each_of_them(name):
    members = [member(range(10), weight=weight) for weight in (0.2, 0.5, 0.3)]
    (answers, *_) = drawn(members, 7, scale=30.0)
    combined = np.float64(make_rule(name, members, 10, "softmax").combine([answers] * 3))
    own = answers - answers.max(axis=1, keepdims=True)
    np.testing.assert_allclose(combined - combined.max(axis=1, keepdims=True), own, atol=2e-5)


def test_parts_of_one_distribution_are_put_together():
    """Teachers of parts that all know one truth give it back, whatever their weights."""
    truth = np.random.default_rng(5).normal(size=(20, 10)) * 3
    parts = [member(range(6), weight=0.7), member([5, 6, 7, 0]), member([8, 9, 7], weight=3.0)]
    answers = [truth[:, one.columns].astype(np.float32) for one in parts]
    combined = np.float64(make_rule("divergence", parts, 10, "softmax").combine(answers))
    expected = truth - truth.max(axis=1, keepdims=True)
    np.testing.assert_allclose(combined - combined.max(axis=1, keepdims=True), expected, atol=2e-5)


def test_means_are_those_of_numpy():
    members = [
        member(range(4), num_classes=4, weight=w) for w in ([0.1, 0.2, 0.5, 1], [0.9, 0.8, 0.5, 0])
    ]
    answers = drawn(members, 9)
    weights = np.array([one.weights for one in members])
    p = np.array([[softmax(row) for row in answer] for answer in answers])
    np.testing.assert_allclose(
        make_rule("probabilities", members, 4, "softmax").combine(answers),
        np.log((weights[:, None] * p).sum(axis=0)),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        make_rule("logits", members, 4, "softmax").combine(answers),
        (weights[:, None] * np.log(p)).sum(axis=0),
        atol=1e-6,
    )


def test_means_are_over_the_teachers_that_know_a_class():
    members = [
        member([0, 1], num_classes=3, weight=0.25),
        member([2, 1], num_classes=3, weight=0.75),
    ]
    answers = drawn(members, 4)
    first, second = (np.array([softmax(row) for row in answer]) for answer in answers)
    shared = 0.25 * first[:, 1] + 0.75 * second[:, 1]
    np.testing.assert_allclose(
        np.exp(make_rule("probabilities", members, 3, "softmax").combine(answers)),
        np.stack([first[:, 0], shared, second[:, 0]], axis=1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ["probabilities", "divergence"])
def test_labels_that_stand_alone_are_averaged_one_by_one(name):
    members = [member([0, 1], num_classes=3, weight=0.3), member([2, 1], num_classes=3, weight=0.6)]
    answers = drawn(members, 8)
    combined = make_rule(name, members, 3, "sigmoid").combine(answers)
    shares = [1 / (1 + np.exp(-np.float64(answer))) for answer in answers]
    both = (0.3 * shares[0][:, 1] + 0.6 * shares[1][:, 1]) / 0.9
    expected = np.stack([shares[0][:, 0], both, shares[1][:, 0]], axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-np.float64(combined))), expected, atol=1e-6)
    logits = make_rule("logits", members, 3, "sigmoid").combine(answers)
    np.testing.assert_allclose(
        logits[:, 1], (answers[0][:, 1] + 2 * answers[1][:, 1]) / 3, atol=1e-5
    )


@pytest.mark.parametrize("name", ["logits", "probabilities", "divergence"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_answers_without_bounds_give_finite_logits(name, activation):
    members = [GENERALIST, member([3, 4, 5, *([DUSTBIN] if activation == "softmax" else [])])]
    width = len(members[1].columns)
    huge = np.where(np.eye(10, dtype=bool), 1e4, -1e4).astype(np.float32)
    nothing = np.where(np.eye(10, dtype=bool), 0.0, -np.inf).astype(np.float32)
    for generalist in (huge, nothing, huge * 1e30):
        for column in range(width):
            own = np.where(np.arange(width) == column, 0.0, -np.inf).astype(np.float32)
            answers = [generalist, np.broadcast_to(own, (10, width))]
            combined = make_rule(name, members, 10, activation).combine(answers)
            assert np.isfinite(combined).all()
            assert (combined >= 2 * LOWEST).all()


def test_logits_of_ten_thousand_keep_their_differences():
    members = [member(range(3), num_classes=3, weight=0.5)] * 2
    answers = [np.float32([[1e4, 0, -1e4]])] * 2
    for name in ("logits", "probabilities", "divergence"):
        combined = make_rule(name, members, 3, "softmax").combine(answers)
        np.testing.assert_allclose(combined - combined.max(), [[0, -1e4, -2e4]], rtol=1e-6)


def test_a_dustbin_of_nothing_and_of_everything():
    members = [GENERALIST, member([0, 1, DUSTBIN])]
    rule = make_rule("divergence", members, 10, "softmax")
    even = np.zeros((2, 10), np.float32)
    said = np.float32([[0, 0, -np.inf], [-np.inf, -np.inf, 0]])
    q = np.array([softmax(row) for row in rule.combine([even, said])])
    # (1/10 + 1/2) / 2 for each of two classes; then 1/20 for each, and the rest shared evenly.
    np.testing.assert_allclose(q[0], [0.3, 0.3, *[0.05] * 8], atol=1e-6)
    np.testing.assert_allclose(q[1], [0.05, 0.05, *[0.9 / 8] * 8], atol=1e-6)


def test_one_class_one_row_and_many_classes():
    lone = [member([0], num_classes=1), member([0, DUSTBIN], num_classes=1)]
    for name in ("logits", "probabilities", "divergence"):
        combined = make_rule(name, lone, 1, "softmax").combine(drawn(lone, 1))
        assert np.isfinite(combined).all() and combined.shape == (1, 1)
    many = [
        member(range(1000), num_classes=1000),
        *(member([*range(k, 1000, 10), DUSTBIN], num_classes=1000) for k in range(10)),
    ]
    answers = drawn(many, 3)
    combined = make_rule("divergence", many, 1000, "softmax").combine(answers)
    for row in range(3):
        own = [answer[row] for answer in answers]
        _, gradient = sum_of_divergences(np.float64(combined[row]), many, own)
        assert np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("with_generalist", [True, False])
def test_teachers_that_overlap_at_random(with_generalist):
    """Nearly every class is known to other teachers than the next one: no Newton step is taken."""
    generator = np.random.default_rng(3)
    members = [member(range(60), num_classes=60)] if with_generalist else []
    for number in range(8):
        own = generator.choice(60, 30, replace=False)
        dustbin = [DUSTBIN] if with_generalist and number % 2 else []
        members.append(member([*own, *dustbin], num_classes=60))
    known = [np.isin(np.arange(60), one.columns) for one in members]
    assert len(np.unique(known, axis=1).T) > 40
    answers = drawn(members, 4)
    combined = make_rule("divergence", members, 60, "softmax").combine(answers)
    for row in range(4):
        own = [answer[row] for answer in answers]
        _, gradient = sum_of_divergences(np.float64(combined[row]), members, own)
        assert np.abs(gradient).max() < 1e-6


def test_rows_do_not_depend_on_their_batch():
    members = [GENERALIST, *SPECIALISTS]
    answers = drawn(members, 40, scale=4.0)
    rule = make_rule("divergence", members, 10, "softmax")
    whole = rule.combine(answers)
    alone = [rule.combine([answer[row : row + 1] for answer in answers]) for row in range(40)]
    np.testing.assert_array_equal(whole, np.concatenate(alone))
    halves = [
        rule.combine([answer[part] for answer in answers]) for part in (slice(33), slice(33, 40))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_a_row_without_numbers_stays_one():
    members = [GENERALIST, SPECIALISTS[0]]
    answers = drawn(members, 3)
    answers[0][1, 4] = np.nan
    combined = make_rule("divergence", members, 10, "softmax").combine(answers)
    assert np.isnan(combined[1]).all()
    assert np.isfinite(combined[[0, 2]]).all()


def test_no_other_rule():
    with pytest.raises(OptionError, match="rule"):
        make_rule("median", [GENERALIST], 10, "softmax")
