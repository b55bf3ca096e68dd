"""The fixture that teaches a store once and hands out copies; the order of the modules."""

from pathlib import Path

import numpy as np
from helpers import EncodingTeacher, draw_image

from streamkd.manifest.manifest import scan
from streamkd.views.views import Views


class CountingTeacher(EncodingTeacher):
    """Counts the calls of all its instances."""

    num_calls_of_all = 0

    def __call__(self, images):
        type(self).num_calls_of_all += 1
        return super().__call__(images)


def test_a_store_is_taught_once_for_the_same_files_teacher_and_options(
    teach_once, directory, tmp_path
):
    images = scan(directory)
    options = {"image_size": (8, 8), "batch_size": 30}
    first = teach_once(images, tmp_path / "first.h5", CountingTeacher, **options)
    elsewhere = directory.rename(tmp_path / "elsewhere")
    again = teach_once(scan(elsewhere), tmp_path / "again.h5", CountingTeacher, **options)
    assert CountingTeacher.num_calls_of_all == 2  # a pass asks about the first images twice
    np.testing.assert_array_equal(again.gather(np.arange(30)), first.gather(np.arange(30)))
    (tmp_path / "first.h5").write_bytes(b"spoilt")
    draw_image(elsewhere / "ant" / "00000.png", 999)
    for number, changed in enumerate(({}, {"codec": "float32"}, {"views": Views(1)})):
        path = tmp_path / f"{number}.h5"
        teach_once(scan(elsewhere), path, CountingTeacher, **{**options, **changed})
    assert CountingTeacher.num_calls_of_all == 9


def test_the_modules_that_are_begun_first_are_there(request):
    folder = Path(__file__).parent
    conftest = request.config.pluginmanager.get_plugin(str(folder / "conftest.py"))
    assert [name for name in conftest.LONGEST if not (folder / f"{name}.py").exists()] == []
    assert len(set(conftest.LONGEST)) == len(conftest.LONGEST)
