"""The command line: `python -m pipeline STAGE` runs what DVC runs; `python -m pipeline --help` lists everything.

Imports are made inside the commands: help must not wait for torch, nor a stage for what it does not use.
"""

import errno
import getpass
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from multiprocessing import util
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from pipeline.errors import PipelineError
from pipeline.files import cannot_write
from pipeline.launch import distributed_process, is_distributed, launch, reported_to_launcher
from pipeline.paths import EVALUATION, FINETUNED, FROZEN, PROCESSED, user_path

STAGES = {
    "inputs": "Hash the files of one's own that params.yaml names.",
    "download": "Get the photos, into data/raw.",
    "preprocess": "Check, split and store them, in data/processed.",
    "train-frozen-backbone": "Solve a head on the untouched backbone.",
    "unfreeze-finetune": "Unfreeze the backbone and fine-tune it.",
    "evaluate": "Score both checkpoints on the test photos.",
}
# Stages that runtime.processes is about.
OF_SEVERAL_PROCESSES = ("train-frozen-backbone", "unfreeze-finetune")
# What the operating system refuses because of the state of a folder or a disk, not of a mistake in this project.
OF_THE_WORLD = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
OF_THE_WORLD |= {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

LONGEST_TMPDIR = 70  # bytes, which with those of a socket in it are fewer than the 104 that macOS allows (Linux: 108)
LEARNING_RATES = Path("outputs/learning_rates.svg")
Checkpoint = Annotated[Path, typer.Option(help="The folder of a checkpoint.")]
Photos = Annotated[
    list[str], typer.Argument(metavar="PHOTO...", help="Files, folders, patterns, addresses; - is standard input.")
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps or xpu.")]


class _Commands(TyperGroup):
    """Ends with a command's status, or with 1 and one message of what a person can put right; a traceback is a defect."""

    def invoke(self, ctx: Any) -> Any:
        try:
            if status := super().invoke(ctx):
                raise SystemExit(status)
            return
        except KeyboardInterrupt:
            print("\nStopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            message = _for_a_person(error)
            if reported_to_launcher(message or traceback.format_exc()):
                raise SystemExit(1) from None
            if message is None:
                raise
        if os.environ.get("DVC_STAGE", "inputs") != "inputs":  # whose outputs are not in DVC's cache
            message += "\nIf this stage has run here before, `dvc checkout` brings back what it made."
        print(f"\nerror: {message}", file=sys.stderr)
        raise SystemExit(1)


def _for_a_person(error: Exception) -> str | None:
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, OSError) and error.errno in OF_THE_WORLD:
        path = Path(error.filename or Path.cwd())
        told = str(cannot_write(path, error))
        if os.path.exists(path) and not os.access(path, os.R_OK):
            told = f"{path} cannot be read: {error.strerror}. Make it readable for you."
        return f"{told} Then run the same command again."
    if isinstance(error, MemoryError | RuntimeError):
        from pipeline.training.faults import OUT_OF_MEMORY

        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            return (
                "The memory ran out. Take a smaller backbone or input size, lower runtime.workers, or end other programs; "
                "set runtime.device to cpu if it was a GPU's. Then run the same command again: what was computed is kept."
            )
    return None


app = typer.Typer(
    cls=_Commands,
    help="Transfer learning on Cats and Dogs. Settings stand in params.yaml; `dvc repro` runs all stages in order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _command(stage: str) -> Callable[[], None]:
    def run() -> None:
        from pipeline.params import load_params

        params = load_params()
        if is_distributed() and stage not in OF_SEVERAL_PROCESSES:
            raise PipelineError(f"{stage} runs in one process: start it without torchrun or accelerate launch.")
        if params.runtime.processes > 1 and stage in OF_SEVERAL_PROCESSES and not is_distributed():
            return launch(["-m", "pipeline", stage], params.runtime.processes)
        with distributed_process() if is_distributed() else nullcontext():
            import_module(f"pipeline.stages.{stage.replace('-', '_')}").run(params)

    return run


def _shown_by(module: str) -> Callable[[], int | None]:
    return lambda: import_module(f"pipeline.{module}").show()


for _stage, _help in STAGES.items():
    app.command(_stage, help=_help)(_command(_stage))
app.command("leaderboard", help="Show all experiments, the lowest validation log-loss first.")(_shown_by("leaderboard"))
app.command("doctor", help="Show what this machine has and whether it works.")(_shown_by("doctor"))


@app.command("report-result")
def _report_result(
    name: Annotated[str | None, typer.Argument(help="Of the new row; without one, only README's table is made anew.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a row of this name.")] = False,
) -> None:
    """Add the present run to the reported results."""
    from pipeline.reproduce import report_result

    report_result(name, replace=replace)


@app.command("reproduce")
def _reproduce(
    name: Annotated[str | None, typer.Argument(help="Of a row of outputs/reported.csv.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All rows, one after another.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the rows, and run nothing.")] = False,
    archive: Annotated[list[Path] | None, typer.Option(help="An archive, or a folder of them; may be repeated.")] = None,
    weights: Annotated[list[Path] | None, typer.Option(help="A weights file, or a folder of them; may be repeated.")] = None,
) -> int:
    """Run a reported result again and compare."""
    from pipeline.reproduce import list_reported, reproduce_reported

    if listed:
        list_reported()
        return 0
    return reproduce_reported(name, every=every, archives=archive or [], weights=weights or [])


@app.command("lr-find")
def _lr_find(checkpoint: Annotated[Path, typer.Option(help="Where fine-tuning starts from.")] = FROZEN) -> None:
    """Suggest a learning rate for fine-tuning, and draw loss by rate in outputs/learning_rates.svg."""
    from pipeline.params import load_params
    from pipeline.training.lr_finder import show_learning_rates

    show_learning_rates(load_params(), checkpoint, PROCESSED, LEARNING_RATES)


@app.command()
def summary(
    backbone: Annotated[str | None, typer.Option(help="A name of timm's; without it, the one of params.yaml.")] = None,
    weights: Annotated[str | None, typer.Option(help="As backbone.weights in params.yaml; none for random ones.")] = None,
    outputs: Annotated[int, typer.Option(help="Outputs of the new head.")] = 2,
    unfrozen: Annotated[str, typer.Option(help="What learns: head, all, or how many of the topmost blocks.")] = "head",
    depth: Annotated[int, typer.Option(help="Levels of layers shown.")] = 2,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Unpickle a weights file whole, which runs code in it.")] = False,
) -> None:
    """Show a backbone with its head, layer by layer."""
    from pipeline.models.summary import show_summary
    from pipeline.params import OneBackbone, load_params

    for part in [OneBackbone(backbone, "none", "model", None)] if backbone else load_params().backbone.parts:
        part = part._replace(weights=weights or part.weights)
        show_summary(part, outputs=outputs, unfrozen=unfrozen, depth=depth, locate=user_path, unsafe=unsafe)


@app.command()
def backbones(
    pattern: Annotated[str | None, typer.Argument(help="Names to list, such as 'convnext*'; '*' lists all.")] = None,
    preset: Annotated[str | None, typer.Option(help="Put its settings into params.yaml: fast, balanced or accurate.")] = None,
) -> None:
    """Show the presets, and timm's backbones by a pattern."""
    from pipeline.presets import show_presets, use_preset

    if preset is not None:
        return use_preset(preset)
    show_presets()
    if pattern is not None:  # each network that is listed is built, which of all takes minutes
        from pipeline.models.summary import show_backbones

        show_backbones(pattern)


@app.command()
def predict(
    photos: Photos,
    checkpoint: Checkpoint = FINETUNED,
    output_format: Annotated[
        Literal["table", "csv", "json", "kaggle"],
        typer.Option("--format", help="Of what is printed; kaggle: id,label for a folder of photos named N.jpg."),
    ] = "table",
    explain: Annotated[bool, typer.Option("--explain", help="Draw where the network looked, in outputs/explained.")] = False,
    device: Device = "auto",
) -> int:
    """Tell cats from dogs in any photos."""
    from pipeline.inference.predict import predict_photos

    return predict_photos(photos, checkpoint, output_format, explain=explain, device=device)


@app.command()
def embed(
    photos: Photos,
    checkpoint: Checkpoint = FINETUNED,
    output_format: Annotated[Literal["parquet", "npy"], typer.Option("--format", help="Of the file.")] = "parquet",
    output: Annotated[Path | None, typer.Option(help="Without it, outputs/features with the format as suffix.")] = None,
    device: Device = "auto",
) -> int:
    """Write photos' features, for search and clustering."""
    from pipeline.inference.predict import embed_photos

    output = output or Path(f"outputs/features.{output_format}")
    return embed_photos(photos, checkpoint, output_format, output, device=device)


@app.command("export")
def _export(
    checkpoint: Checkpoint = FINETUNED,
    output: Annotated[Path, typer.Option(help="Where to write; an earlier export is replaced.")] = Path("outputs/export"),
    push: Annotated[str | None, typer.Option(help="Upload it too: hf-hub:OWNER/NAME.")] = None,
    space: Annotated[bool, typer.Option("--space", help="With --push: make a Space there that shows it.")] = False,
) -> None:
    """Write a checkpoint for ONNX, OpenVINO, timm, torch."""
    from pipeline.inference.export import export
    from pipeline.params import load_params

    source = load_params().download.source
    export(checkpoint, output, processed=PROCESSED, evaluation=EVALUATION, source=source, push_to=push, space=space)


@app.command("page")
def _page(
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free one.")] = 7860,
    device: Device = "auto",
) -> None:
    """Show a local page that takes a photo and answers."""
    from pipeline.inference.page import serve

    serve({"frozen": FROZEN, "fine-tuned": FINETUNED}, host=host, port=port, device=device)


def _suit_libraries() -> None:
    """Make good what libraries take for granted: a short TMPDIR, and a user with a name and a home.

    multiprocessing puts sockets there, and workers hang where a path is too long; a container's user may be a mere number.
    """
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TMPDIR:
        usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
        util.get_temp_dir()  # made once, and known to this process and all that it starts
        tempfile.tempdir = usual
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
    if not os.access(os.path.expanduser("~"), os.R_OK | os.X_OK):
        os.environ["HOME"] = str(Path(".dvc/tmp").resolve())  # Git ignores it


if __name__ == "__main__":
    _suit_libraries()
    app(prog_name="python -m pipeline")
