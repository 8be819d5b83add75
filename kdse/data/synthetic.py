"""`SyntheticCorpus`: mixtures from the embedded corpus, which needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdse.data.mixtures import Mixtures
from kdse.data.synthesis.build import build, cache_folder
from kdse.data.synthesis.plan import Settings


class SyntheticCorpus(Mixtures):
    """Mixtures of synthesised speech and procedural noise, generated once into a cache; otherwise as `Mixtures`.

    The splits share no voice, sentence, kind of noise or room. The speech is espeak-ng's: scores on it show that the
    machinery works and say little about real recordings.

    Args:
        minutes: training speech; training noise is 0.6 times as long, valid and test a tenth each.
        corpus_seed: of the corpus itself. `seed` is that of the mixtures drawn from it.
        cache_dir: folder of the cache, of the decoded copy too; None means the environment variable KDSE_CACHE, else
            ~/.cache/kdse.
        build_workers: processes that generate the corpus; None means one a core, at most 8.
        mixtures: everything `Mixtures` takes besides root.
    """

    def __init__(
        self,
        minutes: float = 20.0,
        corpus_seed: int = 0,
        cache_dir: str | None = None,
        build_workers: int | None = None,
        **mixtures: Any,
    ) -> None:
        super().__init__(root=None, cache_dir=cache_dir, **mixtures)
        self.settings = Settings(minutes=minutes, seed=corpus_seed)
        self.build_workers = build_workers

    def prepare_data(self) -> None:
        """Generates the corpus if the cache does not hold it yet: once a machine, by the first process."""
        self.corpus_folder()

    def corpus_folder(self) -> Path:
        """The corpus in the cache, generated first where it is missing."""
        folder = cache_folder(self.settings, self.cache_dir)
        build(self.settings, folder, workers=self.build_workers)
        return folder
