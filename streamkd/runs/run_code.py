"""The modules of the user's own that a run needs, and whether this user wrote that down.

    config |= describe_code(["my_models"])      # {"code": {"modules": [...], "mark": "…"}}
    import_code_of("runs/first", trust=False)   # imports them if this user's mark is right

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
from streamkd.errors import StudentError
from streamkd.models.user_code import import_module, is_module_name, place_of_module
from streamkd.runs.run_directory import config_of_model

# Bytes of the secret.
_NUM_BYTES = 32


def describe_code(modules: list[str]) -> dict[str, Any]:
    """Returns the entry of config.json that names a run's modules; empty for none."""
    if not modules:
        return {}
    secret = _secret(may_create=True)
    mark = None if secret is None else _mark(modules, secret)
    return {"code": {"modules": modules, "mark": mark}}


def import_code_of(run: str | os.PathLike, *, trust: bool) -> list[str]:
    """Imports the modules that a run names; returns those that nobody vouches for.

    Raises:
      StudentError: a module cannot be imported, or the run's configuration is damaged.
    """
    code = config_of_model(run).get("code")
    if not isinstance(code, dict) or not isinstance(code.get("modules"), list):
        return []
    modules = [name for name in code["modules"] if is_module_name(name)]
    secret = _secret(may_create=False)
    mark = str(code.get("mark")).encode()
    is_own = secret is not None and hmac.compare_digest(mark, _mark(modules, secret).encode())
    if not (trust or is_own):
        return modules
    for name in modules:
        import_module(name, "the run", StudentError)
    return []


def _mark(modules: list[str], secret: bytes) -> str:
    text = json.dumps([[name, place_of_module(name)] for name in modules])
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
