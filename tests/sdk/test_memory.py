"""Memory that is used again must never be used twice at once."""

from __future__ import annotations

import gc
import threading

import numpy as np

from fluoroscope.memory import Pool

F32 = np.dtype("<f4")
MIB = 1 << 20


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_an_array_is_like_numpys():
    pool = Pool(64 * MIB)
    for shape in [(), (0, 5), (3,), (300_000,), (7, 1000, 333)]:
        array = pool.empty(shape, F32)
        assert array.shape == shape and array.dtype == F32 and array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
        array[...] = 1.5
        assert (array == 1.5).all()


def test_dropped_memory_is_used_again_for_a_similar_size():
    pool = Pool(64 * MIB)
    array = pool.empty((4 * MIB,), F32)
    array[:] = 3
    where = address(array)
    del array
    assert pool.kept_bytes == 16 * MIB
    again = pool.empty((2, 2 * MIB - 1000), F32)
    assert address(again) == where and pool.kept_bytes == 0
    small = pool.empty((MIB,), F32)
    assert address(small) != where


def test_views_keep_the_memory():
    pool = Pool(64 * MIB)
    array = pool.empty((8, MIB), F32)
    array[:] = np.arange(8)[:, None]
    view = array[5].reshape(1024, -1).T
    buffer = memoryview(array[6])
    del array
    gc.collect()
    assert pool.kept_bytes == 0
    other = pool.empty((8, MIB), F32)
    other[:] = -1
    assert (view == 5).all() and buffer[0] == 6
    del view
    assert pool.kept_bytes == 0
    del buffer
    assert pool.kept_bytes == 32 * MIB


def test_the_limit_holds_and_the_longest_unused_go_first():
    pool = Pool(20 * MIB)
    arrays = [pool.empty((size * MIB // 4,), F32) for size in (8, 9, 10)]
    last = address(arrays[2])
    while arrays:
        del arrays[0]
    assert pool.kept_bytes == 19 * MIB
    assert address(pool.empty((10 * MIB // 4,), F32)) == last


def test_threads_do_not_share_a_block():
    pool = Pool(64 * MIB)
    wrong = []

    def work(mark: int) -> None:
        for _ in range(200):
            array = pool.empty((300_000,), F32)
            array[:] = mark
            if not (array == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_block_may_come_back_in_the_middle_of_another_call():
    """The garbage collector and signal handlers drop arrays where they like, on the thread that holds the lock too."""
    pool = Pool(64 * MIB)
    array = pool.empty((MIB,), F32)
    with pool._lock:
        del array
        other = pool.empty((MIB,), F32)  # nobody waits
        other[:] = 1
    assert pool.kept_bytes == 4 * MIB
    del other
    assert pool.kept_bytes == 8 * MIB
