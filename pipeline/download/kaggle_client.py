"""The photos as Kaggle has them, through Kaggle's own client, which is installed as the extra `kaggle`.

The client is run as a program of its own: imported, it ends the process where it finds no credentials. It goes on with a
partial file by itself.
"""

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.progress import progress

SECONDS_BETWEEN_LOOKS = 0.5


def download_from_kaggle(competition: str, file: str, folder: Path) -> Path:
    """Download a zip of a competition into `folder`, which is made and holds nothing else, and give its path.

    Raises:
        PipelineError: the client is not installed, or does not get the file.
    """
    if importlib.util.find_spec("kaggle") is None:
        raise PipelineError(
            "Kaggle's photos come through Kaggle's own client, which is not installed: run uv sync --extra kaggle "
            "(or pip install kaggle)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--competition", competition, "--file", file, "--path", str(folder)]
    command = [sys.executable, "-m", "kaggle", "competitions", "download", *options]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT) as client:
            _show(client, folder, file)
        said.seek(0)
        words = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    arrived = list(folder.glob("*.zip"))  # the client names it as the address that Kaggle sent it to does
    if client.returncode or len(arrived) != 1:
        raise PipelineError(_reason(competition, file, words))
    return arrived[0]


def _show(client: subprocess.Popen[bytes], folder: Path, file: str) -> None:
    """Tell how much has arrived until the client is done."""
    arrived = 0
    with progress(f"downloading {file} with Kaggle's client", total=None, unit="bytes") as advance:
        while client.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(SECONDS_BETWEEN_LOOKS)
            now = sum(path.stat().st_size for path in folder.glob("*.zip"))
            advance(now - arrived)
            arrived = now


def _reason(competition: str, file: str, words: list[str]) -> str:
    if any(line.startswith("Authentication required") for line in words):
        return (
            f"Kaggle gives {file} to its users alone, and its client found no credentials. Make a token at "
            "https://www.kaggle.com/settings/api and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN."
        )
    last = words[-1] if words else "it said nothing"
    return (
        f"Kaggle's client could not download {file}: {last}\nThe rules of the competition have to be accepted once, at "
        f"https://www.kaggle.com/c/{competition}/rules; after a broken connection, run the same command again."
    )
