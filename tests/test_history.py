"""The result of `fit`, by metric and as a line for a person."""

from __future__ import annotations

from streamkd.training.history import History, as_line

EPOCHS = [
    {"epoch": 1, "loss": 0.5, "accuracy": None, "agreement": 0.25},
    {"epoch": 2, "loss": 0.125, "accuracy": 0.75, "agreement": 0.5, "val_accuracy": 1.0, "f1": 0.3},
]


def test_metrics_are_columns_and_none_where_an_epoch_lacks_one():
    history = History(EPOCHS)
    assert history.last is EPOCHS[-1]
    assert history.history["loss"] == [0.5, 0.125]
    assert history.history["f1"] == [None, 0.3]
    assert History([]).last == {} and History([]).history == {}


def test_the_line_of_an_epoch_shows_what_was_counted():
    assert as_line(EPOCHS[0]) == "epoch 1: loss 0.5000, agreement 0.2500"
    assert as_line(EPOCHS[1]) == (
        "epoch 2: loss 0.1250, accuracy 0.7500, agreement 0.5000, val_accuracy 1.0000"
    )
