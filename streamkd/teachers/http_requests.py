"""Sends requests to a server: retries, pauses, limits, and several at a time.

    sender = Sender("http://host:8501", headers={}, timeout=60, retries=8, pace=Pace(None))
    answer = sender.json("POST", "/v1/models/net:predict", body)
    answers = each_in_order(ask, parts, concurrency=4)

A lost connection, 429 and 5xx are tried again, later each time, or when the server says
(`Retry-After`). Redirects are not followed, and bodies have a largest size.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamkd.errors import MissingExtraError, TeacherError

# Bytes of the longest body that is read: 64 images of 20,000 classes are 30 MB as text.
MAX_BODY_BYTES = 256 << 20
# Longest words of a server that a message shows, in characters.
_MAX_WORDS = 300
# Seconds of the longest pause between two tries, also where the server asks for a longer one.
_MAX_PAUSE = 300.0
# First pause in seconds; each further one is twice as long.
_FIRST_PAUSE = 0.25
# Seconds between two looks at whether the pass was ended.
_LOOK = 0.2


class Pace:
    """Lets a number of images a second through, over all threads; None for any number."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, num_images: int, pause: Callable[[float], None] = time.sleep) -> None:
        """Returns when so many images may be sent; `pause` is given the seconds to wait."""
        if self._per_second is None:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + num_images / self._per_second
        if begin > now:
            pause(begin - now)


class Sender:
    """Sends requests to one server.

    Args:
      host: scheme, name and port, such as 'http://localhost:8501'.
      headers: sent with each request; their values appear in no message.
      timeout: seconds without an answer after which a request is lost.
      retries: how often a lost request is sent again.
      pace: of all requests that ask about images.
    """

    def __init__(
        self,
        host: str,
        *,
        headers: Mapping[str, str],
        timeout: float,
        retries: int,
        pace: Pace,
    ) -> None:
        try:
            import urllib3
        except ImportError as error:
            raise MissingExtraError(
                "A teacher behind an address needs the package urllib3, which is not installed.\n"
                "Install it: `pip install 'streamkd[http]'`."
            ) from error
        self._host, self._headers, self._pace = host, dict(headers), pace
        self._tries = 1 + retries
        self._pool = urllib3.PoolManager(
            maxsize=64, timeout=urllib3.Timeout(connect=min(timeout, 30.0), read=timeout)
        )
        self._retry = urllib3.Retry(
            total=retries,
            redirect=0,
            allowed_methods=None,
            status_forcelist=(429, *range(500, 600)),
            backoff_factor=_FIRST_PAUSE,
            backoff_max=_MAX_PAUSE,
            retry_after_max=int(_MAX_PAUSE),
            raise_on_status=True,
        )

    def json(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        num_images: int = 0,
        is_ended: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Returns the JSON value that the server answers with; None where it has no such page.

        Args:
          method: 'GET', for which a refusal is None, or 'POST'.
          path: of the address.
          body: JSON.
          num_images: asked about, for the pace.
          is_ended: whether nobody waits for the answer any more.

        Raises:
          TeacherError: the server refuses, or cannot be reached.
        """
        import urllib3

        retry = self._retry
        while True:
            self._pace.wait(num_images, lambda seconds: _pause(seconds, is_ended))
            try:
                status, words, answer = self._send(method, path, body)
            except urllib3.exceptions.HTTPError as error:
                retry = self._again(retry, method, path, is_ended, error=error)
                continue
            if retry.is_retry("POST", status, has_retry_after=False):
                retry = self._again(retry, method, path, is_ended, answer=answer, words=words)
                continue
            if status == 200:
                return self._parsed(words)
            if method == "GET" and 400 <= status < 500 and status not in (401, 403):
                return None
            raise self._refusal(status, words, answer)

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes, Any]:
        """Returns the status, the body and the response; the body is read to its end."""
        answer = self._pool.request(
            method,
            self._host + path,
            body=body,
            headers={
                **self._headers,
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            parts, size = [], 0
            while part := answer.read(1 << 20, decode_content=False):
                size += len(part)
                if size > MAX_BODY_BYTES:
                    answer.close()
                    raise self._too_large()
                parts.append(part)
        finally:
            answer.release_conn()
        return answer.status, self._unpacked(b"".join(parts), answer), answer

    def _unpacked(self, body: bytes, answer: Any) -> bytes:
        """Returns a body that the server packed by gzip, though it was asked not to."""
        if answer.headers.get("Content-Encoding", "").strip().lower() != "gzip":
            return body
        unpacking = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            unpacked = unpacking.decompress(body, MAX_BODY_BYTES)
        except zlib.error as error:
            raise TeacherError(
                f"The server {self._host} says that its answer is packed by gzip, and it is not.\n"
                "Look at the server, and at the proxies before it."
            ) from error
        if unpacking.unconsumed_tail:
            raise self._too_large()
        return unpacked

    def _too_large(self) -> TeacherError:
        return TeacherError(
            f"The server {self._host} answers with more than {MAX_BODY_BYTES >> 20} MB.\nIs this "
            "the address of a classifier? Give its address as `--teacher`."
        )

    def _again(
        self,
        retry: Any,
        method: str,
        path: str,
        is_ended: Callable[[], bool],
        *,
        error: Exception | None = None,
        answer: Any = None,
        words: bytes = b"",
    ) -> Any:
        """Waits before the next try, and returns the retries that are left.

        Raises:
          TeacherError: none is left.
        """
        import urllib3

        try:
            retry = retry.increment(method, path, response=answer, error=error)
        except (urllib3.exceptions.HTTPError, OSError) as last:
            if answer is not None:
                reason = f"it answers {answer.status}: {self._shown(words)}"
            else:
                reason = self._reason(error)
            raise TeacherError(
                f"The teacher at {self._host} cannot be asked: {reason}.\n"
                f"It was tried {self._tries} times. All earlier answers are kept: give "
                "the same command again when the server is back."
            ) from last
        asked = retry.get_retry_after(answer) if answer is not None else None
        _pause(min(asked or retry.get_backoff_time(), _MAX_PAUSE), is_ended)
        return retry

    def _reason(self, error: Exception | None) -> str:
        import urllib3

        if isinstance(error, urllib3.exceptions.NewConnectionError):
            return "nothing answers there"
        if isinstance(error, urllib3.exceptions.TimeoutError):
            return "it does not answer in time (`--timeout`)"
        if isinstance(error, urllib3.exceptions.SSLError):
            return f"its certificate does not fit ({self._shown(str(error).encode())})"
        return f"the connection is lost ({type(error).__name__})"

    def _refusal(self, status: int, words: bytes, answer: Any) -> TeacherError:
        """Returns the refusal of a request that would be refused again."""
        if 300 <= status < 400:
            target = self._shown(answer.headers.get("Location", "").encode()).partition("?")[0]
            return TeacherError(
                f"The server {self._host} sends the request on to {target or 'another address'}, "
                "and images are not sent there unasked.\nGive that address as `--teacher`."
            )
        hint = "Look at the address, the model's name and the size of the images."
        if status == 404:
            hint += " An address is http://HOST:8501/v1/models/NAME."
        if status == 413:
            hint = "Send fewer images in a request: a smaller `--batch-size`."
        if status in (401, 403):
            hint = "Give the server's key: `--header 'NAME: VALUE'`, or STREAMKD_HTTP_HEADER."
        return TeacherError(
            f"The server {self._host} refuses the request ({status}): {self._shown(words)}.\n{hint}"
        )

    def _shown(self, words: bytes) -> str:
        """Returns the words of a server on one line, without the values of secret headers."""
        text = words[: 1 << 16].decode("utf-8", "replace")
        try:
            value = json.loads(text)
            text = str(value["error"]) if isinstance(value, dict) and "error" in value else text
        except (ValueError, RecursionError):
            pass  # plain text, or a page
        for value in self._headers.values():
            for secret in (value, value.rpartition(" ")[2]):
                text = text.replace(secret, "***") if len(secret) > 3 else text
        text = " ".join(text.split()).rstrip(".")
        return text[:_MAX_WORDS] or "no words"

    def _parsed(self, words: bytes) -> Any:
        try:
            return json.loads(words)
        except (ValueError, RecursionError) as error:
            raise TeacherError(
                f"The server {self._host} answers with something else than JSON: "
                f"{self._shown(words)[:80]!r}.\nGive the address of TensorFlow Serving's REST "
                "interface, such as http://HOST:8501/v1/models/NAME."
            ) from error


class EndedError(Exception):
    """Nobody waits for the answer any more."""


def _pause(seconds: float, is_ended: Callable[[], bool]) -> None:
    """Waits, and raises `EndedError` once nobody waits for the answer."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if is_ended():
            raise EndedError
        time.sleep(min(left, _LOOK))


def each_in_order(
    ask: Callable[[Any, Callable[[], bool]], Any], parts: Sequence[Any], concurrency: int
) -> list[Any]:
    """Returns `ask(part, is_ended)` for each part, in order, `concurrency` of them at a time.

    The first exception is raised at once, and requests that are under way are not waited for: the
    threads are such as Python leaves behind when it ends.
    """
    tasks: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for task in enumerate(parts):
        tasks.put(task)
    answers: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                number, part = tasks.get_nowait()
            except queue.Empty:
                return
            try:
                answers.put((number, ask(part, ended.is_set), None))
            except BaseException as error:
                answers.put((number, None, error))

    for _ in range(min(concurrency, len(parts))):
        threading.Thread(target=work, name="streamkd-request", daemon=True).start()
    found: dict[int, Any] = {}
    try:
        while len(found) < len(parts):
            number, answer, error = answers.get()
            if error is not None:
                raise error
            found[number] = answer
    finally:
        ended.set()
    return [found[number] for number in range(len(parts))]
