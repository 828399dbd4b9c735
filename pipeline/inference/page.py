"""A local page in Gradio: drop a photo, see what both checkpoints predict, how confident they are, and where they looked.

    python -m pipeline page            # http://127.0.0.1:7860

Photos stay on this machine: an upload lies in a private temporary folder until it is answered, and the answer's pictures lie
inside the page itself. The page asks no other host for anything, and answers only requests that name it by its own address.
"""

import base64
import html
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.errors import PipelineError
from pipeline.inference.classifier import Classifier
from pipeline.preprocess.decode import Refused
from pipeline.progress import say

TITLE = "Cat or dog?"
LEAD = "Drop a photo. It stays on the machine that serves this page, and is deleted as soon as it is answered."
OUT_OF_DISTRIBUTION = "Out of distribution: unlike the training photos, so the probabilities mean little."
LARGEST = "20 MB"  # of a photo's file
LOCAL = ("127.0.0.1", "localhost")
CSS = ".answer img {width: 100%; max-width: 380px; border-radius: 8px} .answer strong, [role=alert] {font-weight: 600}"


def serve(checkpoints: Mapping[str, Path], *, host: str, port: int) -> None:
    """Load the checkpoints and serve the page until Ctrl-C.

    Args:
        checkpoints: name -> folder, in the order in which they are shown.
        host: a name or address of this machine to listen at.
        port: 0 for any free one from 7860 on.

    Raises:
        PipelineError: Gradio is not installed, a checkpoint is missing or broken, or nothing can listen there.
    """
    _import_gradio()
    with running_page({name: Classifier.load(folder) for name, folder in checkpoints.items()}, host=host, port=port) as page:
        say(f"the page: {page.local_url}  (Ctrl-C ends it)")
        page.block_thread()


@contextmanager
def running_page(classifiers: Mapping[str, Classifier], *, host: str = LOCAL[0], port: int = 0) -> Iterator[Any]:
    """The page as a running `gradio.Blocks`; its temporary folder goes with it.

    Raises:
        PipelineError: as for `serve`.
    """
    gradio = _import_gradio()
    # Other names could be a foreign site's that leads to this machine (DNS rebinding).
    own_names = Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL] if host in LOCAL else ["*"])
    with tempfile.TemporaryDirectory(prefix="page-") as uploads:  # mode 0700
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = _build(gradio, classifiers, Path(uploads))
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
        try:
            yield page
        finally:
            page.close(verbose=False)


def _import_gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise PipelineError("The page needs Gradio, which is not installed. Install it with: uv sync --extra page") from None
    return gradio


def _build(gradio: Any, classifiers: Mapping[str, Classifier], uploads: Path) -> Any:
    hidden = gradio.update(visible=False)
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 600)) as page:
        gradio.Markdown(f"# {TITLE}\n{LEAD}")
        upload = gradio.File(label=f"A photo of up to {LARGEST}", file_types=["image"], type="binary")
        message = gradio.HTML(visible=False)
        answers = []
        with gradio.Row():
            for name in classifiers:
                with gradio.Column(min_width=280):
                    answers += [gradio.Label(label=name, visible=False), gradio.HTML(visible=False)]

        def answer(photo: bytes) -> list[Any]:
            shown: list[Any] = []
            _delete(uploads, photo)
            try:
                for classifier in classifiers.values():
                    probabilities, text = _answer(classifier, photo)
                    shown += [gradio.update(value=probabilities, visible=True), gradio.update(value=text, visible=True)]
            except PipelineError as error:
                text = f'<p role="alert">{html.escape(str(error))}</p>'
                return [None, gradio.update(value=text, visible=True), *[hidden] * len(answers)]
            return [None, hidden, *shown]

        upload.upload(answer, upload, [upload, message, *answers], api_visibility="private")
    return page


def _delete(uploads: Path, photo: bytes) -> None:
    """Delete an upload, which Gradio puts into a folder of its own."""
    for file in uploads.glob("*/*"):
        if file.stat().st_size == len(photo) and file.read_bytes() == photo:
            shutil.rmtree(file.parent)


def _answer(classifier: Classifier, photo: bytes) -> tuple[dict[str, float], str]:
    """A checkpoint's probabilities, and as HTML its warning, its note and where it looked."""
    (prediction,) = classifier.predict_each([photo])
    if isinstance(prediction, Refused):
        raise PipelineError(f"This is no photo that can be read: {prediction}.")
    label, text = html.escape(prediction.label), f"<p>{html.escape(classifier.info.note)}</p>"
    if prediction.is_ood:
        text += f"<p><strong>{OUT_OF_DISTRIBUTION}</strong></p>"
    try:
        buffer = io.BytesIO()
        classifier.explain(photo, prediction.label).save(buffer, "JPEG", quality=88)
        picture = base64.b64encode(buffer.getvalue()).decode()
        text += f'<img src="data:image/jpeg;base64,{picture}" alt="Grad-CAM of {label}">'
        text += f"<p>Grad-CAM: the brighter, the more it speaks for {label}.</p>"
    except PipelineError:  # a network without a layer to look at
        pass
    return prediction.probabilities, f'<div class="answer">{text}</div>'
