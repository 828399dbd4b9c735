"""Stage 1, download: the photos as published, in data/raw/PetImages/<Class>/<name>.

Run it with `dvc repro download`, or bare with `python -m pipeline download`. Settings: `download` in params.yaml.
Where the source has predefined splits, data/raw/splits.csv lists them. data/archives.sha256 records the SHA-256 of every
download once it is unpacked; later downloads must have it.
"""

import shutil
import time
from collections import Counter
from pathlib import Path

from pipeline.cores import worker_count
from pipeline.download.drawn_photo import draw_petimages
from pipeline.download.extract import Useless
from pipeline.download.sources import Source, download, is_download, local, record_downloads
from pipeline.download.unpack import refuse_others, unpack_photos
from pipeline.errors import PipelineError
from pipeline.files import replace_folder, write_csv, write_json
from pipeline.params import Download, Params
from pipeline.paths import ARCHIVES, DOWNLOADS, METRICS, PLOTS, RAW, SECONDS, project_root, user_path


def run(params: Params) -> None:
    """Make data/raw, whole or not at all."""
    started = time.monotonic()
    settings, record, sha256 = params.download, project_root() / ARCHIVES, None
    if settings.source == "drawn":
        _draw(settings, max(worker_count(params.runtime.workers), 1))
    else:
        if is_download(settings.source):
            source = download(settings.source, DOWNLOADS, record, settings.sha256)
        else:
            source = local(user_path(settings.source), settings.sha256)
        _unpack(source, record)
        sha256 = source.sha256
    files = [path for path in RAW.glob("PetImages/*/*") if path.is_file()]
    classes = Counter(path.parent.name for path in files)
    write_csv(PLOTS / "downloaded.csv", [{"class": name, "files": count} for name, count in sorted(classes.items())])
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    write_json(METRICS / "download.json", {"files": len(files), "megabytes": megabytes, "archive_sha256": sha256})
    write_json(SECONDS / "download.json", {"seconds": time.monotonic() - started})


def _unpack(source: Source, record: Path) -> None:
    """Make data/raw of a source. What was downloaded goes, also where it is of no use: the next run then asks for it again."""
    try:
        unpack_photos(source.path, RAW)
        record_downloads(record, source.downloads)
    except Useless:
        if source.temporary and not source.proven:
            shutil.rmtree(source.temporary)
        raise
    except PipelineError as error:
        if not source.temporary:
            raise
        kept = f"The download is kept in {source.temporary}: remove that folder to have it fetched anew."
        raise PipelineError(f"{error}\n{kept}") from error
    if source.temporary:
        shutil.rmtree(source.temporary)


def _draw(settings: Download, workers: int) -> None:
    if settings.sha256 is not None:
        raise PipelineError("download.sha256 is set, but drawn photos come from no archive. Set it to null.")
    refuse_others(RAW)
    fresh = RAW.with_name(f".{RAW.name}.drawing")
    shutil.rmtree(fresh, ignore_errors=True)
    draw_petimages(fresh, num_photos=settings.drawn_photos, seed=settings.seed, workers=workers)
    replace_folder(fresh, RAW)
