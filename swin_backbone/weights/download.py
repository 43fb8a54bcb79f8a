"""Downloads published files. A file is complete and checked, or does not exist.

A download is written to a temporary file beside its destination and renamed once it is complete and
its hash is right. A lock file beside the destination excludes other processes; in a distributed job
rank 0 downloads first. Environment variables:

- ``SWIN_CHECKPOINTS``: the folder. Default: ``checkpoints/`` in a checkout; for an installed
  package ``$XDG_CACHE_HOME/swin_backbone`` (``~/.cache/swin_backbone``).
- ``SWIN_OFFLINE=1``: nothing is downloaded; the error says which file to place where.
- ``SWIN_MIRROR=https://mirror/path``: ``https://host/rest`` is fetched from
  ``https://mirror/path/host/rest``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from ..errors import CheckpointError
from ..files import write
from .catalog import catalog_path, find, find_url

TIMEOUT = 30.0  # seconds without a byte
RETRIES = 2
_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.\w+$')


@dataclass(frozen=True)
class Target:
    """A file to download: source, destination, and the first digits of its SHA-256 if known."""

    url: str
    path: Path
    digest: str
    manual: bool = False


def is_url(name: str) -> bool:
    """Whether a checkpoint's name is an ``http(s)://`` URL."""
    return name.startswith(('http://', 'https://'))


def user_path(name: str | os.PathLike) -> Path:
    """A path with ``~`` and ``~user`` expanded.

    Raises:
        FileNotFoundError: The user does not exist.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f'{name} begins with a user who is not known') from None


def hash_in_name(name: str) -> str:
    """The hash at the end of a file name, as in OpenMMLab's and torchvision's; or ''."""
    found = _HASH_IN_NAME.search(name)
    return found[1] if found else ''


def folder() -> Path:
    """The folder of downloaded files; see the module's docstring."""
    if chosen := os.environ.get('SWIN_CHECKPOINTS'):
        return user_path(chosen)
    beside = catalog_path().parent
    if beside.parent != Path(__file__).parents[1]:  # in a checkout
        return beside
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return user_path(cache) / 'swin_backbone'


def target(name: str) -> Target:
    """Source, destination and hash of a catalog name or URL.

    For a URL outside of the catalog the hash is that at the end of its file name
    (``…-<hash>.pth``), and the destination has the host and the path as folders.

    Raises:
        CheckpointError: The catalog has no such name, or the URL is not that of a file.
    """
    entry = find_url(name) if is_url(name) else find(name)
    if entry is not None:
        manual = urlsplit(entry.url).netloc == 'drive.google.com'  # requires a browser
        return Target(entry.url, folder() / entry.file_name, entry.digest, manual)
    try:
        parts = urlsplit(name)
    except ValueError as error:
        raise CheckpointError(f'{name} is no URL: {error}') from None
    places = f'{parts.netloc}{parts.path}'.split('/')
    places = [place for place in places if place not in ('', '.', '..')]
    if not parts.netloc or len(places) < 2:
        raise CheckpointError(f'{name} is no URL of a file')
    if parts.query:
        places[-1] += '_' + re.sub(r'\W', '_', parts.query)
    return Target(name, folder().joinpath(*places), hash_in_name(parts.path))


def fetch(name: str) -> Path:
    """The local file of a catalog name or URL; downloads it if it is missing.

    In a distributed job every process must call this function. Rank 0 downloads first, and if it
    fails, all processes raise its error.

    Raises:
        CheckpointError: The name is unknown; the connection, the server or the disk failed; the
            file is not the published one; or ``SWIN_OFFLINE`` forbids the download.
    """
    # Imported here, so that commands that only read the catalog do not import torch.
    from mmengine.dist import broadcast_object_list, get_rank

    wanted = target(name)
    failure: list[str | None] = [None]
    if get_rank() == 0:
        try:
            _fetch(wanted)
        except CheckpointError as error:
            failure = [str(error)]
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise CheckpointError(failure[0])
    if get_rank() != 0:  # downloads only if this machine does not share rank 0's disk
        _fetch(wanted)
    return wanted.path


def check_hash(path: Path, digest: str = '') -> str:
    """Compares a file with its published hash and with the hash recorded at its download.

    Args:
        path: The file. If no hash is recorded and the folder is writable, its hash is recorded in
            ``<path>.sha256``.
        digest: The first digits of the published SHA-256, if there are any.

    Returns:
        The file's SHA-256.

    Raises:
        CheckpointError: A hash does not match.
    """
    actual = sha256(path)
    if not actual.startswith(digest):
        raise CheckpointError(
            f'{path} is not the published file: its SHA-256 begins with '
            f'{actual[: len(digest)]}, the published one with {digest}; delete it to download again'
        )
    record, recorded = record_path(path), recorded_hash(path)
    if recorded and recorded != actual:
        raise CheckpointError(
            f'{path} has changed since it was first used: its SHA-256 is {actual}, '
            f'{record} says {recorded}; delete both to download again'
        )
    if not recorded:
        with contextlib.suppress(OSError):  # a shared folder may be read-only
            write(record, f'{actual}  {path.name}\n')
    return actual


def record_path(path: Path) -> Path:
    """The path of a file's recorded hash, in the format of ``sha256sum``."""
    return path.with_name(f'{path.name}.sha256')


def recorded_hash(path: Path) -> str:
    """The hash recorded at a file's download; '' if there is none."""
    record = record_path(path)
    words = record.read_text().split() if record.is_file() else []
    return words[0] if words else ''


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(wanted: Target) -> None:
    from filelock import FileLock

    path = wanted.path
    try:
        if not path.is_file():
            _refuse_if_forbidden(wanted)
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f'{path.name}.lock')):
                if not path.is_file():  # another process may have been first
                    _download(wanted)
        check_hash(path, wanted.digest)
    except OSError as error:
        raise CheckpointError(f'{wanted.url} cannot be written to {path}: {error}') from error


def _refuse_if_forbidden(wanted: Target) -> None:
    if wanted.manual:
        reason = 'its publisher offers it through a web page only'
    elif os.environ.get('SWIN_OFFLINE', '') not in ('', '0'):
        reason = 'SWIN_OFFLINE forbids downloads'
    else:
        return
    raise CheckpointError(
        f'{wanted.path} is not there, and {reason}: fetch {wanted.url} by other means and place it '
        f'at {wanted.path}'
    )


def _download(wanted: Target) -> None:
    pooch, exceptions = _pooch()
    url, name, mirror = wanted.url, wanted.path.name, os.environ.get('SWIN_MIRROR', '').rstrip('/')
    url = f'{mirror}/{url.split("://", 1)[1]}' if mirror else url
    fetcher = pooch.create(
        path=wanted.path.parent,
        base_url='',
        registry={name: None},
        urls={name: url},
        retry_if_failed=RETRIES,
    )
    try:
        fetcher.fetch(name, downloader=_checked(pooch.HTTPDownloader, wanted))
    except (exceptions.RequestException, ValueError, CheckpointError) as error:
        raise CheckpointError(
            f'{url} cannot be downloaded: {error}\n  Without a connection, place the file at '
            f'{wanted.path}; SWIN_MIRROR names another server'
        ) from error


def _checked(downloader: Callable, wanted: Target) -> Callable:
    """A downloader for pooch that checks the file before it is moved to its destination."""
    from .file_checks import check_file

    bar = sys.stderr.isatty() and importlib.util.find_spec('tqdm') is not None
    get = downloader(progressbar=bar, chunk_size=1 << 20, timeout=TIMEOUT)

    def download(url: str, output_file: str, pooch: object) -> None:
        get(url, output_file, pooch)
        actual = sha256(Path(output_file))
        if not actual.startswith(wanted.digest):  # a ValueError makes pooch try again
            raise ValueError(
                f'the hash of the downloaded file begins with {actual[: len(wanted.digest)]}, the '
                f"published file's with {wanted.digest}"
            )
        check_file(Path(output_file), 'the downloaded file')
        write(record_path(wanted.path), f'{actual}  {wanted.path.name}\n')

    return download


def _pooch() -> tuple[ModuleType, ModuleType]:
    try:
        import pooch
        from requests import exceptions
    except ImportError as error:
        raise CheckpointError(
            f"downloads need the package pooch ({error}): pip install 'pooch[progress]', or "
            "pip install 'swin_backbone[weights]'"
        ) from None
    return pooch, exceptions
