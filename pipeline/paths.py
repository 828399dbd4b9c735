"""Where things lie. Stages alone use this; the library takes paths as arguments."""

from pathlib import Path

from pipeline.errors import PipelineError

INPUTS = Path("data/inputs")  # hashes of the files of one's own that params.yaml names
HASHES = Path("data/.hashes.json")  # by size and modification time, so that no file is read at every run
RAW = Path("data/raw")
PROCESSED = Path("data/processed")
FROZEN = Path("outputs/frozen")
FINETUNED = Path("outputs/finetuned")
PROBE = Path("outputs/probe")
OUT_OF_FOLD = PROBE / "out_of_fold.csv"
TRAIN_FEATURES = PROBE / "train_features.npy"
EVALUATION = Path("outputs/evaluation")
METRICS = Path("outputs/metrics")
SECONDS = Path("outputs/seconds")  # wall-clock time of each stage, apart from its other numbers
PLOTS = Path("outputs/plots")
TRAINING_CURVES = PLOTS / "training"
EPOCHS = PLOTS / "epochs.csv"
# The SHA-256 of what was downloaded, recorded once it is unpacked: no stage's output, and meant to be committed.
ARCHIVES = Path("data/archives.sha256")
# What an interrupted run goes on from: no stage's output, ignored by Git and DVC.
DOWNLOADS = Path("data/.downloads")
AUDITED = Path("data/.audited")
RESUME = Path("outputs/.resume")
# Features of photos, which a run with another head can use again.
FEATURES = Path("outputs/.features")
# What TensorBoard and Weights & Biases write: no stage's output, ignored by Git and DVC.
TRACKING = Path("outputs/tracking")


def project_root() -> Path:
    """The folder that relative paths in params.yaml start from: the project, also for a copy of it that DVC made.

    `dvc exp run --temp` and `--queue` run stages in a copy under PROJECT/.dvc/tmp/exps, from where a path such as
    ../photos.zip leads nowhere.
    """
    here = Path.cwd().resolve()
    copies = [parent for parent in here.parents if parent.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here


def user_path(path: str) -> Path:
    """A path from params.yaml: absolute, or relative to the present folder, or to the project that this is a copy of."""
    try:
        given = Path(path).expanduser()
    except RuntimeError:
        raise PipelineError(f"{path} begins with a user who has no home folder on this machine: write the path out.") from None
    return given if given.is_absolute() or given.exists() else project_root() / given
