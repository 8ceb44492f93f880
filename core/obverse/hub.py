"""Weights on the Hugging Face hub: `hf://OWNER/REPO/FILE@REVISION`.

A file is fetched when a codec is loaded, and lies in the hub's own cache from then on. Nothing here touches the network
but `fetch`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from obverse.errors import WeightsError
from obverse.shards import indexed, is_index

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "hf://"
_FORM = re.compile(r"hf://([\w.-]+/[\w.-]+)/([^@\s]*[^@\s/])(?:@([\w./-]+))?")


@dataclass(frozen=True)
class HubFile:
    """A file of a hub repository.

    Attributes:
        repository: `OWNER/REPO`.
        file: path in the repository; of weights in shards, their `….index.json`.
        revision: commit, tag or branch; None for whatever `main` is when the file is fetched.
    """

    repository: str
    file: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubFile:
        """A file from its address.

        Raises:
            WeightsError: the text is not of the form.
        """
        match = _FORM.fullmatch(text)
        if not match or ".." in match[2].split("/"):
            raise WeightsError(
                f"weights {text!r}: expected hf://OWNER/REPO/FILE@REVISION, as hf://me/mine/vq.pt@1a2b3c4"
            )
        return cls(match[1], match[2], match[3])

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}/{self.file}{f'@{self.revision}' if self.revision else ''}"

    @property
    def address(self) -> str:
        """Where a browser gets the file."""
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision or 'main'}/{self.file}"

    def local(self) -> Path:
        """Where the file lies on this machine.

        Raises:
            WeightsError: it was not fetched yet, or one of its shards was not.
        """
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repository, self.file, revision=self.revision)
        if not isinstance(path, str):
            raise WeightsError(
                f"weights {str(self)!r} are not on this machine: loading the codec fetches them, or get {self.address} "
                "and name the file with --weights"
            )
        for shard in self._shards(Path(path)):
            shard.local()
        return Path(path)

    def fetch(self) -> Path:
        """The file on this machine, downloaded where it is missing, with its shards.

        Raises:
            WeightsError: it cannot be downloaded.
        """
        try:
            return self.local()  # also right when the hub is out of reach
        except WeightsError:
            path = self._download()
        for shard in self._shards(path):
            shard.fetch()
        return path

    def _shards(self, path: Path) -> Iterator[HubFile]:
        if is_index(path):
            folder = self.file.rpartition("/")[0]
            for shard in indexed(path):
                yield HubFile(self.repository, f"{folder}/{shard.name}".lstrip("/"), self.revision)

    def _download(self) -> Path:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        named = f"weights {str(self)!r} cannot be fetched: "
        by_hand = f"get {self.address} elsewhere and name the file with --weights"
        try:
            return Path(hf_hub_download(self.repository, self.file, revision=self.revision))
        except GatedRepoError:
            raise WeightsError(
                f"{named}their authors ask for consent; give it at https://huggingface.co/{self.repository} and log in "
                "with `hf auth login`"
            ) from None
        except RevisionNotFoundError:
            raise WeightsError(f"{named}{self.repository!r} has no revision {self.revision!r}") from None
        except RepositoryNotFoundError:
            raise WeightsError(f"{named}no repository {self.repository!r}, or one that needs `hf auth login`") from None
        except (LocalEntryNotFoundError, OfflineModeIsEnabled):
            reason = "HF_HUB_OFFLINE forbids the network" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
            raise WeightsError(f"{named}{reason}; {by_hand}") from None
        except EntryNotFoundError:
            raise WeightsError(f"{named}{self.repository!r} has no file {self.file!r}") from None
        except Exception as error:  # whatever the client and the network may raise
            text = " ".join(str(error).split()) or type(error).__name__
            raise WeightsError(f"{named}{text[:200]}; {by_hand}") from error
