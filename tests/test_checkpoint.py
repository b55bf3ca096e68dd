"""Checkpoints: whole or not at all, with a fallback."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from attack_helpers import Reduced
from helpers import truncate
from run_helpers import dense_student, same_weights, weights_of
from store_helpers import flip_bit

from streamkd.errors import ResumeError
from streamkd.runs import checkpoint
from streamkd.runs.checkpoint import Checkpoints


@pytest.fixture
def parts(family):
    """A model and a built optimizer of one family."""
    model = dense_student(family)
    optimizer = family.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def of(directory, parts):
    return Checkpoints(directory / "checkpoints", model=parts[0], optimizer=parts[1])


def change(parts, amount):
    """Moves the weights and the optimizer as a step would."""
    model, optimizer = parts
    gradients = [tf.fill(w.shape, float(amount)) for w in model.get_weights()]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def names_in(checkpoints):
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_weights_optimizer_and_state_are_restored_as_they_were_saved(parts, tmp_path, family):
    change(parts, 1)
    of(tmp_path, parts).save(7, {"epoch": 1, "history": [{"loss": 0.5}]})
    fresh = dense_student(family, seed=9)
    optimizer = family.optimizers.Adam(0.1)
    optimizer.build(fresh.trainable_variables)
    state, arrays = of(tmp_path, (fresh, optimizer)).restore()
    assert state == {"epoch": 1, "history": [{"loss": 0.5}], "step": 7} and arrays == {}
    assert same_weights(fresh, parts[0]) and int(optimizer.iterations) == 1
    change(parts, 2)
    change((fresh, optimizer), 2)
    assert same_weights(fresh, parts[0]), "the optimizer's own state came back too"


def test_nothing_is_restored_where_there_is_nothing(parts, tmp_path):
    before = weights_of(parts[0])
    assert of(tmp_path, parts).restore() is None
    assert all((a == b).all() for a, b in zip(before, weights_of(parts[0]), strict=True))


def test_two_are_kept(parts, tmp_path):
    checkpoints = of(tmp_path, parts)
    for step in (4, 8, 12):
        checkpoints.save(step, {})
    assert names_in(checkpoints) == ["step-0000000008", "step-0000000012"]


@pytest.mark.parametrize(
    "damage", ["tensors cut", "bit flipped", "index gone", "state cut", "state gone"]
)
def test_a_damaged_newest_falls_back_to_the_one_before(parts, tmp_path, damage):
    checkpoints = of(tmp_path, parts)
    change(parts, 1)
    checkpoints.save(4, {"epoch": 1})
    good = weights_of(parts[0])
    change(parts, 1)
    checkpoints.save(8, {"epoch": 2})
    newest = checkpoints.directory / "step-0000000008"
    if damage == "tensors cut":
        truncate(next(newest.glob("tensors.data-*")))
    elif damage == "bit flipped":
        flip_bit(next(newest.glob("tensors.data-*")), 100)
    elif damage == "index gone":
        next(newest.glob("tensors.index")).unlink()
    elif damage == "state cut":
        truncate(newest / "state.json", 5)
    else:
        (newest / "state.json").unlink()
    change(parts, 5)
    with pytest.warns(
        UserWarning,
        match=r"is damaged \(.*\)\. The run resumes from the one before, step-0000000004",
    ):
        state, _ = of(tmp_path, parts).restore()
    assert (state["epoch"], state["step"]) == (1, 4)
    assert all((a == b).all() for a, b in zip(good, weights_of(parts[0]), strict=True))


def test_where_no_checkpoint_can_be_read_each_is_named(parts, tmp_path):
    checkpoints = of(tmp_path, parts)
    for step in (4, 8):
        checkpoints.save(step, {})
        (checkpoints.directory / f"step-{step:010d}" / "state.json").write_text("{")
    with pytest.raises(ResumeError, match=r"No checkpoint in .* can be restored\.\n") as info:
        checkpoints.restore()
    named = [line.partition(": ")[0] for line in str(info.value).splitlines()[1:3]]
    assert named == ["  step-0000000008", "  step-0000000004"]
    assert str(info.value).endswith("Start again with `--no-resume`, or give another `--out`.")


def test_a_pickle_among_the_arrays_is_not_unpickled(parts, tmp_path):
    checkpoints = of(tmp_path, parts)
    checkpoints.save(4, {}, arrays={"a": np.zeros(2)})
    folder = checkpoints.directory / "step-0000000004"
    packed = io.BytesIO()
    np.savez(packed, a=np.array([Reduced(f"touch {tmp_path / 'mark'}")], dtype=object))
    (folder / "arrays.npz").write_bytes(packed.getvalue())
    state = {"step": 4}  # with the right digest, as somebody who plants it would write
    state["digest"] = checkpoint._digest(state, packed.getvalue())
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ResumeError, match="Object arrays cannot be loaded"):
        checkpoints.restore()
    assert not (tmp_path / "mark").exists()


def test_a_checkpoint_of_another_model_is_not_taken(parts, tmp_path, family):
    of(tmp_path, parts).save(4, {})
    other = dense_student(family, num_classes=5)
    optimizer = family.optimizers.Adam(0.1)
    optimizer.build(other.trainable_variables)
    with pytest.raises(ResumeError, match="No checkpoint"):
        of(tmp_path, (other, optimizer)).restore()


def test_leftovers_of_a_killed_run_are_removed(parts, tmp_path):
    checkpoints = of(tmp_path, parts)
    checkpoints.save(4, {"epoch": 1})
    leftover = checkpoints.directory / "step-0000000008.tmp"
    leftover.mkdir()
    (leftover / "tensors.index").write_bytes(b"half")
    assert checkpoints.restore()[0]["step"] == 4, "a leftover is never believed"
    checkpoints.remove_leftovers()
    assert names_in(checkpoints) == ["step-0000000004"]


def test_a_save_that_fails_leaves_the_one_before_and_nothing_else(parts, tmp_path, monkeypatch):
    checkpoints = of(tmp_path, parts)
    checkpoints.save(4, {"epoch": 1})

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "sync_file", fail)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoints.save(8, {"epoch": 2})
    assert names_in(checkpoints) == ["step-0000000004"]


def test_a_checkpoint_is_synced_before_it_gets_its_name(parts, tmp_path, monkeypatch):
    log = []
    for name in ("sync_file", "sync_directory"):
        real = getattr(checkpoint, name)
        monkeypatch.setattr(
            checkpoint, name, lambda path, real=real: (log.append(path), real(path))
        )
    checkpoints = of(tmp_path, parts)
    checkpoints.save(4, {})
    final = checkpoints.directory / "step-0000000004"
    temporary = final.with_suffix(".tmp")
    synced = {path.name for path in log if path.parent == temporary}
    assert synced == {path.name for path in final.iterdir()}
    assert log[-2:] == [temporary, checkpoints.directory]


def test_a_checkpoint_loses_its_name_before_it_is_removed(parts, tmp_path, monkeypatch):
    """A kill in the middle would otherwise leave half a checkpoint that counts."""
    removed = []

    def rmtree(folder, ignore_errors=False):
        if folder.exists():
            removed.append(folder)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", rmtree)
    checkpoints = of(tmp_path, parts)
    for step in (4, 8, 12):
        checkpoints.save(step, {})
    assert [folder.name.endswith(".tmp") for folder in removed] == [True]
    counting = sorted(name for name in names_in(checkpoints) if not name.endswith(".tmp"))
    assert counting == ["step-0000000008", "step-0000000012"]


def test_none_of_another_run_counts_when_it_is_said_that_a_run_starts_over(parts, tmp_path):
    """A kill right after that would resume the other run, under the new configuration."""
    checkpoints = of(tmp_path, parts)
    checkpoints.save(40, {})
    checkpoints.save(80, {})

    def before():
        assert not of(tmp_path, parts).exist()
        assert all(name.endswith(".tmp") for name in names_in(checkpoints))

    checkpoints.save(4, {}, before=before, alone=True)
    assert checkpoints.restore()[0]["step"] == 4
    assert [p.name for p in checkpoints.directory.iterdir()] == ["step-0000000004"]


def test_a_checkpoint_that_fails_before_it_counts_leaves_the_others(parts, tmp_path):
    checkpoints = of(tmp_path, parts)
    checkpoints.save(40, {})

    def fail():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(4, {}, before=fail, alone=True)
    assert checkpoints.restore()[0]["step"] == 40
