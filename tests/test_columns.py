"""The columns of a batch: what is gathered has the types and shapes that each group declares."""

import numpy as np
import pytest
from replay_helpers import ASKED, CROPS, EVERYTHING, FADE

from streamkd.pixels.file_batch import Files
from streamkd.stream.batch_fetch import BatchColumns, BatchFetcher
from streamkd.stream.columns import READ_COLUMNS, MixedImageColumns
from streamkd.stream.join import join
from streamkd.stream.order.sequence import Sequence
from streamkd.views.views import Views

INDEPENDENT = {"augment": "independent", "views": Views(1, crop=(0.3, 0.8), flip=True)}
CASES = {
    "labels alone": (None, {"image_size": (9, 10)}),
    "plain": (Views(0), {}),
    "mixed": (EVERYTHING, {"operation": FADE}),
    "skipping": (Views(0), {"on_bad": "skip"}),
    "several views of a decode": (CROPS, {"views_per_decode": 2, "on_bad": "skip"}),
    "cached": (CROPS, {"cache": "memory"}),
    "cached as it is shown": (Views(0), {"cache": "memory", "on_bad": "skip"}),
    "independent": (Views(0), {**INDEPENDENT, "views_per_decode": 2}),
    "some without logits": (CROPS, {"missing": "label"}),
}
IGNORED = ("ignore:The student is shown views", "ignore:.* of 21 images have no logits")


@pytest.fixture
def stream_of(teach_once, noisy, tmp_path):
    """Makes a stream of batches of 6 rows from a case's views and options of `join`."""

    def make(views, options):
        taught = noisy.select(np.arange(0, 21, 2)) if "missing" in options else noisy
        path = tmp_path / "s.h5"
        store = None if views is None else teach_once(taught, path, **ASKED, views=views)
        return join(noisy, store, batch_size=6, seed=7, progress=False, **options)

    return make


def fetched(spec, num_batches=1):
    """Returns the columns of a stream, and the values of a batch as they leave Python."""
    columns, sequence = BatchColumns(spec), Sequence(spec)
    fetcher = BatchFetcher(spec, sequence, columns)
    units, epochs = sequence.units(np.arange(num_batches))
    return columns, fetcher._gather(units.numpy(), epochs.numpy())


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_batches", [1, 2])
def test_values_have_the_types_and_shapes_of_their_columns(stream_of, case, num_batches):
    spec = stream_of(*CASES[case]).spec
    columns, batch = fetched(spec, num_batches)
    types = {name: column for group in columns.groups for name, column in group.columns.items()}
    assert len(types) == sum(len(group.columns) for group in columns.groups)
    assert set(types) <= set(batch)
    for name, column in types.items():
        expected = column.spec(6 * num_batches, spec.views_per_decode)
        value = np.asarray(batch[name])
        assert expected.shape.is_compatible_with(value.shape), name
        if expected.dtype != "string":
            assert value.dtype == expected.dtype.as_numpy_dtype, name


@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_batch_that_is_all_in_the_cache_has_no_files(stream_of, cache):
    spec = stream_of(CROPS, {"cache": cache}).spec
    if cache:
        numbers = np.arange(21)
        spec.cache.put(numbers, np.zeros((21, 14, 12, 3), np.uint8), spec.store.content_of(numbers))
    _, batch = fetched(spec)
    assert [len(batch[name]) for name in READ_COLUMNS] == [0 if cache else 6] * 3


def test_an_image_is_unusable_where_it_or_its_partner_is_bad(stream_of):
    columns = MixedImageColumns(stream_of(EVERYTHING, {"operation": FADE}).spec)
    bad = np.array([False, True, False, False, True, False])
    partners = np.array([1, 0, 3, 2, -1, -1])  # the last two share a pair and are shown plain
    unusable = columns.unusable({"view_partner": partners}, bad)
    assert unusable.tolist() == [True, True, False, False, True, False]


def test_changed_files_are_those_whose_digest_is_another_and_that_have_logits(stream_of, noisy):
    columns, batch = fetched(stream_of(Views(0), {"on_bad": "skip"}).spec)
    stored = columns.groups[1]
    files = Files(*(batch[name] for name in Files._fields))
    assert stored.changed_files(batch, files) == []
    batch["stored_digests"] = batch["stored_digests"] + np.uint64(1)
    assert stored.changed_files(batch, files) == list(range(6))
    batch["rows"][2] = -1
    batch["cached"] = np.arange(6) == 4
    bad = files._replace(bad=np.arange(6) == 0)
    assert stored.changed_files(batch, bad) == [1, 3, 5]
