"""Stores written from outside: without TensorFlow, with logits from a file, and refusals."""

import io
import json
import os

import helpers
import numpy as np
import pytest
from PIL import Image
from stream_helpers import assert_all_paired

import streamkd as kd
from streamkd.errors import (
    BadImageError,
    ClassNamesError,
    NonFiniteError,
    OptionError,
    StoreError,
    TeacherError,
)
from streamkd.keys import key_fields
from streamkd.manifest.manifest import scan
from streamkd.store.collection import open_store
from streamkd.stream.join import join
from streamkd.teachers.import_logits import import_logits
from streamkd.teachers.write_store import write_store


def answer(batch):
    """Answers as `EncodingTeacher` does, from the bytes of the files."""
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in batch.contents])
    return helpers.EncodingTeacher()(pixels)


def write(images, path, answer=answer, **arguments):
    values = {"teacher": "t", "image_size": (8, 8), "batch_size": 7, "progress": False}
    return write_store(images, path, answer, **{**values, **arguments})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.h5"


def logits_of(images):
    """Returns the logits that `EncodingTeacher` has for a manifest, in its order."""
    numbers = [int(key.rpartition(b"/")[2].partition(b".")[0]) for key in images.keys]
    return helpers.encoded_logits(numbers, images.labels, 3)


class TestWriting:
    def test_the_store_joins_like_one_of_a_teacher_pass(self, images, path):
        write(images, path)
        assert_all_paired(images, path)
        assert kd.verify(path, images=images, progress=False).sound

    def test_indices_are_those_of_the_manifest_that_was_given(self, images, path):
        shuffled = images.select(np.random.default_rng(0).permutation(len(images)))
        expected = logits_of(shuffled)
        seen = []

        def answer(batch):
            seen.extend(zip(batch.indices.tolist(), batch.keys, strict=True))
            return expected[batch.indices]

        write(shuffled, path, answer)
        assert all(shuffled.keys[index] == key for index, key in seen)
        assert_all_paired(images, path)

    def test_a_call_that_was_cut_resumes_to_the_same_bytes(self, images, path, tmp_path):
        calls = []

        def fail_at_third(batch):
            calls.append(1)
            if len(calls) == 4:
                raise helpers.TeacherFailedError
            return answer(batch)

        with pytest.raises(helpers.TeacherFailedError):
            write(images, path, fail_at_third)
        assert open_store(path).rows_done == 14
        write(images, path)
        write(images, tmp_path / "uncut.h5")
        assert path.read_bytes() == (tmp_path / "uncut.h5").read_bytes()

    def test_a_finished_store_is_returned_without_a_question(self, images, path):
        write(images, path)
        assert write(images, path, lambda batch: pytest.fail("asked")).finished

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                {"teacher": "u"},
                r'other teacher\.\n  now:   {"name": "u"}\n  store: {"name": "t"}\n',
            ),
            ({"codec": "float32"}, r'another codec\.\n  now:   "float32"\n  store: "float16"'),
            ({"batch_size": 5}, r"another batch_size\.\n  now:   5\n  store: 7"),
            ({"image_size": (9, 8)}, r'other images\.\n  now:   {"image_size": \[9, 8\]}'),
        ],
    )
    def test_a_store_begun_with_something_else_is_refused(self, images, path, arguments, words):
        write(images, path)
        with pytest.raises(StoreError, match=words):
            write(images, path, **arguments)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (lambda n: np.zeros((n, 3, 1), np.float32), r"float32\[7, 3, 1\], and must be"),
            (lambda n: np.zeros((n - 1, 3), np.float32), r"float32\[6, 3\]"),
            (lambda n: np.zeros((n, 3), np.int64), r"int64\[7, 3\]"),
            (lambda n: np.zeros((n, 4), np.float32), "image has 4 logits, and there are 3 classes"),
        ],
    )
    def test_answers_of_another_shape_are_refused(self, images, path, given, words):
        with pytest.raises(TeacherError, match=words):
            write(images, path, lambda batch: given(len(batch.keys)))
        assert not path.exists()

    def test_logits_that_are_no_numbers_are_refused_by_name(self, images, path):
        def nan(batch):
            logits = answer(batch)
            logits[2, 1] = np.nan
            return logits

        with pytest.raises(NonFiniteError, match=r"'ant/00002\.png', view 0, hold nan"):
            write(images, path, nan)

    def test_a_file_that_is_gone_is_refused_by_name(self, images, directory, path):
        (directory / "bee" / "00012.png").unlink()
        with pytest.raises(BadImageError, match=r"'bee/00012\.png' cannot be read: No such file"):
            write(images, path)
        write(scan(directory), path.with_name("t.h5"))

    def test_a_store_without_an_image_size_asks_for_it_at_the_join(self, images, path):
        write(images, path, image_size=None)
        with pytest.raises(OptionError, match=r"does not say at which size .*\n.*--image-size"):
            join(images, path, batch_size=8)
        assert join(images, path, batch_size=8, image_size=(8, 8)).options.image_size == (8, 8)


def write_keys(path, keys):
    path.write_text("".join(json.dumps(key.decode()) + "\n" for key in keys))
    return path


def write_csv(path, images, header):
    lines = [",".join(["key", *images.class_names])] if header else []
    for key, row in zip(images.keys, logits_of(images).tolist(), strict=True):
        lines.append(",".join([key.decode(), *map(repr, row)]))
    path.write_text("\n".join(lines) + "\n")
    return path


REFUSALS = {
    "rows": (r"29 rows of logits and 30 keys", {"logits": np.zeros((29, 3), np.float32)}),
    "columns": (r"4 logits, and there are 3 classes", {"logits": -np.ones((30, 4), np.float32)}),
    "kind": (r"int64\[30, 3\], and must hold floating", {"logits": np.zeros((30, 3), int)}),
    "axes": (r"float32\[90\], and must hold", {"logits": np.zeros(90, np.float32)}),
    "sigmoid": (r"sigmoid outputs or logits", {"logits": np.full((30, 3), 0.9)}),
    "output": (r"--teacher-output is 'p'; choose", {"output": "p"}),
    "one class": (r"1 logits, and there are 3 classes", {"logits": -np.ones((30, 1), "f4")}),
    "no class": (r"float32\[30, 0\].*\n.*one column", {"logits": np.ones((30, 0), "f4")}),
    "no keys": (r"rows of logits have no keys.*\n.*--keys KEYS\.jsonl", {"keys": None}),
    "ending": (r"ends in '\.txt'; give one of \.npy", {"logits": "x.txt"}),
    "no file": (r"x\.npy cannot be read: No such file", {"logits": "x.npy"}),
    "no keys file": (r"--keys k cannot be read: No such file", {"keys": "k"}),
    "twice": (r"'ant/00000\.png' is listed twice", {"keys": [b"ant/00000.png"] * 30}),
}


class TestImport:
    @pytest.fixture
    def shuffled(self, images):
        return images.select(np.random.default_rng(1).permutation(len(images)))

    @pytest.mark.parametrize("kind", ["npy", "npz", "npz alone", "csv", "csv with names", "array"])
    def test_every_kind_of_file_gives_each_image_its_own_logits(
        self, images, shuffled, tmp_path, path, kind
    ):
        logits, keys = logits_of(shuffled), write_keys(tmp_path / "k.jsonl", shuffled.keys)
        source = tmp_path / f"logits.{kind[:3]}"
        if kind == "npy":
            np.save(source, logits)
        elif kind == "npz":
            np.savez(source, logits=logits, other=logits[:1])
        elif kind == "npz alone":
            np.savez(source, whatever=logits)
        elif kind == "array":
            source = logits
        else:
            write_csv(source, shuffled, header=kind == "csv with names")
            keys = None
        import_logits(source, keys, images, path, image_size=(8, 8), progress=False)
        assert_all_paired(images, path)
        assert kd.verify(path, images=images, progress=False).sound

    def test_probabilities_become_their_logarithms(self, images, tmp_path, path):
        logits = logits_of(images).astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.save(tmp_path / "p.npy", shares)
        keys = write_keys(tmp_path / "k.jsonl", images.keys)
        store = import_logits(
            tmp_path / "p.npy", keys, images, path, codec="float32", progress=False
        )
        rows = np.arange(30)[np.argsort(images.keys.sort_order())]
        np.testing.assert_allclose(np.exp(store.gather(rows)), shares, rtol=1e-5)
        assert store.header.teacher == {"name": "p.npy", "output": "probabilities"}

    def test_a_manifest_and_objects_are_keys_too(self, images, tmp_path, path):
        np.save(tmp_path / "l.npy", logits_of(images))
        images.write(tmp_path / "images.jsonl")
        import_logits(tmp_path / "l.npy", tmp_path / "images.jsonl", images, path, progress=False)
        lines = [json.dumps(key_fields(key)) for key in images.keys]
        (tmp_path / "k.jsonl").write_text("\n".join(lines))
        again = tmp_path / "again.h5"
        import_logits(tmp_path / "l.npy", tmp_path / "k.jsonl", images, again, progress=False)
        assert again.read_bytes() == path.read_bytes()

    @pytest.mark.filterwarnings("ignore:The teacher .* is right on")
    def test_a_key_that_is_no_utf8(self, directory, tmp_path, path):
        os.rename(directory / "ant" / "00003.png", os.fsencode(directory) + b"/ant/\xff.png")
        images = scan(directory)
        lines = [json.dumps(key_fields(key)) for key in images.keys]
        (tmp_path / "k.jsonl").write_text("\n".join(lines))
        logits = -np.ones((30, 3), np.float32)
        import_logits(logits, tmp_path / "k.jsonl", images, path, progress=False)
        assert open_store(path).keys == images.keys.take(images.keys.sort_order())

    def test_the_teacher_has_the_name_that_is_given(self, images, path):
        keys = images.keys.tolist()
        store = import_logits(logits_of(images), keys, images, path, teacher="t", progress=False)
        assert store.header.teacher == {"name": "t", "output": "logits"}

    def test_of_several_arrays_one_must_be_named_logits(self, images, tmp_path, path):
        np.savez(tmp_path / "l.npz", first=logits_of(images), second=logits_of(images))
        words = r"l\.npz cannot be read: it has the arrays first, second, and none is named logits"
        with pytest.raises(OptionError, match=words):
            import_logits(tmp_path / "l.npz", images.keys.tolist(), images, path, progress=False)

    def test_folders_that_the_teacher_does_not_know_can_be_left_out(self, images, path):
        # The teacher knows no cats: they are dropped from the images and from its logits.
        known = images.select(np.flatnonzero(images.labels != 2))
        names = images.class_names[:2]
        kept = scan(os.fsdecode(images.root), class_names=names)
        options = {"class_names": names, "progress": False}
        import_logits(logits_of(known)[:, :2], known.keys.tolist(), kept, path, **options)
        store = open_store(path)
        assert store.class_names == names and store.num_images == len(known) == 20
        assert store.summary["teacher_accuracy"] == 1.0

    def test_images_without_logits_are_left_out(self, images, tmp_path, path):
        keys = write_keys(tmp_path / "k.jsonl", images.keys.take(range(20)))
        logits = logits_of(images)[:20]
        store = import_logits(logits, keys, images, path, image_size=(8, 8), progress=False)
        assert store.num_images == 20
        assert_all_paired(images.select(slice(0, 20)), path)

    @pytest.mark.parametrize("case", list(REFUSALS))
    def test_arguments_that_do_not_fit_are_refused(self, images, tmp_path, path, case):
        words, changes = REFUSALS[case]
        keys = images.keys.tolist()
        values = {"logits": logits_of(images), "keys": keys, **changes}
        with pytest.raises((OptionError, TeacherError), match=words):
            import_logits(images=images, out=path, progress=False, **values)
        assert not path.exists()

    def test_a_key_that_is_no_image_is_named_with_both_sides(self, images, path):
        keys = [*images.keys.tolist()[:-1], b"cat/gone.png"]
        with pytest.raises(OptionError, match=r"1 of 30 keys .*\n  images: .*\n  first:  'cat/gon"):
            import_logits(logits_of(images), keys, images, path, progress=False)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "it is empty"),
            ("key,a,b,c\n", "no numbers"),
            ("a.png,1,2,3\nb.png,1,2\n", "line 2 has 3 columns, not 4"),
            ("a.png,1,2,3\nb.png,1,x,3\n", "line 2: "),
        ],
    )
    def test_a_csv_file_that_cannot_be_read(self, images, tmp_path, path, text, words):
        (tmp_path / "l.csv").write_text(text)
        with pytest.raises(OptionError, match=rf"l\.csv cannot be read: .*{words}"):
            import_logits(tmp_path / "l.csv", None, images, path, progress=False)

    def test_an_array_that_would_run_code_is_refused(self, images, tmp_path, path):
        np.save(tmp_path / "l.npy", np.array([print, print], object), allow_pickle=True)
        with pytest.raises(OptionError, match=r"l\.npy cannot be read: .*Python objects"):
            import_logits(tmp_path / "l.npy", images.keys.tolist(), images, path, progress=False)

    @pytest.mark.parametrize(
        "line", ["{", "[1]", "1", '{"label": 3}', '{"key_base64": "?"}', '{"key": 1}']
    )
    def test_a_line_that_names_no_key(self, images, tmp_path, path, line):
        (tmp_path / "k.jsonl").write_text(line + "\n")
        with pytest.raises(OptionError, match=r"k\.jsonl cannot be read: (line 1|.*column)"):
            import_logits(logits_of(images), tmp_path / "k.jsonl", images, path, progress=False)

    def test_class_names_in_another_order_are_taken_by_name(self, images, tmp_path, path):
        order = [2, 0, 1]
        names = [images.class_names[i] for i in order]
        import_logits(
            logits_of(images)[:, order],
            images.keys.tolist(),
            images,
            path,
            class_names=names,
            progress=False,
        )
        assert open_store(path).summary["teacher_accuracy"] == 1.0
        with pytest.raises(ClassNamesError, match="first of 1 unknown to the teacher: 'cat'"):
            import_logits(
                logits_of(images),
                images.keys.tolist(),
                images,
                tmp_path / "t.h5",
                class_names=["ant", "bee", "dog"],
                progress=False,
            )
