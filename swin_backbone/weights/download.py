"""Published files onto this disk: whole and checked, or not at all.

A download goes to a temporary file beside its destination and is moved there only when it has
arrived whole and its hash is right. A lock beside the destination keeps processes apart; in a
distributed job rank 0 downloads first. Settings, all in the environment:

- ``SWIN_CHECKPOINTS``: the folder. Default: ``checkpoints/`` of a checkout; of an installed
  package, ``$XDG_CACHE_HOME/swin_backbone`` (``~/.cache/swin_backbone``).
- ``SWIN_OFFLINE=1``: nothing is downloaded; an error says which file to place where.
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
from .catalog import Entry, catalog_path, find, find_url

TIMEOUT = 30.0  # seconds without a byte
RETRIES = 2
_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.\w+$')


@dataclass(frozen=True)
class Target:
    """What is to be had: from where, to where, the first digits of its SHA-256 ('': unknown)."""

    url: str
    path: Path
    digest: str
    manual: bool = False


def is_url(name: str) -> bool:
    """Whether a checkpoint's name is an ``http(s)://`` URL."""
    return name.startswith(('http://', 'https://'))


def user_path(name: str | os.PathLike) -> Path:
    """A path, with ``~`` and ``~user`` for users' folders.

    Raises:
        FileNotFoundError: There is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f'{name} begins with a user who is not known here') from None


def hash_in_name(name: str) -> str:
    """The hash that a file's name ends in, as OpenMMLab's and torchvision's do; or ''."""
    found = _HASH_IN_NAME.search(name)
    return found[1] if found else ''


def folder() -> Path:
    """The folder of downloaded files; see the module's description."""
    if chosen := os.environ.get('SWIN_CHECKPOINTS'):
        return user_path(chosen)
    beside = catalog_path().parent
    if beside.parent != Path(__file__).parents[1]:  # a checkout's
        return beside
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return user_path(cache) / 'swin_backbone'


def target(name: str) -> Target:
    """Source, destination and hash of a catalog name or URL.

    The hash of a URL outside the catalog is the one that its file name ends in
    (``…-<hash>.pth``), and its destination has the host's name and path as folders.

    Raises:
        CheckpointError: The catalog has no such name, or the URL is none of a file.
    """
    entry = find_url(name) if is_url(name) else find(name)
    if entry is not None:
        return Target(entry.url, folder() / entry.file_name, entry.digest, _needs_browser(entry))
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
    """The local file of a catalog name or URL, downloaded if it is not there.

    In a distributed job every process must call it: rank 0 goes first, and where it fails all do.

    Raises:
        CheckpointError: Unknown name; no connection, an error of the server or a full disk; a
            file that is not the published one; or a download that ``SWIN_OFFLINE`` forbids.
    """
    # Here, so that the catalog's commands do not wait for torch.
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
    if get_rank() != 0:  # there already, unless this machine does not share rank 0's disk
        _fetch(wanted)
    return wanted.path


def check_hash(path: Path, digest: str = '') -> str:
    """Holds a file against the published hash, and against the one recorded at its download.

    Args:
        path: The file. Its hash is recorded in ``<path>.sha256``, if it is not yet and may be.
        digest: The first digits of the published SHA-256, if there is one.

    Returns:
        The file's SHA-256.

    Raises:
        CheckpointError: The file is another.
    """
    actual = sha256(path)
    if not actual.startswith(digest):
        raise CheckpointError(
            f'{path} is not the published file: its SHA-256 begins with '
            f'{actual[: len(digest)]}, the published one with {digest}; delete it to download anew'
        )
    record = record_path(path)
    recorded = record.read_text().split()[:1] if record.is_file() else []
    if recorded and recorded != [actual]:
        raise CheckpointError(
            f'{path} has changed since it was first used: its SHA-256 is {actual}, '
            f'{record} says {recorded[0]}; delete both to download anew'
        )
    if not recorded:
        with contextlib.suppress(OSError):  # a folder that others fill may be read-only
            write(record, f'{actual}  {path.name}\n')
    return actual


def record_path(path: Path) -> Path:
    """The file that holds the hash of another, in the format of ``sha256sum``."""
    return path.with_name(f'{path.name}.sha256')


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _needs_browser(entry: Entry) -> bool:
    return urlsplit(entry.url).netloc == 'drive.google.com'


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
    url, name = _mirrored(wanted.url), wanted.path.name
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
    """A downloader for pooch that refuses another file than the wanted one before it is moved."""
    from .file_checks import check_file

    bar = sys.stderr.isatty() and importlib.util.find_spec('tqdm') is not None
    get = downloader(progressbar=bar, chunk_size=1 << 20, timeout=TIMEOUT)

    def download(url: str, output_file: str, pooch: object) -> None:
        get(url, output_file, pooch)
        actual = sha256(Path(output_file))
        if not actual.startswith(wanted.digest):  # a ValueError makes pooch try again
            raise ValueError(
                f'the hash of what arrived begins with {actual[: len(wanted.digest)]}, the '
                f"published file's with {wanted.digest}"
            )
        check_file(Path(output_file), 'what arrived')
        write(record_path(wanted.path), f'{actual}  {wanted.path.name}\n')

    return download


def _mirrored(url: str) -> str:
    mirror = os.environ.get('SWIN_MIRROR', '').rstrip('/')
    return f'{mirror}/{url.split("://", 1)[1]}' if mirror else url


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
