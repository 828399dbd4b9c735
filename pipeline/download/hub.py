"""The photos as the Hugging Face hub has them: which files there are, where, of which size and with which SHA-256.

    files = hub_files("microsoft/cats_vs_dogs", Path("downloads"))
    fetch([files[0].url], Path("downloads") / files[0].name, size=files[0].size, sha256=files[0].sha256)

The hub's address is taken from HF_ENDPOINT, as the hub's own library takes it, for those who reach it through a mirror.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pipeline.download.fetch import fetch
from pipeline.errors import PipelineError

HUB = "https://huggingface.co"
LISTING = "listing.json"


@dataclass(frozen=True)
class HubFile:
    """One Parquet file of a data set.

    Attributes:
        path: where it lies in the data set, such as data/train-00000-of-00002.parquet.
        url: its address, of the commit that was listed.
        size: in bytes, where the hub tells.
        sha256: where the hub tells, as it does of all large files.
    """

    path: str
    url: str
    size: int | None
    sha256: str | None

    @property
    def name(self) -> str:
        """The path's last part."""
        return self.path.rsplit("/", 1)[-1]


class _Large(BaseModel):
    sha256: str


class _File(BaseModel):
    rfilename: str
    size: int | None = None
    lfs: _Large | None = None


class _Listing(BaseModel):
    """What the hub's interface answers: https://huggingface.co/docs/hub/api."""

    sha: str
    siblings: list[_File]


def hub_files(dataset: str, folder: Path, *, otherwise: str = "") -> list[HubFile]:
    """The Parquet files of a data set on the hub, in the order of their paths.

    Args:
        dataset: owner/name.
        folder: where the hub's listing is kept while it is read; made.
        otherwise: what a person can do where the hub cannot be reached; ends the error's text.

    Raises:
        PipelineError: the hub cannot be reached, or has no such files.
    """
    hub, listing = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB, folder / LISTING
    listing.unlink(missing_ok=True)  # of another day
    fetch([f"{hub}/api/datasets/{dataset}?blobs=true"], listing, otherwise=otherwise)
    try:
        found = _Listing.model_validate_json(listing.read_bytes())
    except ValidationError as error:
        raise PipelineError(f"{hub} did not answer with a list of the files of {dataset}: is HF_ENDPOINT a hub?") from error
    finally:
        listing.unlink()
    paths = {file.rfilename: file for file in found.siblings if file.rfilename.endswith(".parquet")}
    if not paths:
        raise PipelineError(f"{hub} has no Parquet files of {dataset}.")
    return [
        HubFile(path, f"{hub}/datasets/{dataset}/resolve/{found.sha}/{path}", file.size, file.lfs.sha256 if file.lfs else None)
        for path, file in sorted(paths.items())
    ]
