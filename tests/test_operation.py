"""A user's own view operation: drawn by seed, replayed exactly, or refused."""

import re
import runpy
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf
from delta_helpers import change
from process_helpers import finished
from replay_helpers import FADE, HASHES, SIZE, answers, assert_replayed, draw_noisy, slow
from run_helpers import command, dense_student, killed, same_weights
from store_helpers import extents_of, flip_bit

import streamkd as kd
from streamkd.errors import OptionError, StoreError
from streamkd.runs.checkpoint import Checkpoints
from streamkd.store.merge import merge
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller
from streamkd.views import render
from streamkd.views.operation import ViewOperation
from streamkd.views.operation_check import check_operation
from streamkd.views.views import Views

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_view.py"
VIEWS = Views(2, flip=True, operation=FADE)
MIXED = Views(2, flip=True, mixup=1.0, operation=FADE)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """21 images of noise, a store of views of them with the operation, and a mixed one."""
    root = tmp_path_factory.mktemp("operations")
    images = draw_noisy(root / "noisy", one_size=True)
    answers(images, root / "s.h5", VIEWS)
    answers(images, root / "mixed.h5", MIXED)
    dense_student(image_size=SIZE).save(root / "student.keras")
    return root


@pytest.fixture
def noisy(here):
    return kd.scan("noisy")


class TestDrawing:
    def test_seeds_depend_on_seed_key_and_view_and_on_nothing_else(self):
        seeds = VIEWS.draw(HASHES)["view_seed"]
        assert seeds.dtype == "<u8" and seeds.shape == (len(HASHES), 3)
        subset = np.array([17, 3, 400])
        assert np.array_equal(VIEWS.draw(HASHES[subset])["view_seed"], seeds[subset])
        more = Views(5, crop=(0.5, 1.0), operation=FADE).draw(HASHES)["view_seed"]
        assert np.array_equal(more[:, :3], seeds)
        other = Views(2, operation=FADE, seed=1).draw(HASHES)["view_seed"]
        assert not (other == seeds)[:, 1:].any()

    def test_seeds_use_all_64_bits_and_0_is_the_plain_view(self):
        seeds = VIEWS.draw(HASHES)["view_seed"]
        assert not seeds[:, 0].any() and seeds[:, 1:].all()
        assert len(np.unique(seeds[:, 1:])) == 2 * len(HASHES)
        means = [((seeds[:, 1:] >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)]
        assert np.abs(np.array(means) - 0.5).max() < 0.03

    def test_the_specification_holds_name_and_version_and_no_code(self):
        assert VIEWS.to_dict()["operation"] == {"name": "fade to noise", "version": 1}
        again = Views.from_dict(VIEWS.to_dict())
        assert again == VIEWS and again.operation.function is None
        assert again != Views(2, flip=True, operation=ViewOperation("fade to noise", 2))
        # A store that was begun before there were operations can be resumed.
        assert "operation" not in Views(2, flip=True).to_dict()
        with pytest.raises(OptionError, match=r"operation, \{.*'code'.*newer streamkd"):
            Views.from_dict({**VIEWS.to_dict(), "operation": {**FADE.to_dict(), "code": "x"}})

    @pytest.mark.parametrize(
        ("build", "words"),
        [
            (lambda: ViewOperation("", 1), r"name of a view operation is ''; give 1 to 100"),
            (lambda: ViewOperation("a\nb", 1), r"name of a view operation is 'a\\nb'"),
            (lambda: ViewOperation("a", "1"), r"operation 'a' is '1'; it must be a whole number"),
            (
                lambda: ViewOperation("a", 1, 3),
                r"function of the view operation 'a' version 1 is 3",
            ),
            (lambda: Views(2, operation="a"), r"operation of the views is 'a'; give a `kd\.View"),
            (lambda: Views(0, operation=FADE), r"There are no views"),
        ],
    )
    def test_names_versions_and_functions_that_do_not_fit_are_refused(self, build, words):
        with pytest.raises(OptionError, match=words):
            build()


class TestRendering:
    def test_the_plain_view_is_not_touched(self):
        pixels = tf.random.stateless_uniform((4, 5, 6, 3), (1, 2), -3, 300)
        parameters = {"view_seed": tf.constant([0, 7, 0, 2**64 - 1], tf.uint64)}
        blank = ViewOperation("blank", 1, lambda pixels, seeds: pixels * np.nan)
        changed = render.change(pixels, parameters, blank).numpy()
        assert np.array_equal(changed[[0, 2]], pixels.numpy()[[0, 2]])
        assert np.isnan(changed[[1, 3]]).all()

    def test_it_comes_after_the_colour_and_is_cut_at_0_and_255(self):
        seen = []

        def far(pixels, seeds):
            seen.append((pixels.numpy(), seeds.numpy()))
            return pixels * 4 - 300

        pixels = tf.random.stateless_uniform((2, 5, 6, 3), (1, 2), 0, 255)
        parameters = {
            "view_flip": tf.constant([1, 0], tf.uint8),
            "view_color": tf.constant([[0.5, 1, 1]] * 2),
        }
        seeds = {"view_seed": tf.constant([2**32 + 5, 2**64 - 1], tf.uint64)}
        before = render.change(pixels, parameters, None).numpy()
        changed = render.change(pixels, {**parameters, **seeds}, ViewOperation("far", 1, far))
        assert np.array_equal(seen[0][0], before)
        assert seen[0][1].dtype == np.int32 and seen[0][1].tolist() == [[5, 1], [-1, -1]]
        assert np.array_equal(changed, np.clip(before * 4 - 300, 0, 255))

    def test_the_teacher_answers_the_plain_image_as_without_it(self, noisy, work):
        plain = answers(noisy, "plain.h5", Views(0))
        store = kd.open_store("s.h5")
        images = np.arange(21)
        assert np.allclose(store.gather(3 * images), plain.gather(images), rtol=0, atol=1e-6)
        others = store.gather(np.sort([*(3 * images + 1), *(3 * images + 2)]))
        assert np.abs(others - np.repeat(plain.gather(images), 2, axis=0)).max() > 0.01


class TestReplay:
    def test_views_drawn_for_an_image_without_logits_leave_it_plain(self, noisy):
        helpers.draw_noise(Path("noisy") / "cat" / "new.png", (12, 15), seed=99)
        images = kd.scan("noisy")
        with pytest.warns(UserWarning, match="1 of 22 images have no logits"):
            stream = join(images, "s.h5", batch_size=4, missing="label", operation=FADE)
        plain = join(images, None, image_size=SIZE, batch_size=4)
        num_shown = 0
        for (pixels, targets, _), (wanted, _, _) in zip(
            stream.batches(0, 6), plain.batches(0, 6), strict=True
        ):
            for index in np.flatnonzero(targets["rows"].numpy() < 0):
                num_shown += 1
                assert np.allclose(pixels[index], wanted[index], atol=1e-3)
        assert num_shown

    # Mixed views go through all that others do.
    @pytest.mark.parametrize("path", [slow("s.h5"), "mixed.h5"])
    def test_through_the_pixel_cache(self, noisy, path):
        views = Views.from_dict(kd.open_store(path).header.views)
        views = Views(2, flip=True, mixup=views.mixup, canonical_size=(11, 13), operation=FADE)
        store = answers(noisy, "canonical.h5", views)
        stream = join(noisy, store, batch_size=4, operation=FADE, cache="memory")
        for _ in range(2):
            assert_replayed(stream, 0, stream.end_of_epoch(2))

    @pytest.mark.slow  # with crops as well: `test_views_in_two_shards_…` in test_replay.py
    def test_shards_merged_and_with_deltas(self, images, directory, tmp_path):
        for number in (1, 2):
            answers(images, tmp_path / f"{number}.h5", MIXED, shard=(number, 2))
        paths = [tmp_path / "1.h5", tmp_path / "2.h5"]
        merge(paths, tmp_path / "m.h5", progress=False)
        images = change(directory)
        store = answers(images, tmp_path / "m.h5", MIXED)
        assert len(store.stores) == 2
        stream = join(images, store, batch_size=4, progress=False, operation=FADE)
        assert_replayed(stream, 0, 20)

    def test_independent_views_may_have_it(self, noisy):
        def joined(**views):
            with pytest.warns(UserWarning, match="views that the teacher has not answered"):
                return join(
                    noisy, "s.h5", batch_size=7, augment="independent", views=Views(1, **views)
                )

        stream, plain = joined(operation=FADE, flip=True), joined(flip=True)
        assert stream.operation is FADE
        first = list(stream.batches(0, 6))
        again = list(stream.batches(3, 6))
        for one, other in zip(first[3:], again, strict=True):
            assert np.array_equal(one[0], other[0])
        for one, other in zip(first, plain.batches(0, 6), strict=True):
            assert np.abs(one[0].numpy() - other[0].numpy()).max() > 5

    def test_a_stopped_run_resumes_to_the_same_weights(self, noisy, monkeypatch):
        def fit(run):
            stream = join(noisy, "mixed.h5", batch_size=4, seed=3, operation=FADE)
            options = {"learning_rate": 0.01, "optimizer": "sgd", "jit": "off"}
            distiller = Distiller(dense_student(image_size=SIZE), **options)
            distiller.fit(stream, epochs=2, run=run, progress=False)
            return distiller.student

        whole = fit("whole")
        with killed(Checkpoints, "save", after=True):
            fit("cut")
        assert same_weights(fit("cut"), whole)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                {},
                r"The store s\.h5 has views with the operation 'fade to noise' version 1, and the "
                r"student must see the views that the teacher saw\.\n"
                r"  store: 'fade to noise' version 1\n"
                r"  given: no operation\nThe store keeps no code; use Python: "
                r"`kd\.join\(…, operation=kd\.ViewOperation\('fade to noise', 1, function\)\)`\.",
            ),
            (
                {"operation": ViewOperation("fade to noise", 2, helpers.fade_to_noise)},
                r"  store: 'fade to noise' version 1\n  given: 'fade to noise' version 2\n.*use Py",
            ),
            (
                {"operation": ViewOperation("fade to noise", 1)},
                r"  given: 'fade to noise' version 1\n         without a function\n",
            ),
            ({"operation": helpers.fade_to_noise}, r"operation is <function .*; give a ViewOper"),
            (
                {"operation": FADE, "augment": "independent", "views": Views(1, flip=True)},
                r"the operation belongs to the views that are drawn\.\nGive it there: views=",
            ),
            (
                {"augment": "independent", "views": Views(1, operation=ViewOperation("a", 1))},
                r"The view operation 'a' version 1 has no function; give it one",
            ),
        ],
    )
    @pytest.mark.filterwarnings("ignore:The student is shown views")
    def test_a_join_with_another_operation(self, noisy, arguments, words):
        with pytest.raises(OptionError, match=words):
            join(noisy, "s.h5", batch_size=4, **arguments)

    def test_an_operation_that_the_store_does_not_have(self, noisy):
        store = answers(noisy, "plain.h5", Views(2, flip=True))
        words = (
            r"has views without an operation, and one is given\.\n  store: no operation\n"
            r"  given: 'fade to noise' version 1\nLeave the operation out, or teach"
        )
        with pytest.raises(OptionError, match=words):
            join(noisy, store, batch_size=4, operation=FADE)
        with pytest.raises(OptionError, match=r"there is no store\.\nLeave operation out"):
            join(noisy, None, image_size=SIZE, batch_size=4, operation=FADE)

    @pytest.mark.parametrize(
        ("operation", "now"),
        [
            (None, "null"),
            (ViewOperation("fade to noise", 2, helpers.fade_to_noise), r'{"version": 2}'),
        ],
    )
    def test_a_pass_that_is_resumed_with_another_operation(self, noisy, operation, now):
        before = Path("s.h5").read_bytes()
        words = rf'another view specification\.\n  now:   {{"operation": {now}}}\n  store: {{"op'
        with pytest.raises(StoreError, match=words):
            answers(noisy, "s.h5", Views(2, flip=True, operation=operation))
        assert Path("s.h5").read_bytes() == before

    def test_stores_of_different_operations_are_not_merged(self, images, tmp_path):
        for number in (1, 2):
            other = ViewOperation("fade to noise", number, helpers.fade_to_noise)
            views = Views(1, operation=other)
            answers(images, tmp_path / f"{number}.h5", views, shard=(number, 2))
        with pytest.raises(
            StoreError, match=r"differ in views.*\n.*\"version\": 1.*\n.*\"version\": 2"
        ):
            merge([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "m.h5", progress=False)

    def test_a_seed_that_was_changed_in_the_store_is_noticed(self, noisy):
        start, _ = extents_of("s.h5")["view_seed"]
        flip_bit("s.h5", start + 8 * 4)  # of image 1, view 1
        report = kd.verify("s.h5", progress=False)
        assert not report.sound and report.problems[0]["view"] == 1


def drew_in_python(pixels, seeds):
    return pixels * np.random.default_rng().uniform(0.1, 0.9)


def counts_its_calls():
    counter = tf.Variable(0.0)
    return lambda pixels, seeds: pixels / (2 + counter.assign_add(1.0))


UNREPEATABLE = (
    r"returns other pixels when it is called again with the same pixels and seeds, up to \d"
)
MIXES_ROWS = r"returns other pixels for a row when the other rows change, up to \d"
IMPOSSIBLE = {
    "draws on its own": (lambda p, s: p * tf.random.uniform([]), UNREPEATABLE),
    "drew in Python": (drew_in_python, UNREPEATABLE),
    "counts its calls": (counts_its_calls(), UNREPEATABLE),
    "looks at the batch": (lambda p, s: p - tf.reduce_mean(p, axis=0), MIXES_ROWS),
    "looks at the row's index": (
        lambda p, s: p * tf.cast(tf.range(tf.shape(p)[0]), tf.float32)[:, None, None, None] / 9,
        MIXES_ROWS,
    ),
    "one seed for all": (
        lambda p, s: p * tf.random.stateless_uniform([], s[0]),
        MIXES_ROWS,
    ),
    "other size": (
        lambda p, s: p[:, ::2],
        r"returns float32\[rows, 5, 10, 3\] for float32\[rows, 9, 10, 3\]",
    ),
    "other rows": (lambda p, s: tf.concat([p, p], 0), r"returns \[8, 9, 10, 3\] for \[4, 9, 10, 3"),
    "other type": (
        lambda p, s: tf.cast(p, tf.float64),
        r"returns float64\[rows, 9, 10, 3\] for float32\[rows, 9, 10, 3\]",
    ),
    "not finite": (lambda p, s: tf.math.log(p - 300), r"returns numbers that are not finite"),
    "raises": (lambda p, s: p.no_such, r"fails on random pixels: AttributeError: .*no_such"),
    "a fixed number of rows": (
        lambda p, s: tf.reshape(p, (4, 9, 10, 3)),
        r"returns float32\[4, 9, 10, 3\] for float32\[rows, 9, 10, 3\]",
    ),
    "fails when run": (
        lambda p, s: tf.debugging.check_numerics(tf.math.log(p - 300), "own check"),
        r"fails on random pixels: own check : Tensor had NaN values\n.*the number of rows unknown",
    ),
    "returns nothing": (lambda p, s: None, r"fails on random pixels: "),
}


class TestChecking:
    @pytest.mark.parametrize(("function", "words"), IMPOSSIBLE.values(), ids=list(IMPOSSIBLE))
    def test_an_operation_that_cannot_be_replayed_is_refused_before_teaching(
        self, images, tmp_path, function, words
    ):
        views = Views(1, operation=ViewOperation("own", 3, function))
        with pytest.raises(OptionError, match=rf"The view operation 'own' version 3 {words}"):
            answers(images, tmp_path / "s.h5", views)
        assert not (tmp_path / "s.h5").exists()

    def test_it_is_refused_before_joining_too(self, noisy):
        changed = ViewOperation("fade to noise", 1, IMPOSSIBLE["draws on its own"][0])
        with pytest.raises(OptionError, match=UNREPEATABLE):
            join(noisy, "s.h5", batch_size=4, operation=changed)

    @pytest.mark.parametrize(
        "function",
        [
            helpers.fade_to_noise,
            lambda p, s: 255 - p,
            tf.function(lambda p, s: tf.nn.avg_pool2d(p, 3, 1, "SAME")),
        ],
        ids=["with seeds", "without", "a compiled convolution"],
    )
    def test_an_operation_that_depends_on_pixels_and_seeds_alone_passes(self, function):
        check_operation(ViewOperation("own", 1, function), (40, 30, 3))
        check_operation(ViewOperation("own", 1, function), (40, 30, 1))


class TestCommands:
    def test_training_from_the_command_line_shows_the_call_in_python(self, here, capsys):
        words = ["train", "noisy", "--student", "student.keras", "--epochs", "1", "--out", "run"]
        code, answer, _ = command(capsys, *words, "--store", "s.h5", "--batch-size", "4")
        assert code == 2 and answer["error"]["code"] == "bad_option"
        message = answer["error"]["message"]
        assert "s.h5 has views with the operation 'fade to noise' version 1" in message
        assert "use Python: `kd.join(…, operation=kd.ViewOperation('fade to noise', 1," in message
        assert not Path("run").exists()

    def test_commands_that_need_no_function_work_without_it(self, here, capsys):
        code, answer, _ = command(capsys, "inspect", "s.h5")
        assert code == 0
        assert answer["views"]["operation"] == {"name": "fade to noise", "version": 1}
        code, answer, _ = command(capsys, "verify", "s.h5", "--images", "noisy")
        assert code == 0 and answer["rows_checked"] == 63
        code, answer, _ = command(capsys, "merge", "s.h5", "--out", "m.h5", "--images", "noisy")
        assert code == 0 and Path("m.h5").read_bytes() == Path("s.h5").read_bytes()
        code, answer, _ = command(capsys, "plan", "noisy", "--store", "s.h5", "--sample", "9")
        assert code == 0 and answer["num_sampled"] == 9
        words = ["evaluate", "student.keras", "noisy", "--store", "s.h5", "--batch-size", "4"]
        code, answer, _ = command(capsys, *words)
        assert code == 0 and answer["agreement"] is not None

    def test_reading_such_a_store_needs_no_tensorflow(self, here):
        code = (
            "import sys; sys.modules['tensorflow'] = None\n"
            "import streamkd as kd\n"
            "operation = kd.ViewOperation('fade to noise', 1)\n"
            "store = kd.open_store('s.h5')\n"
            "assert kd.Views.from_dict(store.header.views).operation == operation\n"
            "print(store.view_parameters([1])['view_seed'].dtype)"
        )
        assert finished("-c", code)[0] == "uint64\n"

    def test_the_bytes_of_the_plan_hold_the_seeds(self, noisy):
        from streamkd.store import codecs
        from streamkd.teachers.plan import store_bytes

        codec = codecs.get("float32")
        with_seeds, without = (
            store_bytes(noisy, codec, 3, Views(2, flip=True, operation=operation))
            for operation in (FADE, None)
        )
        assert with_seeds - without == 21 * 3 * 8

    # As in a process of its own, a warning is shown and ends nothing.
    @pytest.mark.filterwarnings("default")
    def test_the_example_runs(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "own")])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        out = capsys.readouterr().out
        match = re.search(r"96 rows; the teacher asked again differs by (\S+) at most", out)
        assert match, out
        assert float(match[1]) < 1e-4
        assert "loss of the student after three epochs: " in out
