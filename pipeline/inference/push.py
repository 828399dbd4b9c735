"""Upload an export to the Hugging Face hub, or to the one that HF_ENDPOINT names.

push(Path("outputs/export"), "hf-hub:OWNER/NAME")
"""

from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from pipeline.errors import PipelineError
from pipeline.inference.forms import first_line
from pipeline.models.backbone import HUB_PREFIX
from pipeline.progress import say


def refuse_unpushable(target: str) -> None:
    """Stop before any work where the upload cannot succeed.

    Raises:
        PipelineError: the target is no hf-hub:OWNER/NAME, or there is no token.
    """
    try:
        huggingface_hub.utils.validate_repo_id(target.removeprefix(HUB_PREFIX))
        well_formed = target.startswith(HUB_PREFIX) and target.count("/") == 1
    except HFValidationError:
        well_formed = False
    if not well_formed:
        raise PipelineError(f"--push {target}: write {HUB_PREFIX}OWNER/NAME, such as {HUB_PREFIX}someone/cats-and-dogs.")
    if huggingface_hub.get_token() is None:
        raise PipelineError(
            f"--push {target} needs a token of {huggingface_hub.constants.ENDPOINT} that may write. Make one at "
            f"{huggingface_hub.constants.ENDPOINT}/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        )


def push(folder: Path, target: str) -> None:
    """Make the repository unless it is there, and upload the folder in one commit.

    Raises:
        PipelineError: the hub cannot be reached or refuses; the folder stands as it was.
    """
    name, hub = target.removeprefix(HUB_PREFIX), huggingface_hub.constants.ENDPOINT
    say(f"uploading {folder} to {hub}/{name}")
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries are told once, in the message below
    huggingface_hub.utils.disable_progress_bars()
    api = huggingface_hub.HfApi(endpoint=hub)
    try:
        api.create_repo(name, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export")
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = "the token is not accepted or may not write there" if status in (401, 403) else str(error).splitlines()[0]
        raise PipelineError(_failed(target, hub, f"it answered {status}: {reason}", folder)) from None
    except (OSError, httpx2.HTTPError, RuntimeError, ValueError) as error:  # no network, an answer of no hub, a failed file
        reason = first_line(error.__cause__ or error).rstrip(".")
        raise PipelineError(_failed(target, hub, reason, folder)) from None
    say(f"uploaded: {done.commit_url}")


def _failed(target: str, hub: str, reason: str, folder: Path) -> str:
    return f"{hub} did not take {target}: {reason}. The export is whole in {folder}; run the command again to upload it."
