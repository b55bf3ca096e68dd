"""Code of the user's own: modules that a command imports, functions that build models.

    import_module("my_layers", "--import my_layers")
    build, arguments = function_of("my_models:small:width=32", "--student", StudentError)
    model = call(build, {"num_classes": 10, **arguments}, "--student my_models:small", StudentError)

Only what somebody named is imported. A layer that such a module defines may then stand in a model
file without `--trust`: its code has run already.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any

from streamkd.checks import did_you_mean
from streamkd.errors import OptionError, StreamkdError, TeacherError
from streamkd.models.reasons import last_lines

# `package.module:function`, and what follows a second colon.
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?::(.*))?", re.DOTALL)
# Characters of the longest name of a module that a file may give.
_MAX_NAME = 80
# Packages that Keras 3 imports where it is told to compute with them.
_BACKENDS = ("jax", "torch", "openvino")
# Packages whose layers are on a list of their own, whoever imports them.
_NOT_OWN = ("keras", "tf_keras", "tensorflow")
# Names of modules that were imported here because somebody named them.
_imported: set[str] = set()


def import_module(
    name: str, flag: str = "--import", refusal: type[StreamkdError] = OptionError
) -> Any:
    """Returns a module, imported as `python -m` would find it from the working directory.

    Raises:
      refusal: there is no such module, or its code raises an error.
    """
    _look_in_working_directory()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's code raises errors of every class
        if isinstance(error, ImportError) and error.name in _BACKENDS:
            from streamkd.models.keras3_family import Keras3

            Keras3().check_backend()  # says what to set
        raise refusal(
            f"The module {name!r} of {flag} cannot be imported: {last_lines(error)}.\n"
            f"Give the module as Python would import it from here{_name_of_file(name)}."
        ) from error
    _imported.add(name)
    return module


def _name_of_file(name: str) -> str:
    """Returns the name of a module that was given as its file, as the end of a sentence."""
    stem, ending = os.path.splitext(name)
    if ending != ".py":
        return ""
    folder, module = os.path.split(stem)
    place = f", from the directory {folder}" if folder else ""
    return f", by its name without .py: `{module}`{place}"


def _look_in_working_directory() -> None:
    """Lets Python find modules there, as under `python -m`."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def is_module_name(name: Any) -> bool:
    """Returns whether something is a module's name in full, short enough for a message."""
    parts = name.split(".") if isinstance(name, str) and len(name) <= _MAX_NAME else [""]
    return all(part.isidentifier() for part in parts)


def may_be_own(name: Any) -> bool:
    """Returns whether something is the name of a module that is not Keras' and not Python's."""
    if not is_module_name(name):
        return False
    package = name.partition(".")[0]
    return package not in (*_NOT_OWN, *sys.stdlib_module_names, "__main__", "__mp_main__")


def place_of_module(name: str) -> str | None:
    """Returns the file that importing a module, or the package that holds it, would run first.

    Nothing is imported. None if there is no such module.
    """
    try:
        here = [] if os.getcwd() in sys.path else [os.getcwd()]
        found = PathFinder.find_spec(name.partition(".")[0], [*here, *sys.path])
    except (ImportError, OSError, ValueError):
        return None
    if found is None:
        return None
    places = [found.origin] if found.origin else list(found.submodule_search_locations or [])
    return os.path.realpath(places[0]) if places else None


def is_function(text: str) -> bool:
    """Returns whether a text is `module:function`, not a file's name or an application's."""
    match = _FUNCTION.fullmatch(text)
    return match is not None and not os.path.exists(text)


def module_of(text: str) -> str:
    """Returns the module in `module:function`."""
    return text.partition(":")[0]


def function_of(
    text: str, flag: str, refusal: type[StreamkdError]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Returns the function that `module:function[:name=value,…]` names, and the arguments.

    Raises:
      refusal: there is no such module or function, or the arguments cannot be read.
    """
    match = _FUNCTION.fullmatch(text)
    assert match is not None  # `is_function` was asked
    module_name, name, rest = match.groups()
    module = import_module(module_name, f"{flag} {module_name}:{name}", refusal)
    function = getattr(module, name, None)
    if not callable(function):
        kind = type(function).__name__
        article = "an" if kind[0] in "aeiou" else "a"
        instead = "" if function is None else f"; that is {article} {kind}"
        raise refusal(
            f"The module {module_name!r} has no function {name!r}{instead}.\n"
            f"{did_you_mean(name, _functions_of(module))}Give {flag} package.module:function."
        )
    return function, arguments_of(rest or "", f"{flag} {text}", refusal)


def _functions_of(module: Any) -> list[str]:
    """Returns the names of a module's functions, without private ones."""
    return [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]


def arguments_of(text: str, flag: str, refusal: type[StreamkdError]) -> dict[str, Any]:
    """Returns the arguments in 'alpha=0.75,minimalistic=True'."""
    arguments = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        try:
            if not equals:
                raise ValueError(part)
            arguments[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise refusal(
                f"The argument {part!r} of {flag} cannot be read.\n"
                "Write NAME:argument=value,argument=value, with strings in quotes."
            ) from error
    return arguments


def call(
    function: Callable[..., Any],
    arguments: dict[str, Any],
    flag: str,
    refusal: type[StreamkdError],
) -> Any:
    """Returns the answer of a function of the user's own.

    Raises:
      refusal: the function raises an error; its last lines are shown.
    """
    try:
        return function(**arguments)
    except StreamkdError:
        raise
    except (Exception, SystemExit) as error:  # the user's code raises errors of every class
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        remedy = "Mend the function, or give other arguments."
        own = getattr(function, "__name__", "")
        if str(error).startswith(f"{own}() got an unexpected keyword argument"):
            remedy = f"Write it as `def {own}({', '.join(arguments)})`, or give other arguments."
        raise refusal(
            f"{flag} cannot be built: {last_lines(error)}\n  called with {shown or 'nothing'}\n"
            f"{remedy}"
        ) from error


def build_teacher(text: str) -> Any:
    """Returns the teacher that `module:function[:name=value,…]` names: a model or a callable.

    It is what the function returns, or the function itself if it cannot be called without images.

    Raises:
      TeacherError: there is no such function, it fails, or it returns none of these.
    """
    function, arguments = function_of(text, "--teacher", TeacherError)
    lacking = _lacking_arguments(function, arguments)
    if {"num_classes", "image_shape"} <= set(lacking):
        raise TeacherError(
            f"The teacher {text!r} is a function that builds a student: it takes num_classes and "
            f"image_shape.\nGive it as `--student {text}`, and the teacher's own file or function "
            "as `--teacher`."
        )
    if _takes_images(function, arguments, lacking):
        return functools.partial(function, **arguments)
    teacher = call(function, arguments, f"The teacher {text!r}", TeacherError)
    if not callable(teacher):
        raise TeacherError(
            f"The teacher {text!r} returned {type(teacher).__name__}.\n"
            "The function must return a Keras model, a `Teacher`, or a callable: images -> logits; "
            "or it takes images itself, `def teacher(images)`."
        )
    return teacher


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a function of C
        return []


def _lacking_arguments(function: Callable[..., Any], arguments: dict[str, Any]) -> list[str]:
    """Returns the names of the arguments that a function needs besides those that are given."""
    return [
        parameter.name
        for parameter in _parameters(function)
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in arguments
    ]


def _takes_images(
    function: Callable[..., Any], arguments: dict[str, Any], lacking: list[str]
) -> bool:
    """Returns whether a function lacks one argument, its first, besides those that are given."""
    parameters = _parameters(function)
    if len(lacking) != 1 or lacking[0] != parameters[0].name:
        return False
    is_by_place = parameters[0].kind != parameters[0].KEYWORD_ONLY
    return is_by_place and set(arguments) <= {parameter.name for parameter in parameters}


def is_own_layer(module: str, name: str) -> bool:
    """Returns whether a module that somebody named defines a Keras layer of this name."""
    return is_named(module) and _is_layer(module, getattr(sys.modules.get(module), name, None))


def own_layers() -> dict[str, type]:
    """Returns the Keras layers that modules define which somebody named, by the layer's name.

    Keras finds a layer that is not registered only among these. A name that two modules define
    tells neither of the layers, and is left out.
    """
    found: dict[str, list[type]] = {}
    for module in filter(is_named, list(sys.modules)):
        for kind in list(vars(sys.modules[module]).values()):
            if _is_layer(module, kind) and kind not in found.setdefault(kind.__name__, []):
                found[kind.__name__].append(kind)
    return {name: kinds[0] for name, kinds in found.items() if len(kinds) == 1}


def are_imported(modules: list[str]) -> bool:
    """Returns whether somebody named all these modules, and they were imported."""
    return all(name in _imported and name in sys.modules for name in modules)


def is_named(module: str) -> bool:
    """Returns whether somebody named a module or a package that holds it, and it is not Keras."""
    parts = module.split(".")
    if parts[0] in _NOT_OWN:
        return False
    return any(".".join(parts[:count]) in _imported for count in range(1, len(parts) + 1))


def _is_layer(module: str, kind: Any) -> bool:
    if not isinstance(kind, type) or kind.__module__ != module:
        return False
    bases = {(base.__name__, base.__module__.partition(".")[0]) for base in kind.__mro__}
    return bool(bases & {("Layer", "keras"), ("Layer", "tf_keras")})
