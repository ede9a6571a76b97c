"""Upload an export to the Hugging Face Hub."""

import re
from pathlib import Path

from cmp.export.export import ExportReport

HUGGING_FACE_FILES = ("model.safetensors", "config.json", "README.md")


def check_repository(repository: str) -> None:
    """Raise ValueError if a name is not OWNER/REPO, or if huggingface_hub is not installed."""
    if not re.fullmatch(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", repository, re.ASCII):
        raise ValueError(f"{repository}: a repository of the Hub is named OWNER/REPO")
    try:
        import huggingface_hub  # noqa: F401  # an optional package
    except ImportError as error:
        raise ValueError(
            f"{repository}: uploading needs the package huggingface_hub; pip install 'cmp-motion[hub]'"
        ) from error


def files_to_push(report: ExportReport) -> dict[str, Path]:
    """The files of an export by their names in a repository; the model card is README.md there."""
    if report.path.is_dir():
        return {name: report.path / name for name in HUGGING_FACE_FILES}
    card = Path(f"{report.path}.md")
    return {"README.md" if path == card else path.name: path for path in (report.path, *report.beside)}


def push_export(report: ExportReport, repository: str, *, token: str | None = None, private: bool = True) -> str:
    """Upload the files of an export in one commit, into a repository that is made where there is none.

    Args:
        report: what `export_backbone` returned.
        repository: OWNER/REPO.
        token: of the Hub; None: the one that `hf auth login` or $HF_TOKEN gave.
        private: whether a new repository can be seen by its owner alone. An old one stays as it is.

    Returns:
        The address of the commit.

    Raises:
        ValueError: as `check_repository`.
        OSError: the Hub cannot be reached or refuses it; nothing was committed then.
    """
    check_repository(repository)
    from huggingface_hub import CommitOperationAdd, HfApi

    files = files_to_push(report)
    try:
        api = HfApi(token=token)
        api.create_repo(repository, exist_ok=True, private=private)
        added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        message = f"Add {report.path.name}, exported by cmp-motion"
        return str(api.create_commit(repository, added, commit_message=message).commit_url)
    except (OSError, RuntimeError) as error:  # the Hub's errors are OSErrors, those of a closed client RuntimeErrors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(f"{repository}: the upload failed ({reason}); the files are in {report.path.parent}") from error
    except Exception as error:  # its client's transport has classes of another library
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise OSError(
            f"{repository}: the Hub cannot be reached ({error}); the files are in {report.path.parent}"
        ) from error
