"""A teacher behind an address that speaks TensorFlow Serving's REST interface.

    teacher = http_teacher("http://host:8501/v1/models/net", concurrency=8, max_queries=10_000)

The images of a batch are sent in as many requests as are made at once, as rows of numbers
(`{"instances": …}`). The server's answer has a row for each image (`{"predictions": …}` or
`{"outputs": …}`), or of each image a dict of named outputs. Where the server describes its model,
images are sent in the type that it takes, and its version becomes a part of the teacher's identity.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from streamkd.checks import check_count, check_positive
from streamkd.errors import OptionError, TeacherError
from streamkd.teachers.http_requests import Pace, Sender, each_in_order
from streamkd.teachers.query_budget import QueryBudget
from streamkd.teachers.served_model import ServedModel, served_model
from streamkd.teachers.teacher import Teacher

# Headers of every request, one a line, as 'NAME: VALUE'.
HEADER_VARIABLE = "STREAMKD_HTTP_HEADER"
# How often a lost request is sent again: with growing pauses this takes about a minute.
RETRIES = 8
CONCURRENCY = 4
TIMEOUT = 60.0
_MODEL = re.compile(r"/v1/models/[^/:]+(/versions/\d+|/labels/[^/:]+)?")
# Arguments of `http_teacher` that other teachers do not have.
SERVICE = (
    *("max_queries", "queries_per_second", "concurrency", "timeout"),
    *("headers", "retries"),
)
_INTEGERS = {
    "DT_UINT8": (0, 255),
    "DT_UINT16": (0, 65535),
    **dict.fromkeys(("DT_INT16", "DT_INT32", "DT_INT64"), (-32768, 32767)),
}
_FLOATS = ("DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_BFLOAT16")


def is_address(source: Any) -> bool:
    """Returns whether a teacher is given by an address, of whatever kind."""
    return isinstance(source, str) and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source) is not None


def http_teacher(
    address: str,
    *,
    name: str | None = None,
    output: str = "auto",
    model_output: str | int | None = None,
    preprocess: str = "none",
    max_queries: int | None = None,
    queries_per_second: float | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    headers: Mapping[str, str] | None = None,
    retries: int = RETRIES,
    **options: Any,
) -> Teacher:
    """Returns a teacher that asks a server.

    Args:
      address: http or https, of a model (`…/v1/models/NAME`) or of its prediction.
      name: in the store; by default the address without its query.
      output, preprocess, options: as in `load_teacher`.
      model_output: name of the output to take, or its number among the sorted names.
      max_queries: largest number of images that are asked about; then `QueryBudgetError`.
      queries_per_second: largest number of images that are sent a second.
      concurrency: number of requests under way at a time; by default 4.
      timeout: seconds without an answer after which a request is lost; by default 60.
      headers: sent with each request, beside those of the environment (`HEADER_VARIABLE`).
      retries: how often a lost or refused request is sent again.

    Raises:
      OptionError: an address or a number that cannot be.
      TeacherError: the server does not know the model, or the model does not take pixels.
      MissingExtraError: urllib3 is not installed.
    """
    concurrency = CONCURRENCY if concurrency is None else concurrency
    timeout = TIMEOUT if timeout is None else timeout
    check_count("--concurrency", concurrency)
    check_positive("--timeout", timeout)
    if queries_per_second is not None:
        check_positive("--queries-per-second", queries_per_second)
    host, path, query = _parts(address)
    budget = QueryBudget(max_queries)
    sender = Sender(
        host,
        headers={**_headers_of_environment(), **(headers or {})},
        timeout=timeout,
        retries=retries,
        pace=Pace(queries_per_second),
    )
    model = _MODEL.fullmatch(path.removesuffix(":predict"))
    served = ServedModel() if model is None else served_model(sender, model.group())
    _check_input(host, served, preprocess)
    predict = path if model is None else f"{model.group()}:predict"
    client = _Client(
        sender, predict + query, served, budget, concurrency, model_output, queries_per_second
    )
    teacher = Teacher(
        client,
        name=name or host + path.removesuffix(":predict"),
        output=output,
        preprocess=preprocess,
        image_size=served.image_size,
        num_channels=served.num_channels,
        weights_digest=None if served.version is None else f"version {served.version}",
        **options,
    )
    teacher.is_asked_twice = False
    return teacher


def refuse_service(service: Mapping[str, Any]) -> None:
    """Refuses keywords of a teacher behind an address, given for another teacher."""
    given = [name for name, value in service.items() if value is not None]
    unknown = [name for name in given if name not in SERVICE]
    if unknown:
        raise TypeError(f"load_teacher() has no argument {unknown[0]!r}")
    if given:
        flag = given[0].replace("_", "-").removesuffix("s" if given[0] == "headers" else "")
        raise OptionError(
            f"--{flag} is for a teacher behind an address, and this one has none.\n"
            "Leave it out, or give an address: `--teacher http://HOST:8501/v1/models/NAME`."
        )


class _Client:
    """Asks a server about batches of images."""

    def __init__(
        self,
        sender: Sender,
        path: str,
        served: ServedModel,
        budget: QueryBudget,
        concurrency: int,
        output: str | int | None,
        queries_per_second: float | None,
    ) -> None:
        self._sender, self._path, self._served, self._budget = sender, path, served, budget
        self._concurrency, self._output = concurrency, output
        # A request of more images than may be sent a second would be one burst.
        self._most = 1 << 30 if queries_per_second is None else max(1, int(queries_per_second))

    def __call__(self, images: Any) -> np.ndarray:
        """Returns answers `[batch, …]` to float32 `[batch, height, width, channels]`."""
        pixels = self._as_input(np.asarray(images))
        self._budget.spend(len(pixels))
        size = min(-(-len(pixels) // self._concurrency), self._most)
        parts = [pixels[first : first + size] for first in range(0, len(pixels), size)]
        answers = each_in_order(self._ask, parts, self._concurrency)
        if len({answer.shape[1:] for answer in answers}) > 1:
            shapes = ", ".join(str(list(answer.shape)) for answer in answers[:4])
            raise TeacherError(
                f"The teacher's server answers with rows of different lengths: {shapes}.\n"
                "Give a teacher with one number for each class."
            )
        return np.concatenate(answers)

    def _as_input(self, pixels: np.ndarray) -> np.ndarray:
        limits = _INTEGERS.get(self._served.dtype or "")
        if limits is None:
            return pixels
        return np.clip(np.rint(pixels), *limits).astype(np.int64)

    def _ask(self, pixels: np.ndarray, is_ended: Callable[[], bool]) -> np.ndarray:
        request = {"instances": pixels.tolist()}
        if self._served.signature is not None:
            request["signature_name"] = self._served.signature
        body = json.dumps(request, separators=(",", ":")).encode()
        answer = self._sender.json(
            "POST", self._path, body, num_images=len(pixels), is_ended=is_ended
        )
        return rows_of(answer, len(pixels), self._output)


def rows_of(answer: Any, num_images: int, output: str | int | None = None) -> np.ndarray:
    """Returns the numbers in a server's answer, float64 `[num_images, …]` or whole numbers.

    Args:
      answer: the JSON value.
      num_images: that were asked about.
      output: name of the output to take, or its number among the sorted names; None for the only.

    Raises:
      TeacherError: there is no such output, or not one row of finite numbers for each image.
    """
    fields = answer if isinstance(answer, dict) else {}
    rows = fields.get("predictions", fields.get("outputs"))
    if rows is None:
        words = str(fields.get("error", answer))[:200]
        raise TeacherError(
            f"The teacher's server answers without 'predictions' or 'outputs': {words}.\n"
            "Give the address of TensorFlow Serving's REST interface."
        )
    if isinstance(rows, dict):
        rows = rows[_chosen(sorted(rows), output)]
    elif isinstance(rows, list) and rows and isinstance(rows[0], dict):
        chosen = _chosen(sorted(rows[0]), output)
        rows = [row.get(chosen) if isinstance(row, dict) else None for row in rows]
    elif output not in (None, 0, "0"):
        raise TeacherError(
            f"--output is {output}, and the teacher's server answers with one output that has no "
            "name.\nLeave --output out."
        )
    if not isinstance(rows, list) or len(rows) != num_images:
        number = len(rows) if isinstance(rows, list) else "no"
        raise TeacherError(
            f"The teacher's server was asked about {num_images} images and answers with {number} "
            "rows.\nGive a server that answers each image with one row of numbers."
        )
    return _numbers(rows)


def _numbers(rows: list[Any]) -> np.ndarray:
    """Returns rows of JSON as an array; names the first row that is not like the first."""
    try:
        array = np.array(rows)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "iuf":
        shapes = [np.shape(row) if _is_regular(row) else None for row in rows]
        odd = next((number for number, shape in enumerate(shapes) if shape != shapes[0]), 0)
        if isinstance(rows[0], str):
            raise TeacherError(
                f"The teacher's server answers with texts: {rows[0][:60]!r}.\nGive a function that "
                "asks it and returns numbers, `--teacher module:function`; for the name of a class "
                "its number, with `--teacher-output class`."
            )
        raise TeacherError(
            f"Row {odd} of the server's answer is {str(rows[odd])[:60]}, and no row of numbers as "
            "long as the first.\nGive a teacher that answers each image with one number a class."
        )
    if not np.isfinite(array).all():
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        raise TeacherError(
            f"Row {int(np.argmin(finite))} of the server's answer has a number that is not "
            "finite.\nLook at the teacher, or at its image."
        )
    return array


def _is_regular(row: Any) -> bool:
    try:
        return np.array(row).dtype.kind in "iuf"
    except ValueError:
        return False


def _chosen(names: list[str], output: str | int | None) -> str:
    """Returns the name of the output that the user chose, or of the only one."""
    if output is None and len(names) == 1:
        return names[0]
    if output is not None and str(output) in names:
        return str(output)
    if output is not None and str(output).isdecimal() and int(output) < len(names):
        return names[int(output)]
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(names[:10]))
    asked = "" if output is None else f", and --output is {output}"
    raise TeacherError(
        f"The teacher's server answers with {len(names)} outputs{asked}: {listed}.\n"
        "Choose one by its name or number: `--output NAME`."
    )


def _parts(address: str) -> tuple[str, str, str]:
    """Returns scheme and host, the path, and the query with its mark, of an address."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise OptionError(
            f"The address of the teacher cannot be read: {error}.\n"
            "Write it as http://HOST:8501/v1/models/NAME."
        ) from error
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise OptionError(
            f"The address of the teacher begins with {parts.scheme}://, and a teacher is asked by "
            "http or https.\nWrite it as http://HOST:8501/v1/models/NAME."
        )
    if parts.username is not None or parts.password is not None:
        raise OptionError(
            "The address of the teacher holds a user name, and the store would keep it.\n"
            f"Give it as a header: `--header 'Authorization: …'`, or in {HEADER_VARIABLE}."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    query = f"?{parts.query}" if parts.query else ""
    return (
        f"{parts.scheme.lower()}://{host}{'' if port is None else f':{port}'}",
        parts.path.rstrip("/") or "/",
        query,
    )


def parse_headers(lines: list[str], source: str) -> dict[str, str]:
    """Returns headers by name, of lines 'NAME: VALUE'; `source` names where they come from.

    Raises:
      OptionError: a line that is no header. The message does not show it.
    """
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name.strip()):
            raise OptionError(
                f"A line of {source} is no header.\nWrite it as 'NAME: VALUE', such as "
                "'Authorization: Bearer …'."
            )
        headers[name.strip()] = value.strip()
    return headers


def _headers_of_environment() -> dict[str, str]:
    lines = os.environ.get(HEADER_VARIABLE, "").splitlines()
    return parse_headers([line for line in lines if line.strip()], HEADER_VARIABLE)


def _check_input(host: str, served: ServedModel, preprocess: str) -> None:
    """Refuses a served model that does not take pixels, or no preprocessed ones."""
    if served.dtype is None or served.dtype in _FLOATS:
        return
    if served.dtype not in _INTEGERS:
        raise TeacherError(
            f"The model at {host} takes {served.dtype}, and streamkd sends the numbers of pixels.\n"
            "Give a model, or a signature of it, that takes images as numbers."
        )
    if preprocess != "none":
        raise TeacherError(
            f"--preprocess is {preprocess}, and the model at {host} takes whole numbers "
            f"({served.dtype}).\nLeave --preprocess out: it is given pixels from 0 to 255."
        )
