"""The modules of the user's own that a run needs, and whether this user wrote that down.

    config |= describe_code(["my_models"])      # {"code": {"modules": [...], "mark": "…"}}
    student = open_student("runs/first", trust=False)   # imports them if this user's mark is right

A run may be a stranger's, and importing a module runs it. So the list of modules carries a mark
that is made with a secret of the user's, which lies in the user's own folder. The mark also says
which files the modules were: a run that its user gave away, and that comes back beside a stranger's
module of the same name, vouches for nothing. Without a right mark the modules are imported only
where somebody names them: `--import`, or `--trust`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Any

from streamkd import small_files
from streamkd.disk import open_new
from streamkd.errors import StreamkdError, StudentError
from streamkd.models import families, user_code

# Files of a run directory.
STUDENT, CONFIG = "student.keras", "config.json"
# Bytes of the secret.
_NUM_BYTES = 32


def describe_code(modules: list[str]) -> dict[str, Any]:
    """Returns the entry of config.json that names a run's modules; empty for none."""
    if not modules:
        return {}
    secret = _secret(may_create=True)
    mark = None if secret is None else _mark(modules, secret)
    return {"code": {"modules": modules, "mark": mark}}


def open_student(
    run: str | os.PathLike, *, trust: bool, refusal: type[StreamkdError] = StudentError
) -> Any:
    """Returns the student in a run directory; modules of the run are imported if it needs them.

    Raises:
      refusal: the student cannot be loaded, nobody vouches for the modules that the run
        names, or one of them cannot be imported.
    """
    path = student_file(run, refusal)
    try:
        return families.load_model(path, refusal=refusal, trust=trust)
    except refusal as error:
        modules = modules_of(run)
        if not modules or user_code.are_imported(modules):
            raise
        if not (trust or is_vouched_for(run)):
            named = " ".join(f"--import {name}" for name in modules)
            raise refusal(
                f"{error}\nThe run names modules of its own, and was not trained by you with the "
                f"modules that are found here. Add `{named}` if you know them."
            ) from error
    for name in modules:
        user_code.import_module(name, f"the run {os.fspath(run)}", refusal)
    return families.load_model(path, refusal=refusal, trust=trust)


def has_student(run: str | os.PathLike) -> bool:
    """Returns whether a run directory has a student, or a link to one."""
    return os.path.lexists(Path(run) / STUDENT)


def student_file(run: str | os.PathLike, refusal: type[StreamkdError] = StudentError) -> Path:
    """Returns the file of the student in a run directory.

    Raises:
      refusal: it is a link. What lies beside it speaks of another model than the one it leads to.
    """
    path = Path(run) / STUDENT
    if path.is_symlink():
        target = os.path.realpath(path)
        raise refusal(
            f"{path} is a link, and a run keeps its student in a file of its own.\n"
            f"  link:  {path}\n  model: {target}\n"
            f"Give the model itself, or copy it into the run: "
            f"`cp --remove-destination {target} {path}`."
        )
    return path


def modules_of(run: str | os.PathLike) -> list[str]:
    """Returns the modules that a run names; StudentError if its configuration is damaged."""
    return _entry(run)[0]


def is_vouched_for(run: str | os.PathLike) -> bool:
    """Returns whether this user's mark says that the modules are those of the run's training."""
    modules, mark = _entry(run)
    secret = _secret(may_create=False)
    return secret is not None and hmac.compare_digest(mark, _mark(modules, secret).encode())


def _entry(run: str | os.PathLike) -> tuple[list[str], bytes]:
    """Returns the modules that a run names, and the mark beside them."""
    path = Path(run) / CONFIG
    try:
        code = small_files.read_object(path).get("code")
    except FileNotFoundError:
        return [], b""
    except small_files.DamagedFileError as error:
        raise StudentError(
            f"{path} is damaged, so the modules of the run are not known: {error}.\n"
            f"Restore the file, or name the modules: `--import NAME`."
        ) from error
    if not isinstance(code, dict) or not isinstance(code.get("modules"), list):
        return [], b""
    modules = [name for name in code["modules"] if user_code.is_module_name(name)]
    return list(dict.fromkeys(modules)), str(code.get("mark")).encode(errors="replace")


def _mark(modules: list[str], secret: bytes) -> str:
    text = json.dumps([[name, user_code.place_of_module(name)] for name in modules])
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _secret(*, may_create: bool) -> bytes | None:
    """Returns the secret of this user; None where there is none, or no folder for it."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~", ".local", "state").expanduser()
    path = Path(state, "streamkd", "secret")
    try:
        return _read(path) or (_create(path) if may_create else None)
    except (OSError, RuntimeError, ValueError):
        return None


def _read(path: Path) -> bytes | None:
    """Returns the secret in a file that is this user's alone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        return None
    secret = small_files.read_bytes(path, max_bytes=_NUM_BYTES)
    return secret if len(secret) == _NUM_BYTES else None


def _create(path: Path) -> bytes | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    secret, temporary = os.urandom(_NUM_BYTES), path.with_name(f"secret.{os.getpid()}")
    try:
        with open_new(temporary, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secret)
        os.link(temporary, path)  # unless another process was faster
    except FileExistsError:
        return _read(path)
    finally:
        temporary.unlink(missing_ok=True)
    return secret
