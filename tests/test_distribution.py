"""Several devices, and several processes, that train one student.

Most of these start processes, each of which imports TensorFlow: they are slow. Two processes talk
over the loopback device; two logical processors stand for two devices of one process.
"""

import collections
import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from process_helpers import running
from resume_helpers import CLOCK_COLUMNS, metrics_of
from run_helpers import command, dense_student
from timeouts import TIMEOUT_SECS
from worker_helpers import alone, finish, start, train

from streamkd.errors import (
    BadImageError,
    DamagedStoreError,
    OptionError,
    RunBusyError,
    StreamkdError,
    WorkerLostError,
)
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.training.distiller import Distiller
from streamkd.training.distribution import Workers
from streamkd.training.saver import check_alike


@pytest.fixture
def folder(shared, tmp_path):
    """A folder with `images` and `teacher.h5`, in which workers work."""
    directory, store = shared
    shutil.copytree(directory, tmp_path / "images")
    shutil.copyfile(store.path, tmp_path / "teacher.h5")
    return tmp_path


def assert_close(result, expected):
    """Asserts that two runs are the same but for rounding."""
    assert result["step"] == expected["step"]
    for weight, other in zip(result["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-6)
    for epoch, other in zip(result["epochs"], expected["epochs"], strict=True):
        assert set(epoch) == set(other)
        for name in set(epoch) - {*CLOCK_COLUMNS}:
            number = other[name]
            if number is not None:  # such as `val_loss` without validation
                number = pytest.approx(number, rel=1e-4, abs=1e-6)
            assert epoch[name] == number, name


def assert_same(result, expected):
    """Asserts that two runs are the same to the bit."""
    for weight, other in zip(result["weights"], expected["weights"], strict=True):
        np.testing.assert_array_equal(weight, other)
    for epoch, other in zip(result["epochs"], expected["epochs"], strict=True):
        assert {**epoch, **dict.fromkeys(CLOCK_COLUMNS)} == {
            **other,
            **dict.fromkeys(CLOCK_COLUMNS),
        }


def assert_alike(results):
    """Asserts that all workers have the same result, and returns it."""
    for result in results[1:]:
        assert_same(result, results[0])
    return results[0]


JOB = {
    "epochs": 2,
    "validation": "images",
    "distiller": {"clip_norm": 0.5, "metrics": ["sparse_categorical_crossentropy"]},
    "fit": {"class_weight": "balanced"},
}
CASES = {
    "tf_keras": JOB,
    "keras": {**JOB, "family": "keras"},
    "averages of averages": {
        **JOB,
        "family": "keras",
        "distiller": {"ema": 0.9, "accumulate": 2, "optimizer": "sgd"},
    },
    "xla": {**JOB, "distiller": {"ema": 0.9, "accumulate": 2, "jit": "on"}},
}


# As "tf_keras", with the optimizer that is the quickest to trace.
QUICK = {**JOB, "distiller": {**JOB["distiller"], "optimizer": "sgd"}}


@pytest.mark.parametrize(
    "job",
    [QUICK, *(pytest.param(job, marks=pytest.mark.slow) for job in CASES.values())],
    ids=["quick", *CASES],
)
def test_two_devices_train_the_student_that_one_trains(folder, job):
    (result,) = train(folder, "mirrored", **job)
    assert_close(result, alone(folder, **job))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_student_that_one_trains(folder, case):
    results = train(folder, "multi-worker", 2, **CASES[case])
    assert_close(assert_alike(results), alone(folder, **CASES[case]))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tf_keras", "keras"])
def test_statistics_of_batches_are_those_of_all_replicas(folder, family):
    # The mean of the statistics of each replica's pieces, so that all workers are alike; other
    # numbers than one device finds, as in Keras.
    job = {"family": family, "student": "both", "validation": "images"}
    first = assert_alike(train(folder, "multi-worker", 2, **job))
    (mirrored,) = train(folder, "mirrored", **job)
    assert_close(mirrored, first)


@pytest.mark.slow
def test_no_file_is_read_by_two_workers_or_twice(folder):
    results = train(folder, "multi-worker", 2, epochs=3, join={"batch_size": 10})
    images = scan(folder / "images")
    stream = join(images, folder / "teacher.h5", batch_size=10, seed=1, progress=False)

    def paths(step, share):
        return [path.decode() for path in images.paths(stream.indices(step, share))]

    epochs = []
    for number, result in enumerate(results):
        share = WorkerSlice(worker=number, num_workers=2)
        opened = collections.Counter(result["opened"])
        own = collections.Counter(p for step in range(9) for p in paths(step, share))
        ahead = collections.Counter(p for step in range(9, 20) for p in paths(step, share))
        assert own <= opened <= own + ahead
        epochs += [p for step in range(3) for p in paths(step, share)]
    assert len(epochs) == len(set(epochs)) == 30


@pytest.mark.slow
def test_the_chief_alone_writes_and_the_others_need_not_see_what_it_wrote(folder):
    other = {"run": "nowhere", "callbacks": [["CSVLogger", {"filename": "one.csv"}]]}
    job = {
        "student": "norm",
        "callbacks": [["CSVLogger", {"filename": "zero.csv"}]],
        "distiller": {"schedule": "constant"},
        "fit": {"progress": True},
        "vary": {"1": other},
    }
    for epochs in (1, 2):
        results = train(folder, "multi-worker", 2, run="run", epochs=epochs, **job)
        assert len(assert_alike(results)["epochs"]) == epochs
        line = f"epoch {epochs}: loss"
        assert [line in result["errors"] for result in results] == [True, False]
    assert not (folder / "nowhere").exists() and not (folder / "one.csv").exists()
    with open(folder / "zero.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]


# Resuming.

KILLED = {
    "epochs": 3,
    "student": "both",
    "validation": "images",
    "distiller": {"metrics": ["sparse_top_k_categorical_accuracy"], "ema": 0.9},
}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("family", ["tf_keras", "keras"])
def test_a_run_resumes_after_one_of_its_workers_was_killed(folder, family, victim):
    job = {**KILLED, "family": family, "fit": {"save_every": 3}}
    expected = assert_alike(train(folder, "multi-worker", 2, run="whole", **job))
    killed = {"kill_at": {str(victim): 5}}
    results = finish(folder, start(folder, "multi-worker", 2, run="cut", **job, **killed))
    assert results[victim]["code"] == -9
    name, message = results[1 - victim]["error"]
    assert name == "WorkerLostError"
    assert message == (
        f"Another worker of this run is gone: this is worker {1 - victim} of 2, and it cannot "
        "continue alone.\nLook at the messages of the others. Then start all workers again with "
        "the same commands: the run resumes from its newest checkpoint."
    )
    state = json.loads(
        (folder / "cut" / "checkpoints" / "step-0000000003" / "state.json").read_text()
    )
    assert state["step"] == 3
    assert_same(assert_alike(train(folder, "multi-worker", 2, run="cut", **job)), expected)


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_and_saves_all(folder):
    expected = assert_alike(train(folder, "multi-worker", 2, run="whole", **KILLED))
    stopped = train(folder, "multi-worker", 2, run="cut", stop_at={"1": 5}, **KILLED)
    assert [result["stopped"] for result in stopped] == [True, True]
    assert [result["step"] for result in stopped] == [5, 5]
    assert_same(assert_alike(train(folder, "multi-worker", 2, run="cut", **KILLED)), expected)


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_replicas(folder):
    expected = alone(folder, **JOB, run="whole")
    train(folder, "multi-worker", 2, run="cut", stop_at={"0": 3}, **JOB)
    assert_close(alone(folder, **JOB, run="cut"), expected)
    config = json.loads((folder / "cut" / "config.json").read_text())
    assert config["replicas"] == 1


@pytest.mark.slow
def test_two_devices_resume_to_the_bit(folder):
    expected = train(folder, "mirrored", run="whole", **KILLED)
    train(folder, "mirrored", run="cut", stop_at={"0": 5}, **KILLED)
    assert_same(train(folder, "mirrored", run="cut", **KILLED)[0], expected[0])


# Callbacks.


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tf_keras", "keras"])
def test_callbacks_hear_the_same_on_every_worker(folder, family):
    stopping = {"monitor": "val_loss", "patience": 1, "min_delta": 10, "restore_best_weights": True}
    job = {
        "family": family,
        "student": "norm",
        "epochs": 6,
        "validation": "images",
        "callbacks": [
            ["EarlyStopping", stopping],
            ["ModelCheckpoint", {"filepath": "best.keras", "save_best_only": True}],
        ],
    }
    result = assert_alike(train(folder, "multi-worker", 2, **job))
    assert len(result["epochs"]) == 2
    assert (folder / "best.keras").exists()


# Refusals and failures.


def refusals(folder, **job):
    """Returns the name and the message of each worker's refusal."""
    results = finish(folder, start(folder, "multi-worker", 2, **job))
    assert [result["code"] for result in results] == [0, 0], results[0]["errors"][-3000:]
    return [result["error"] for result in results]


@pytest.mark.slow
def test_workers_that_were_started_with_different_things_are_refused(folder):
    told = refusals(folder, run="run", vary={"1": {"join": {"seed": 2}}})
    message = (
        "Worker 1 was started with another seed than worker 0.\n  worker 0: 1\n  worker 1: 2\n"
        "Give the same command on every worker."
    )
    assert told == [["OptionError", message]] * 2
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_a_refusal_of_the_chief_reaches_every_worker(folder):
    train(folder, "multi-worker", 2, run="run", epochs=1)
    told = refusals(folder, run="run", epochs=1, distiller={"temperature": 2.0})
    assert told[0] == told[1]
    assert told[0][0] == "ResumeError"
    assert "run was started with another temperature.\n  run: 4.0\n  now: 2.0" in told[0][1]


@pytest.mark.slow
def test_a_bad_file_is_named_by_the_worker_that_reads_it(folder):
    images = scan(folder / "images")
    stream = join(images, folder / "teacher.h5", batch_size=8, seed=1, progress=False)
    bad = int(stream.indices(2, WorkerSlice(worker=1, num_workers=2))[0])
    with open(images.path(bad), "wb") as file:
        file.write(b"no image")
    told = refusals(folder)
    assert told[0][0] == "WorkerLostError"
    assert told[1][0] in ("BadImageError", "ChangedImageError")
    assert images.keys[bad].decode() in told[1][1]


@pytest.mark.slow
def test_images_that_any_worker_skipped_are_listed_by_the_chief(folder):
    images = scan(folder / "images")
    for index in (3, 12, 20, 28):
        with open(images.path(index), "wb") as file:
            file.write(b"no image")
    job = {"epochs": 1, "join": {"on_bad": "skip"}}
    expected = alone(folder, run="alone", **job)
    results = train(folder, "multi-worker", 2, run="run", **job)
    assert_close(assert_alike(results), expected)
    assert [result["num_skipped"] for result in results] == [4, 4]
    listed = entries(folder / "run" / "skipped.jsonl")
    assert [entry["key"] for entry in listed] == [images.keys[i].decode() for i in (3, 12, 20, 28)]


FAR_TOO_FAST = {"learning_rate": 1e37, "schedule": "constant", "optimizer": "sgd"}


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_told_to_all(folder):
    told = refusals(folder, epochs=1, distiller=FAR_TOO_FAST)
    assert told[0] == told[1]
    assert told[0][0] == "NonFiniteError"
    assert "The loss or the gradient of step 2 is not a finite number." in told[0][1]


@pytest.mark.slow
def test_or_left_out_by_all(folder):
    job = {"epochs": 1, "distiller": {**FAR_TOO_FAST, "on_nonfinite": "skip"}}
    expected = alone(folder, run="alone", **job)
    result = assert_alike(train(folder, "multi-worker", 2, run="run", **job))
    assert result["step"] == expected["step"] == 4
    left_out, alone_too = (entries(folder / run / "nonfinite.jsonl") for run in ("run", "alone"))
    assert left_out == alone_too
    assert [entry["step"] for entry in left_out] == [2]


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Without processes.


def test_one_worker_is_the_chief_and_alone_and_asks_nobody():
    workers = Workers(tf.distribute.get_strategy())
    assert workers.worker_slice == WorkerSlice()
    assert workers.is_chief and workers.is_alone
    assert workers.everyones([1.5, 2]).tolist() == [[1.5, 2]]
    assert workers.from_all({"a": 1}) == [{"a": 1}]
    assert workers.bytes_from_chief(b"abc") == b"abc"
    value = object()
    assert workers.from_chief(lambda: value) is value
    with workers.reading([tf.Variable(1.0)]):
        pass


def test_an_error_in_the_chiefs_function_is_raised():
    def busy():
        raise RunBusyError("Another process is training.")

    with pytest.raises(RunBusyError, match="Another process is training"):
        Workers(tf.distribute.get_strategy()).from_chief(busy)


def pair_of_workers(monkeypatch):
    """The chief and another worker; the chief's bytes reach the other one."""
    sent = []
    strategy = tf.distribute.get_strategy()
    chief, other = Workers(strategy), Workers(strategy)
    for number, worker in enumerate((chief, other)):
        worker.worker_slice = WorkerSlice(worker=number, num_workers=2)
    monkeypatch.setattr(chief, "bytes_from_chief", lambda data: sent.append(data) or data)
    monkeypatch.setattr(other, "bytes_from_chief", lambda data: sent[-1])
    return chief, other


REFUSALS = {
    "with an image": BadImageError("'a.png' cannot be decoded.", key=b"bee/\xff.png"),
    "without": RunBusyError("Another process is training."),
    "a kind of another": DamagedStoreError("Row 3 is damaged.", key=b"ant/1.png"),
    "of no kind": StreamkdError("No."),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_every_worker_raises_what_the_chief_was_refused_with(monkeypatch, refusal):
    def refuse():
        raise refusal

    for worker in pair_of_workers(monkeypatch):
        with pytest.raises(StreamkdError) as info:
            worker.from_chief(refuse)
        assert type(info.value) is type(refusal)
        assert (str(info.value), info.value.key) == (str(refusal), refusal.key)


def test_every_worker_gets_what_the_chief_returns(monkeypatch):
    chief, other = pair_of_workers(monkeypatch)
    assert chief.from_chief(lambda: {"a": [1, None]}) == {"a": [1, None]}
    assert other.from_chief(lambda: pytest.fail("called")) == {"a": [1, None]}


def test_workers_with_different_configurations_are_refused():
    check_alike([{"seed": 1, "platform": "here"}, {"seed": 1, "platform": "there"}])
    with pytest.raises(OptionError) as info:
        check_alike([{"seed": 1}, {"seed": 1}, {"seed": 2}])
    assert str(info.value) == (
        "Worker 2 was started with another seed than worker 0.\n  worker 0: 1\n  worker 2: 2\n"
        "Give the same command on every worker."
    )


def test_a_strategy_whose_workers_do_not_step_together_is_refused():
    strategy = object.__new__(tf.distribute.ParameterServerStrategy)
    with pytest.raises(
        OptionError, match=r"under ParameterServerStrategy, .*\.\nBuild the student"
    ):
        Workers(strategy)


# On the command line.


def train_words(out):
    flags = f"--epochs 2 --batch-size 8 --jit off --optimizer sgd --out {out}"
    return [
        "train",
        "images",
        "--store",
        "teacher.h5",
        "--student",
        "student.keras",
        *flags.split(),
    ]


def test_train_on_several_devices_from_the_command_line(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    dense_student().save("student.keras")
    for out, flags in (("alone", []), ("mirrored", ["--distribute", "mirrored"])):
        code, answer, _ = command(capsys, *train_words(out), *flags)
        assert (code, answer["epochs"], answer["steps"]) == (0, 2, 8)
    rows = [metrics_of(folder / out) for out in ("alone", "mirrored")]
    assert rows[0] == rows[1], "the machine of the tests has one device"


def test_train_on_several_machines_from_the_command_line(folder):
    """A cluster of one machine, with a strategy that is made before TensorFlow is used."""
    dense_student().save(folder / "student.keras")
    cluster = {"cluster": {"worker": ["127.0.0.1:0"]}, "task": {"type": "worker", "index": 0}}
    line = [*train_words("run"), "--distribute", "multi-worker", "--json", "--quiet"]
    options = {"variables": {"TF_CONFIG": json.dumps(cluster)}, "cwd": folder}
    with running("-m", "streamkd", *line, **options) as child:
        out, errors = child.communicate(timeout=TIMEOUT_SECS)
    assert child.returncode == 0, errors
    assert json.loads(out)["steps"] == 8


def test_where_nobody_else_is_nobody_is_lost():
    workers = Workers(tf.distribute.get_strategy())
    with pytest.raises(tf.errors.UnavailableError), workers.named_losses():
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: Socket closed")


def test_a_lost_worker_is_told_from_other_errors():
    workers = Workers(tf.distribute.get_strategy())
    workers.worker_slice = WorkerSlice(worker=1, num_workers=2)
    with pytest.raises(WorkerLostError, match="worker 1 of 2"), workers.named_losses():
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: Socket closed")
    with pytest.raises(tf.errors.UnavailableError), workers.named_losses():
        raise tf.errors.UnavailableError(None, None, "the disk is unavailable")


class FakeStrategy:
    """As much of a strategy as `Workers` looks at."""

    def __init__(self, cluster, kind, number, num_replicas):
        self.num_replicas_in_sync = num_replicas
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver
        self.cluster_resolver = cluster and resolver(
            tf.train.ClusterSpec(cluster), task_type=kind, task_id=number
        )


WORKER = {"worker": ["a:1", "b:1", "c:1"]}
CHIEF = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "evaluator": ["d:1"]}


@pytest.mark.parametrize(
    ("strategy", "share"),
    [
        (FakeStrategy(None, None, None, 4), WorkerSlice(num_replicas=4)),
        (FakeStrategy({"worker": ["a:1"]}, "worker", 0, 2), WorkerSlice(num_replicas=2)),
        (FakeStrategy(WORKER, "worker", 0, 3), WorkerSlice(num_workers=3)),
        (
            FakeStrategy(WORKER, "worker", 2, 6),
            WorkerSlice(worker=2, num_workers=3, num_replicas=2),
        ),
        (FakeStrategy(CHIEF, "chief", 0, 3), WorkerSlice(num_workers=3)),
        (FakeStrategy(CHIEF, "worker", 1, 3), WorkerSlice(worker=2, num_workers=3)),
    ],
    ids=["no cluster", "a cluster of one", "first", "third", "chief", "after the chief"],
)
def test_the_place_in_the_cluster_is_that_of_the_input(strategy, share):
    workers = Workers(strategy)
    assert workers.worker_slice == share
    assert workers.is_chief == (share.worker == 0)


def test_a_batch_that_replicas_cannot_share_is_refused_before_anything_is_made(folder):
    stream = join(scan(folder / "images"), folder / "teacher.h5", batch_size=7, progress=False)
    distiller = Distiller(dense_student())
    distiller.workers.worker_slice = WorkerSlice(num_workers=2)
    with pytest.raises(OptionError, match=r"(?s)batch_size is 7, .* 2 replicas .*`--batch-size 8`"):
        distiller.fit(stream, epochs=1, run=folder / "run", progress=False)
    assert not (folder / "run").exists()
