"""The classes of a combination: those of all teachers, joined by name.

    classes = unite(members)
    classes.names                   # in the order in which the stores name them first
    classes.columns[1]              # int64 [outputs of the second teacher], -1 for its dustbin

Teachers with the same list of classes are joined by number, whatever the names are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from streamkd.ensemble.member import Member
from streamkd.errors import ClassNamesError, readable_names
from streamkd.manifest import look_alikes

DUSTBIN = -1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class UnionOfClasses:
    """The classes of a combination, and the class of each output of each teacher.

    Attributes:
      names: of all classes, in order; empty where no store has class names.
      num_classes: number of outputs of the combination; 1 for a single sigmoid of two names.
      columns: int64 `[outputs]` for each teacher, the class of each output; `DUSTBIN` for its
        dustbin.
    """

    names: list[str]
    num_classes: int
    columns: list[np.ndarray]

    @property
    def are_alike(self) -> bool:
        """Whether every teacher knows every class, and none has a dustbin."""
        everything = np.arange(self.num_classes)
        return all(np.array_equal(np.sort(columns), everything) for columns in self.columns)


def unite(members: Sequence[Member]) -> UnionOfClasses:
    """Returns the classes of a combination.

    Raises:
      ClassNamesError: names that clash, or that some of the stores lack; a dustbin that is no class
        of its store, or is a class of another.
    """
    first = members[0].opened
    counts = [member.opened.num_classes for member in members]
    lists = [member.opened.class_names for member in members]
    has_dustbin = any(member.dustbin is not None for member in members)
    if not has_dustbin and all(names == lists[0] for names in lists) and len(set(counts)) == 1:
        everything = np.arange(first.num_classes)
        columns = [everything] * len(members)
        return UnionOfClasses(names=lists[0], num_classes=first.num_classes, columns=columns)
    _check_named(members)
    for member in members:
        _check_once(member)
        _check_dustbin(member, members)
    _check_look_alikes(members)
    spoken = [[n for n in names if n != m.dustbin] for names, m in zip(lists, members, strict=True)]
    union = list(dict.fromkeys(itertools.chain.from_iterable(spoken)))
    number_of = {name: number for number, name in enumerate(union)}
    columns = [
        np.array([number_of[n] if n != m.dustbin else DUSTBIN for n in names], np.int64)
        for names, m in zip(lists, members, strict=True)
    ]
    return UnionOfClasses(names=union, num_classes=len(union), columns=columns)


def _check_named(members: Sequence[Member]) -> None:
    """Refuses stores whose classes cannot be told by name."""
    nameless = next((m for m in members if not m.opened.class_names), None)
    if nameless is not None:
        other = next((m for m in members if m.opened.class_names), None)
        if other is None:
            other = next(m for m in members if m.opened.num_classes != nameless.opened.num_classes)
        raise ClassNamesError(
            "Teachers of different classes are joined by the names of the classes, and a store has "
            f"no names.\n  without names: {nameless.opened.path} "
            f"({nameless.opened.num_classes:,} classes)\n  beside:        {other.opened.path} "
            f"({_classes_of(other)})\nWrite the store again with the names of its outputs: "
            "`--class-names FILE` of `streamkd teach` and `streamkd import`."
        )
    for member in members:
        names, count = member.opened.class_names, member.opened.num_classes
        if len(names) != count:
            raise ClassNamesError(
                f"The store {member.opened.path} has {count:,} outputs and {len(names):,} class "
                "names, so that its outputs cannot be joined by name.\nCombine it with stores of "
                "the same classes."
            )


def _classes_of(member: Member) -> str:
    names = member.opened.class_names
    return readable_names(names) if names else f"{member.opened.num_classes:,} classes, no names"


def _check_once(member: Member) -> None:
    """Refuses a name that two classes of one store have in common."""
    names = sorted(member.opened.class_names)
    twice = next((name for name, other in itertools.pairwise(names) if name == other), None)
    if twice is not None:
        raise ClassNamesError(
            f"The store {member.opened.path} has two classes of the name "
            f"{look_alikes.shown(twice)}, so that its outputs cannot be joined by name.\nTeach it "
            "with a name for each class: `streamkd teach … --class-names FILE`."
        )


def _check_dustbin(member: Member, members: Sequence[Member]) -> None:
    """Refuses a dustbin that is no class of its store, or that another teacher speaks of."""
    name, names = member.dustbin, member.opened.class_names
    if name is None:
        return
    if name not in names:
        raise ClassNamesError(
            f"The dustbin of {member.opened.path} is no class of this store.\n"
            f"  dustbin: {look_alikes.shown(name)}\n  store:   {readable_names(names)}\n"
            f"{look_alikes.difference(name, names)}"
            "Name the class that stands for none of the others."
        )
    if len(names) < 2:
        raise ClassNamesError(
            f"The store {member.opened.path} has no class besides its dustbin, "
            f"{look_alikes.shown(name)}.\nLeave the store out."
        )
    for other in members:
        if other.dustbin != name and name in other.opened.class_names:
            raise ClassNamesError(
                f"{look_alikes.shown(name)} is the dustbin of {member.opened.path} and a class of "
                f"{other.opened.path}.\nIf it is the dustbin of both, say so for both; else teach "
                "one of them with another name: `streamkd teach … --class-names FILE`."
            )


def _check_look_alikes(members: Sequence[Member]) -> None:
    """Refuses two spellings that look the same, one of them in each of two stores."""
    union = list(dict.fromkeys(n for member in members for n in member.opened.class_names))
    if not look_alikes.pairs(union):
        return  # the common case, in one look at each name
    for member, other in itertools.combinations(members, 2):
        own, known = member.opened.class_names, set(member.opened.class_names)
        # Two spellings in one store are two classes of its teacher.
        theirs = set(other.opened.class_names)
        candidates = [name for name in own if name not in theirs]
        for name in other.opened.class_names:
            line = "" if name in known else look_alikes.difference(name, candidates)
            if line:
                raise ClassNamesError(
                    "Two stores spell a class in two ways, so that it would be two classes.\n"
                    f"  {member.opened.path}: {readable_names(own)}\n"
                    f"  {other.opened.path}: {readable_names(other.opened.class_names)}\n{line}"
                    "Teach one of them with the other's spelling: `--class-names FILE`."
                )
