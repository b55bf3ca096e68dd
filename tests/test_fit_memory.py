"""What a fit leaves in a process that goes on: nothing that grows with the number of fits."""

import gc

import keras
from helpers import small_model
from tensorflow.python.framework.func_graph import FuncGraph

from streamkd.stream.join import join
from streamkd.training.distiller import Distiller


def num_graphs_after_a_fit(shared):
    directory, store = shared
    keras.backend.clear_session()
    stream = join(directory, store, image_size=(8, 8), batch_size=8, seed=1)
    Distiller(small_model(keras), optimizer="sgd").fit(stream, epochs=1, progress=False)
    del stream
    keras.backend.clear_session()
    gc.collect()
    return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())


def test_a_fit_leaves_no_graph_behind(shared):
    # What other tests left is not looked through again and again, and is not counted.
    gc.collect()
    gc.freeze()
    num_graphs_after_a_fit(shared)
    assert num_graphs_after_a_fit(shared) == num_graphs_after_a_fit(shared)
