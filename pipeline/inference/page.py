"""A local page in Gradio: drop a photo, see what both checkpoints predict, how confident they are, and where they looked.

Photos stay on this machine: an upload lies in a private temporary folder until it is answered, and the answer's pictures lie
inside the page itself. The page asks no other host for anything, and answers only requests that name it by its own address.
"""

import base64
import html
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.download.listing import PHOTO_SUFFIXES
from pipeline.errors import PipelineError
from pipeline.inference.classifier import Classifier
from pipeline.preprocess.decode import Refused
from pipeline.progress import say

TITLE = "What is in the photo?"
LEAD = "Drop a photo. It stays on the machine that serves this page, and is deleted as soon as it is answered."
OUT_OF_DISTRIBUTION = "Out of distribution: unlike the training photos, so the probabilities mean little."
LARGEST = "20 MB"  # of a photo's file
SECONDS_KEPT = 600  # of an upload that nobody asks an answer to
SHOWN = 10  # classes, the most probable ones
LOCAL = ("127.0.0.1", "localhost")
CSS = """
.answers {display: flex; flex-wrap: wrap; gap: 2em} .answers > * {flex: 1 1 260px} .answers img {max-width: 100%}
.answers meter {width: 100%} .answers strong, [role=alert] {font-weight: 600}
"""


def serve(checkpoints: Mapping[str, Path], *, host: str, port: int, device: str = "auto") -> None:
    """Load the checkpoints (name -> folder) and serve the page until Ctrl-C; port 0 is any free one from 7860 on.

    A PipelineError says that Gradio is not installed, a checkpoint is missing or broken, or nothing can listen there.
    """
    classifiers = {name: Classifier.load(folder, device=device) for name, folder in checkpoints.items()}
    with running_page(classifiers, host=host, port=port) as page:
        say(f"the page: {page.local_url}  (Ctrl-C ends it)")
        page.block_thread()


@contextmanager
def running_page(classifiers: Mapping[str, Classifier], *, host: str = LOCAL[0], port: int = 0) -> Iterator[Any]:
    """The page as a running `gradio.Blocks`; its temporary folder goes with it. Arguments and errors are those of `serve`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError:
        raise PipelineError("The page needs Gradio. Install it with: uv sync --inexact --extra page") from None
    # Gradio asks the page whether it is up, which no proxy can.
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""), *LOCAL, host]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, direct))
    # Other names could be a foreign site's that leads to this machine (DNS rebinding).
    own_names = Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL] if host in LOCAL else ["*"])
    with tempfile.TemporaryDirectory(prefix="page-") as uploads:  # mode 0700
        os.environ["GRADIO_TEMP_DIR"] = uploads

        def answer(photo: bytes) -> tuple[None, str]:
            with suppress(FileNotFoundError):  # the answer to somebody else's upload was faster
                for file in Path(uploads).glob("*/*"):  # Gradio puts each photo into a folder of its own
                    if file.stat().st_size == len(photo) and file.read_bytes() == photo:
                        shutil.rmtree(file.parent)
                for part in Path(uploads).glob("*"):  # of an upload that has broken off
                    if part.is_file() and part.stat().st_mtime < time.time() - SECONDS_KEPT:
                        part.unlink()
            return None, answers_of(classifiers, photo)

        with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, SECONDS_KEPT)) as page:
            gradio.Markdown(f"# {TITLE}\n{LEAD}")
            types = ["image", *sorted(PHOTO_SUFFIXES)]  # browsers know no type of some
            upload = gradio.File(label=f"A photo of up to {LARGEST}", file_types=types, type="binary")
            # In a queue a photo would be read when its turn comes, and the same one of somebody before it deletes it.
            upload.upload(answer, upload, [upload, gradio.HTML()], api_visibility="private", queue=False)
        try:
            try:
                page.launch(
                    server_name=host,
                    server_port=port or None,
                    prevent_thread_lock=True,
                    quiet=True,
                    share=False,
                    footer_links=[],
                    max_file_size=LARGEST,
                    enable_monitoring=False,
                    run_history=False,  # else the browser keeps what was asked
                    theme=gradio.themes.Default(font=("system-ui", "sans-serif"), font_mono=("monospace",)),
                    css=CSS,
                    app_kwargs={"middleware": [own_names]},
                )
            except OSError as error:
                reason = str(error).split(". ")[0]  # the rest is of Gradio's own settings
                raise PipelineError(
                    f"The page cannot listen at {host}, port {port}: {reason}. Choose another with --port."
                ) from None
            yield page
        finally:
            page.close(verbose=False)


def answers_of(classifiers: Mapping[str, Classifier], photo: bytes) -> str:
    """HTML: for each checkpoint its probabilities, its warning, its note and its Grad-CAM; or why there are none."""
    answers = ""
    for name, classifier in classifiers.items():
        (prediction,) = classifier.predict_each([photo])
        if isinstance(prediction, Refused):
            return f'<p role="alert">This is no photo that can be read: {html.escape(str(prediction))}.</p>'
        answers += f"<div><h3>{html.escape(name)}</h3>"
        for label, probability in sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:SHOWN]:
            meter = f'<meter value="{probability:.4f}"></meter>'
            answers += f"<p><label>{html.escape(label)}: {probability:.0%}<br>{meter}</label></p>"
        if prediction.is_ood:
            answers += f"<p><strong>{OUT_OF_DISTRIBUTION}</strong></p>"
        answers += f"<p>{html.escape(classifier.info.note)}</p>{_grad_cam(classifier, photo, prediction.label)}</div>"
    return f'<div class="answers">{answers}</div>'


def _grad_cam(classifier: Classifier, photo: bytes, label: str) -> str:
    buffer = io.BytesIO()
    try:
        classifier.explain(photo, label).save(buffer, "JPEG", quality=88)
    except PipelineError:  # a network without a layer to look at
        return ""
    picture, label = base64.b64encode(buffer.getvalue()).decode(), html.escape(label)
    image = f'<img src="data:image/jpeg;base64,{picture}" alt="Grad-CAM of {label}">'
    return f"{image}<p>Grad-CAM: the brighter, the more it speaks for {label}.</p>"
