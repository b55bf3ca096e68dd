"""Published attacks on Keras' model files: refused without trust, and nothing is done.

The lists are in `attack_config_helpers.py` and `attack_file_helpers.py`. The ordinary test loads
each file in this process and hears what Python opens, starts and connects to. The slow one gives
each file to the commands, below strace.
"""

import contextlib
import json
import re
import shutil
import sys

import attack_config_helpers
import attack_file_helpers
import keras
import pytest
import tf_keras
from attack_helpers import Case, model_parts
from process_helpers import running
from timeouts import TIMEOUT_SECS

from streamkd.errors import TeacherError
from streamkd.models import model_file
from streamkd.models.families import load_model

ATTACKS = {**attack_config_helpers.ATTACKS, **attack_file_helpers.ATTACKS}
FAMILIES = {"tf_keras": tf_keras, "keras": keras}
# Events of Python that a refused file must not cause; files that are opened are looked at.
ACTS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect")
WRITES = ("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.truncate")


@pytest.fixture(scope="module")
def parts_of(tmp_path_factory):
    """Gives the parts of a small model's file for 8 × 8 pixels, by the name of its family."""
    return {
        name: model_parts(family, tmp_path_factory.mktemp(name))
        for name, family in FAMILIES.items()
    }


class Listener:
    """Hears Python's audit events while it is switched on; a hook stays for the whole process."""

    def __init__(self):
        self.is_on, self.events = False, []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if self.is_on and (event == "open" or event.startswith((*ACTS, *WRITES, "import"))):
            self.events.append((event, tuple(map(str, arguments))))

    @contextlib.contextmanager
    def listening(self):
        self.is_on, self.events = True, []
        try:
            yield
        finally:
            self.is_on = False


@pytest.fixture(scope="module")
def listener():
    return Listener()


@pytest.mark.parametrize("name", ATTACKS)
def test_published_attacks_are_refused_and_nothing_happens(
    name, parts_of, tmp_path, listener, monkeypatch
):
    monkeypatch.setattr(model_file, "MAX_CONFIG_BYTES", 1 << 20)
    monkeypatch.setattr(model_file, "MAX_GROWTH", 1)
    attack = ATTACKS[name]
    for family, parts in parts_of.items():
        case = Case(family, parts, tmp_path / family, tmp_path / "outside", bomb_bytes=3 << 20)
        path = attack.build(case)
        with listener.listening(), contextlib.ExitStack() as stack:
            if not attack.is_left_out:
                stack.enter_context(pytest.raises(TeacherError))
            load_model(path)
        assert not case.mark.exists()
        events = [event for event, _ in listener.events if event.startswith(ACTS)]
        assert events == []
        assert str(tmp_path / "outside") not in str(listener.events)


# Says at each step to strace where it is, by looking for a file of a name. The first argument has
# the commands: for each attack, the words of several command lines.
CHILD = """
import contextlib, io, json, os, sys
import h5py, keras, numpy, PIL.Image, tensorflow, tf_keras
from streamkd.cli import commands as _, main, train
from streamkd.exports import export as _export
from streamkd.results import evaluate
from streamkd.teachers import teach
from streamkd.training import distiller
commands, answers = json.load(open(sys.argv[1])), {}
for name, lines in commands.items():
    reader, writer = os.pipe()
    if not os.fork():
        codes = []
        os.path.exists("/begin/" + name)
        for words in lines:
            sys.argv = ["streamkd", *words]
            out, errors = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                try:
                    main.run()
                except SystemExit as end:
                    codes.append([end.code, out.getvalue()[-2000:], errors.getvalue()[-2000:]])
        os.path.exists("/end/" + name)
        os.write(writer, json.dumps(codes).encode())
        os._exit(0)
    os.close(writer)
    answers[name] = json.load(open(reader))
    os.wait()
json.dump(answers, open(sys.argv[2], "w"))
"""
# Words of the refusals; any other mistake has the same exit code.
REFUSALS = (
    "may run code or touch files",
    "is not a `.keras` file",
    "could not be loaded as a Keras model",
    "no finished run",
    "and a Keras model is needed here",
    "is a SavedModel directory: a program",
)
CALL = re.compile(r"^\d+ +(\w+)\((.*)$")
QUOTED = re.compile(r'(?:(AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
NAMES_OF_THREADS = "/proc/self/task/"
CHANGES = ("mkdir", "rename", "unlink", "rmdir", "link", "symlink", "truncate", "chmod", "chown")


def commands_for(given, path, number):
    """Returns the words of every command that opens a model, and those for one in a run."""
    images, store, out = given / "images", given / "s.h5", given / f"out{number}"
    quiet = ["--json", "--quiet"]
    train = ["train", images, "--store", store, "--epochs", "1", "--batch-size", "10", "--out", out]
    lines = [
        ["teach", images, "--teacher", path, "--out", given / f"t{number}.h5"],
        [*train, "--student", path],
        ["evaluate", path, images],
        ["export", path, "--out", given / f"e{number}.keras"],
    ]
    if path.is_file():
        run = given / f"run{number}"
        run.mkdir()
        shutil.copyfile(path, run / "student.keras")
        lines += [
            ["evaluate", run, images],
            ["export", run, "--out", given / f"e{number}.keras"],
            [*train, "--student", run],
        ]
    return [[str(word) for word in (*words, *quiet)] for words in lines]


def deeds(log, given):
    """Yields (attack, what was done) for each system call that an attack must not make."""
    name = None
    for line in log.splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        call, words = match.groups()
        paths = [
            f"{folder}/{path}" if folder and path[:1] != "/" else path
            for _, folder, path in QUOTED.findall(words)
        ]
        if paths and paths[0].startswith(("/begin/", "/end/")):
            name = paths[0].removeprefix("/begin/") if paths[0].startswith("/begin/") else None
            continue
        if name is None:
            continue
        opens_to_write = call.startswith("open") and re.search("O_WRONLY|O_RDWR|O_CREAT", words)
        changes = call.startswith(CHANGES) or call == "creat"
        elsewhere = [p for p in paths if not p.startswith((str(given), "/dev/", NAMES_OF_THREADS))]
        starts = call in ("fork", "vfork") or (
            call in ("clone", "clone3") and "CLONE_THREAD" not in words
        )
        if (
            call in ("execve", "execveat", "connect", "bind", "sendto", "sendmsg")
            or starts
            or ((opens_to_write or changes) and elsewhere)
            or "/outside/" in words
        ):
            yield name, line


def listing(folder):
    return {path: path.stat().st_size for path in sorted(folder.rglob("*"))}


@pytest.fixture
def watched(tmp_path, taught):
    """Gives a function that runs commands below strace; it returns answers and deeds by attack."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    given = tmp_path / "given"
    shutil.copytree(taught / "images", given / "images")
    shutil.copyfile(taught / "teacher.h5", given / "s.h5")

    def run(commands):
        (tmp_path / "commands").write_text(json.dumps(commands))
        (given / "tmp").mkdir(exist_ok=True)
        log, answers = tmp_path / "log", tmp_path / "answers"
        strace = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "500", "-o", log]
        traced = ["-e", "trace=file,network,process"]
        variables = {"TMPDIR": str(given / "tmp"), "TF_CPP_MIN_LOG_LEVEL": "3"}
        with running(
            *("-c", CHILD, tmp_path / "commands", answers),
            interpreter=(*strace, *traced, sys.executable),
            variables=variables,
            cwd=given,
        ) as child:
            _, errors = child.communicate(timeout=20 * TIMEOUT_SECS)
        assert child.returncode == 0, errors[-3000:]
        done = {}
        for name, deed in deeds(log.read_text(errors="replace"), given):
            done.setdefault(name, []).append(deed)
        return json.loads(answers.read_text()), done

    return given, run


@pytest.mark.slow
def test_no_command_acts_for_a_published_attack(watched, parts_of, tmp_path):
    given, run = watched
    commands = {}
    for number, name in enumerate(ATTACKS):
        commands[name] = []
        for family, parts in parts_of.items():
            folder = given / f"{family}{number}"
            path = ATTACKS[name].build(Case(family, parts, folder, tmp_path / "outside"))
            commands[name] += commands_for(given, path, f"{family}{number}")
    before = listing(given)
    answers, done = run(commands)
    assert done == {}
    for name, answered in answers.items():
        assert len(answered) == len(commands[name])
        for code, out, _ in answered if not ATTACKS[name].is_left_out else ():
            assert code == 2 and any(words in out for words in REFUSALS), (name, out)
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    new = {path.name for path in listing(given).keys() - before.keys()}
    left_out = [str(number) for number, name in enumerate(ATTACKS) if ATTACKS[name].is_left_out]
    exported = {f"e{family}{number}.keras" for family in FAMILIES for number in left_out}
    # Such a file is loaded, and a child that ends at once leaves AutoGraph's file.
    assert {name for name in new if "autograph" not in name} == {"tmp", *exported}


# Attacks that the installed versions of Keras let act.
TRUSTED = (
    ("tf_keras", "bytecode in a Lambda"),
    ("keras", "bytecode in a Lambda"),
    ("tf_keras", "a Lambda that names os.system"),
    ("tf_keras", "get_file copies a file of the machine"),
    ("tf_keras", "a module that acts when it is imported"),
    ("tf_keras", "StringLookup with a vocabulary at a path"),
    ("keras", "StringLookup with a vocabulary at a path"),
    ("keras", "a SavedModel as a layer"),
    ("tf_keras", "tf_keras calls io.write_file"),
    ("tf_keras", "tf_keras calls io.read_file"),
    ("tf_keras", "weights in another file"),
    ("keras", "a part with the full path of a file"),
)


@pytest.mark.slow
def test_the_watch_sees_what_a_trusted_file_does(watched, parts_of, tmp_path):
    given, run = watched
    commands = {}
    for family, name in TRUSTED:
        folder = given / f"{family}{len(commands)}"
        path = ATTACKS[name].build(Case(family, parts_of[family], folder, tmp_path / "outside"))
        words = ["evaluate", str(path), str(given / "images"), "--trust"]
        commands[f"{family}, {name}"] = [words]
    answers, done = run(commands)
    assert set(done) == set(commands), answers
