"""`common_affix`: how the names of a folder differ from those of another, if all differ by one prefix and suffix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from kdse.errors import UserError

#: Words that say what a file is, not which one, as in ``noisy_p232_001`` and ``clean_p232_001``.
INPUT_WORDS = ("noisy", "noise", "mix", "mixture", "mixed", "input", "degraded", "original")
TARGET_WORDS = ("clean", "reference", "ref", "target", "speech")
#: Names whose possible affixes are tried: enough that some have a file, few enough for a set of 100,000 files.
TRIED = 20
_INPUT = re.compile(rf"^(?:{'|'.join(INPUT_WORDS)})[_. -]+|[_. -]+(?:{'|'.join(INPUT_WORDS)})$", re.IGNORECASE)


class Affix(NamedTuple):
    """What a name gets before and after it, once words of `INPUT_WORDS` at its ends are ``cut`` if that is set."""

    before: str = ""
    after: str = ""
    cut: bool = False

    def of(self, name: str) -> str:
        """The other name of a relative ``name`` without extension, in the folder of the same name."""
        folder, slash, last = name.rpartition("/")
        return f"{folder}{slash}{self.before}{_INPUT.sub('', last) if self.cut else last}{self.after}"

    def __str__(self) -> str:
        return f"{self.before}NAME{self.after}"

    @property
    def words(self) -> set[str]:
        """The words that it adds, in lower case."""
        return {*re.split("[_. -]+", f"{self.before}_{self.after}".lower())}

    @property
    def told(self) -> str:
        """How names are matched, for a message."""
        return f"files called {self} are matched to NAME" + (" without its word for noisy" if self.cut else "")


def common_affix(names: Sequence[str], files: Collection[str], where: str, other_words: Sequence[str]) -> Affix | None:
    """The affix that turns more than half of the names into names of ``files``; none if some are there as they are.

    An affix is set apart from the name by one of ``_-. ``, so that u1 is not taken for u10. Names are tried as they
    are, then without a word for noisy at their ends. Relative names without extension.

    Args:
        names: that files are wanted for.
        files: that there are.
        where: flag and folder, for the message.
        other_words: what the wanted files are surely not called, such as the noisy files beside the enhanced ones.

    Returns:
        None if there is no such affix.

    Raises:
        UserError: if several fit, naming them.
    """
    known = set(files)
    if any(name in known for name in names):
        return Affix()
    for cut in (False, True):
        tried = Counter(affix for name in names[:TRIED] for affix in _affixes(name, known, cut))
        likely = [affix for affix, _ in tried.most_common(TRIED)]
        fitting = [affix for affix in likely if sum(affix.of(name) in known for name in names) > len(names) / 2]
        found = [affix for affix in fitting if not affix.words & {*other_words}] or fitting
        if len(found) > 1:
            called = " and ".join(map(str, found))
            raise UserError(f"{where}: files called {called} fit the names; leave one kind there")
        if found:
            return found[0]
    return None


def _affixes(name: str, known: Collection[str], cut: bool) -> set[Affix]:
    """The affixes that make a name one of those known."""
    folder, _, last = Affix(cut=cut).of(name).rpartition("/")
    found = set()
    for other in known if last else ():
        other_folder, _, other_last = other.rpartition("/")
        before, here, after = other_last.partition(last)
        apart = (not before or before[-1] in "_-. ") and (not after or after[0] in "_-. ")
        if here and apart and other_folder == folder:
            found.add(Affix(before, after, cut))
    return found
