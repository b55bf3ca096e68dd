"""The whole job on a FUSE mount: scanned, taught, trained and cached, and killed on the way."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import draw_directory, small_model
from process_helpers import finished, process
from timeouts import TIMEOUT_SECS

import streamkd as kd

pytestmark = pytest.mark.slow
KILLS = 4
TEACH = "teach images --teacher teacher.keras --batch-size 4 --codec float32 --out s.h5 --quiet"
TRAIN = (
    "train images --store s.h5 --student student.keras --epochs 4 --batch-size 8 --save-every 9 "
    "--jit off --cache disk --cache-directory cache --out run --quiet"
)


# Where systems keep the server's part of sftp, which sshfs speaks with.
SFTP_FOLDERS = "/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh:/usr/libexec"


def bindfs(back, mount, folder):
    return ["bindfs", back, mount]


def sshfs(back, mount, folder):
    """Returns the command of a network file system whose other end is a process of this machine."""
    server = shutil.which("sftp-server", path=f"{os.environ['PATH']}:{SFTP_FOLDERS}")
    if server is None:
        pytest.skip("there is no sftp-server, which sshfs asks for files")
    connection = folder / "connection"  # called instead of ssh, with arguments for it
    connection.write_text(f"#!/bin/sh\nexec {server}\n")
    connection.chmod(0o700)
    return ["sshfs", "-o", f"ssh_command={connection}", f"localhost:{back}", mount]


@pytest.fixture(params=[bindfs, sshfs], ids=["bindfs", "sshfs"])
def mounted(request, tmp_path):
    """A folder that lies on a FUSE file system."""
    name, mount, back = request.param.__name__, tmp_path / "mount", tmp_path / "back"
    mount.mkdir()
    back.mkdir()
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}, which mounts a folder by FUSE")
    command = request.param(back, mount, tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{name} cannot mount here: {done.stderr.strip()}")
    try:
        assert os.stat(mount).st_dev != os.stat(back).st_dev
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def fill(folder):
    """Writes the images and the models."""
    draw_directory(folder / "images", {"ant": 60, "bee": 60, "cat": 60})
    small_model("keras", activation=None).save(folder / "teacher.keras")
    small_model("keras", activation=None, seed=5).save(folder / "student.keras")


def progress_of_teach(folder):
    with contextlib.suppress(kd.StreamkdError):
        return kd.open_store(folder / "s.h5").rows_done
    return 0


def progress_of_train(folder):
    names = [path.name for path in Path(folder, "run/checkpoints").glob("step-*[0-9]")]
    return max(names, default="")


def kill_until_done(line, folder, progress):
    """Gives a command again and again, killed once it got further; returns the number of kills."""
    for kills in range(KILLS + 1):
        with process("-m", "streamkd", *line.split(), cwd=folder) as child:
            try:
                before = progress(folder)
                while child.poll() is None and (kills == KILLS or progress(folder) == before):
                    time.sleep(0.005)
                child.send_signal(signal.SIGKILL)
                _, errors = child.communicate(timeout=TIMEOUT_SECS)
            finally:
                child.kill()
        if child.returncode == 0:
            return kills
        assert child.returncode == -signal.SIGKILL, errors
    return pytest.fail("the last run, which nobody killed, did not end")


def weights_of(path):
    return [np.array(weight) for weight in keras.models.load_model(path).weights]


def test_a_job_that_is_killed_on_a_fuse_mount_ends_as_on_a_local_disk(mounted, tmp_path):
    local = tmp_path / "local"
    local.mkdir()
    fill(mounted)
    fill(local)
    finished("-m", "streamkd", "scan", "images", "--check", cwd=mounted)
    for line, progress in ((TEACH, progress_of_teach), (TRAIN, progress_of_train)):
        finished("-m", "streamkd", *line.split(), cwd=local)
        assert kill_until_done(line, mounted, progress) == KILLS
    finished("-m", "streamkd", "verify", "s.h5", "--images", "images", cwd=mounted)
    stores = [kd.open_store(folder / "s.h5") for folder in (mounted, local)]
    assert stores[0].io == "mmap"
    rows = np.arange(stores[0].rows_total)
    np.testing.assert_array_equal(*(store.gather(rows) for store in stores))
    for one, other in zip(
        *(weights_of(folder / "run/student.keras") for folder in (mounted, local)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert list(Path(mounted, "cache").glob("*.pixels"))
    with kd.file_settings(store_io="pread"):
        np.testing.assert_array_equal(
            kd.open_store(mounted / "s.h5").gather(rows), stores[1].gather(rows)
        )
