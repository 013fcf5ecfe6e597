"""Where sealed parts and the manifest are kept: a local folder, or a place on any pyarrow filesystem.

Files are written whole and never appended to. In a local folder a file is written beside its place, synced and renamed;
an object store shows an object when it is complete, and there is nothing to rename. A store that promises neither is
caught by the checksums in the manifest, and by a look at the size of what it kept.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from pbt.errors import StorageError, first_line
from pbt.spec import has_secret

Data: TypeAlias = bytes | pa.Buffer


class Archive(Protocol):
    """Files by name, with `/` between folder and file."""

    @property
    def uri(self) -> str:
        """Its address; equal for the same place."""

    def where(self, name: str) -> str:
        """Path or address of a file, for people and for other programs."""

    def read(self, name: str) -> Data:
        """A file's contents.

        Raises:
            FileNotFoundError: There is none of that name; its `filename` is `where(name)`.
            StorageError: It cannot be read.
        """

    def write(self, name: str, data: Data) -> None:
        """Write a file whole, in place of one of that name.

        Raises:
            StorageError: It cannot be written.
        """

    def delete(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StorageError: It cannot be removed.
        """

    def names(self) -> list[str]:
        """All files.

        Raises:
            StorageError: They cannot be listed.
        """


class LocalArchive:
    """A folder of this machine.

    Args:
        folder: The folder, made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def uri(self) -> str:
        """Its address."""
        return self._folder.absolute().as_uri()

    def where(self, name: str) -> str:
        """Path of a file."""
        return str(self._folder / name)

    def read(self, name: str) -> Data:
        """A file's contents."""
        path = self._folder / name
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(str(path)) from error
        except OSError as error:
            raise _unreadable(str(path), error) from error

    def write(self, name: str, data: Data) -> None:
        """Write a file whole and synced."""
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(str(path), error) from error
        write_atomically(path, data)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(str(self._folder / name), error) from error

    def names(self) -> list[str]:
        """All files."""
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        return sorted(path.relative_to(self._folder).as_posix() for path in files)


class RemoteArchive:
    """A place on a pyarrow filesystem.

    Args:
        filesystem: A `pyarrow.fs.FileSystem`; `PyFileSystem(FSSpecHandler(...))` brings in those of fsspec.
        base: Path on it.
        uri: Its address, without passwords.
    """

    def __init__(self, filesystem: Any, base: str, uri: str) -> None:
        self._filesystem = filesystem
        self._base = base.rstrip("/")
        self.uri = uri

    def where(self, name: str) -> str:
        """Address of a file."""
        return f"{self.uri.split('?')[0].rstrip('/')}/{name}"

    # Filesystems of others raise what they like, hence `Exception`.

    def read(self, name: str) -> Data:
        """A file's contents."""
        try:
            with self._filesystem.open_input_file(self._path(name)) as file:
                return file.read_buffer()
        except FileNotFoundError as error:
            raise _missing(self.where(name)) from error
        except Exception as error:
            raise _unreadable(self.where(name), error) from error

    def write(self, name: str, data: Data) -> None:
        """Write a file whole, and see that the store has all of it."""
        try:
            self._put(self._path(name), data)
            size = self._filesystem.get_file_info(self._path(name)).size
            if size != len(data):
                raise OSError(f"it kept {size} of {len(data)} bytes")
        except Exception as error:
            raise _unwritable(self.where(name), error) from error

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.delete_file(self._path(name))
        except Exception as error:
            raise _unwritable(self.where(name), error) from error

    def names(self) -> list[str]:
        """All files."""
        from pyarrow import fs

        try:
            found = self._filesystem.get_file_info(fs.FileSelector(self._base, recursive=True, allow_not_found=True))
        except Exception as error:
            raise _unreadable(self.uri, error) from error
        paths = [info.path.lstrip("/") for info in found if info.is_file]
        return sorted(path.removeprefix(self._base.lstrip("/") + "/") for path in paths)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _put(self, path: str, data: Data) -> None:
        try:
            stream = self._filesystem.open_output_stream(path)
        except FileNotFoundError:  # not an object store: it has folders
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            stream = self._filesystem.open_output_stream(path)
        with stream:
            stream.write(data)


def open_archive(where: str | Path | Archive) -> Archive:
    """The archive at an address (`s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `file:///PATH`) or in a local folder.

    Raises:
        StorageError: The address holds a password, or nothing can be kept there.
    """
    if isinstance(where, Path):
        return LocalArchive(where)
    if not isinstance(where, str):
        return where
    if has_secret(where):  # first, so that no message shows it
        raise StorageError(
            "archive: the address holds a password, which would be recorded with the run. "
            "Leave it out and give it in the environment, as the store's own tools take it."
        )
    if "://" not in where:
        return LocalArchive(Path(where).absolute())
    from pyarrow import fs

    try:
        filesystem, base = fs.FileSystem.from_uri(where)
        if not base.strip("/"):
            raise ValueError("it names no place")
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(
            f"archive: cannot use {where!r} ({_why(error)}). "
            "Write s3://BUCKET/PATH, gs://BUCKET/PATH, file:///PATH or a folder."
        ) from error
    except OSError as error:  # a store is asked where its bucket is
        raise _unreadable(where, error) from error
    if isinstance(filesystem, fs.LocalFileSystem):
        return LocalArchive(Path(base))
    return RemoteArchive(filesystem, base, where)


def write_atomically(path: Path, data: Data) -> None:
    """Write a file that is either there whole or not at all, synced to disk.

    Raises:
        StorageError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(str(path), error) from error


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power failure.

    Raises:
        OSError: The disk did not take it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error).splitlines()[0].rstrip(".")
    return first_line(error)


def _missing(where: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "is missing", where)


def _unreadable(where: str, error: Exception) -> StorageError:
    return StorageError(f"cannot read {where}: {_why(error)}. Check that it can be reached, and who may read it.")


def _unwritable(where: str, error: Exception) -> StorageError:
    mend = "Free some space."
    if getattr(error, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM):
        mend = "Make it writable, or choose another storage folder for new runs."
    if "://" in where:
        mend = "Check that it can be reached, and who may write it."
    return StorageError(f"cannot write {where}: {_why(error)}. {mend}")
