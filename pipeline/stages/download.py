"""Stage 1, download: the photos as published, in data/raw/PetImages/<Class>/<name>.

Run it with `dvc repro download`, or bare with `python -m pipeline download`. Settings: `download` in params.yaml.
Where the source has predefined splits, data/raw/splits.csv lists them. data/archives.sha256 records the SHA-256 of every
download on first use; later downloads must have it.
"""

import shutil
import time
from collections import Counter

from pipeline.cores import worker_count
from pipeline.download.drawn import draw_petimages
from pipeline.download.sources import download, is_download, local
from pipeline.download.unpack import unpack_photos
from pipeline.errors import PipelineError
from pipeline.files import replace_folder, write_csv, write_json
from pipeline.params import Download, Params
from pipeline.paths import ARCHIVES, DOWNLOADS, METRICS, PLOTS, RAW, SECONDS, project_root, user_path


def run(params: Params) -> None:
    """Make data/raw, whole or not at all."""
    started = time.monotonic()
    settings, sha256 = params.download, None
    if settings.source == "drawn":
        _draw(settings, max(worker_count(params.runtime.workers), 1))
    else:
        if is_download(settings.source):
            source = download(settings.source, DOWNLOADS, project_root() / ARCHIVES, settings.sha256)
        else:
            source = local(user_path(settings.source), settings.sha256)
        unpack_photos(source.path, RAW)
        if source.temporary:
            shutil.rmtree(source.temporary)
        sha256 = source.sha256
    files = [path for path in RAW.glob("PetImages/*/*") if path.is_file()]
    classes = Counter(path.parent.name for path in files)
    write_csv(PLOTS / "downloaded.csv", [{"class": name, "files": count} for name, count in sorted(classes.items())])
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    write_json(METRICS / "download.json", {"files": len(files), "megabytes": megabytes, "archive_sha256": sha256})
    write_json(SECONDS / "download.json", {"seconds": time.monotonic() - started})


def _draw(settings: Download, workers: int) -> None:
    if settings.sha256 is not None:
        raise PipelineError("download.sha256 is set, but drawn photos come from no archive. Set it to null.")
    fresh = RAW.with_name(f".{RAW.name}.drawing")
    shutil.rmtree(fresh, ignore_errors=True)
    draw_petimages(fresh, num_photos=settings.drawn_photos, seed=settings.seed, workers=workers)
    replace_folder(fresh, RAW)
