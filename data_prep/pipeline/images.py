"""Images of a source: safe paths, sizes from the header, no decoding, no re-encoding."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from argparse import Namespace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image, UnidentifiedImageError

from data_prep.pipeline.conversion import Rejected, number
from grounding.io import IMAGE_FORMATS, MAX_PIXELS, unread_format
from grounding.sample import ImageRef

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tiff"}
_ORIENTATION = 0x0112
_TAILS = {"JPEG": (b"\xff\xd9", 64), "PNG": (b"IEND", 16), "GIF": (b"\x3b", 8)}


class ImageFolder:
    """References to images below `root`, under `images/` of the data set.

    Args:
        root: the folder that relative names are resolved in; nothing outside is touched.
        prefix: put before the name inside the data set, to keep several folders apart.
        check: look at the files. Without, sizes must come from the annotation and images may be absent
            (`--images none`).
        decode: also decode every image once (slow; finds damage in the middle of a file).
    """

    def __init__(self, root: Path, prefix: str = "images", check: bool = True, decode: bool = False):
        self._root = root
        self._prefix = prefix
        self._check = check
        self._decode = decode
        self._known: dict[str, tuple[ImageRef, Path] | Rejected] = {}

    @classmethod
    def of(cls, args: Namespace, folder: str | Path = ".", prefix: str = "images") -> ImageFolder:
        """The images in `folder` (relative to `--root`, or absolute when the user gave it so), or those of
        `args.pictures`."""
        return vars(args).get("pictures") or cls(args.root / folder, prefix, args.images != "none", args.decode)

    def __call__(self, name: str, width: Any = None, height: Any = None) -> tuple[ImageRef, Path]:
        """The reference and the file of image `name`.

        Args:
            name: path relative to the root; the separators of Windows are read too.
            width, height: what the annotation claims, in pixels; checked against the file when given.

        Raises:
            Rejected: the path leaves the root, the file is missing, is not an image, is truncated, is a
                decompression bomb, or has another size.
        """
        name = name.replace("\\", "/") if isinstance(name, str) else name
        if not self._check:
            return self._claimed(name, width, height), inside(self._root, name)
        known = self._known.get(name)
        if known is None:
            known = self._look(name)
            if len(self._known) >= 20_000:  # bounded: sources list the rows of an image close together
                self._known.clear()
            self._known[name] = known
        if isinstance(known, Rejected):
            raise Rejected(known.reason, known.detail)
        _check_size(name, known[0], width, height)
        return known

    def _look(self, name: str) -> tuple[ImageRef, Path] | Rejected:
        try:
            path = inside(self._root, name)
            size = image_size(path, decode=self._decode)
        except Rejected as error:
            return Rejected(error.reason, f"{name}: {error.detail}")
        return ImageRef(f"{self._prefix}/{PurePosixPath(name)}", *size), path

    def _claimed(self, name: str, width: Any, height: Any) -> ImageRef:
        if width is None or height is None:
            raise Rejected("missing image", f"{name}: the annotation has no size and --images none was given")
        return ImageRef(f"{self._prefix}/{PurePosixPath(name)}", _side(width), _side(height))


def _side(value: Any) -> int:
    """A side that an annotation states; numbers in strings are read."""
    side = number(value, "image size")
    if side <= 0 or side != int(side):
        raise Rejected("not a number", f"image size is {value!r}")
    return int(side)


def _check_size(name: str, image: ImageRef, width: Any, height: Any) -> None:
    if width is None or height is None:
        return
    if (_side(width), _side(height)) != (image.width, image.height):
        detail = f"{name} is {image.width}x{image.height}, annotated {width}x{height}"
        raise Rejected("image size differs", detail)


def inside(root: Path, name: str) -> Path:
    """`root / name`, as long as that stays inside `root`, symbolic links included.

    Raises:
        Rejected: with reason "path leaves the root".
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise Rejected("wrong format", f"image name {name!r}")
    if name.startswith("/") or name[1:3] == ":/" or "\\" in name or ".." in name.split("/"):
        raise Rejected("path leaves the root", repr(name))
    path = os.path.join(root, name)  # noqa: PTH118  called once a row: pathlib takes five times as long
    if os.path.islink(path) or not _inside(os.path.dirname(path), str(root)):  # noqa: PTH114, PTH120
        resolved = Path(os.path.realpath(path))
        if not resolved.is_relative_to(os.path.realpath(root)):
            raise Rejected("path leaves the root", f"{name!r} is a link to {resolved}")
    return Path(path)


@lru_cache(maxsize=4096)
def _inside(folder: str, root: str) -> bool:
    # realpath: Path.resolve raises RuntimeError for links that lead in a circle
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def image_size(data: Path | bytes, decode: bool = False) -> tuple[int, int]:
    """(width, height) of an image in pixels as a reader shows it (upright), from its header.

    A file whose format has an end mark and lacks it is decoded to find out whether it is truncated.

    Raises:
        Rejected: "missing image", "bad image", "truncated image" or "image too large".
    """
    return _header(data, decode)[:2]


def _header(data: Path | bytes, decode: bool = False) -> tuple[int, int, str]:
    """Width, height and format."""
    try:
        with _open(data) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit, below, is an error
            image = Image.open(stream, formats=IMAGE_FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Rejected("image too large", f"{width}x{height} pixels")
            kind = image.format or ""
            if _on_its_side(image):
                width, height = height, width
            if decode or not _has_tail(stream, kind):
                stream.seek(0)
                Image.open(stream, formats=IMAGE_FORMATS).load()
    except FileNotFoundError:
        raise Rejected("missing image", "no such file") from None
    except IsADirectoryError:
        raise Rejected("bad image", "it is a folder") from None
    except Image.DecompressionBombError as error:
        raise Rejected("image too large", str(error)) from None
    except UnidentifiedImageError:
        raise Rejected("bad image", unread_format(data)) from None
    except Rejected:
        raise
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, zlib.error) as error:  # of damaged files
        raise Rejected("truncated image" if "trunc" in str(error) else "bad image", str(error)) from None
    return width, height, kind


def _on_its_side(image: Image.Image) -> bool:
    """Whether a reader turns it by a right angle."""
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode it to look behind the pixels
        return False
    return image.getexif().get(_ORIENTATION, 1) >= 5


def _open(data: Path | bytes) -> IO[bytes]:
    if isinstance(data, bytes):
        return io.BytesIO(data)
    if data.is_fifo() or data.is_socket() or data.is_char_device():  # opening these may wait without end
        raise Rejected("bad image", "not a regular file")
    return data.open("rb")


def _has_tail(stream: IO[bytes], kind: str | None) -> bool:
    if kind not in _TAILS:
        return False
    mark, length = _TAILS[kind]
    end = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, end - length))
    return mark in stream.read()


def png(image: Image.Image) -> bytes:
    """An image as PNG; the same pixels give the same bytes."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def from_bytes(
    name: str, data: bytes, width: Any = None, height: Any = None, prefix: str = "images"
) -> tuple[ImageRef, bytes]:
    """Reference and content of an image that a source carries inside its rows (Parquet), unchanged.

    Args:
        name: without suffix, which is taken from the image's own format.
        width, height: what the row claims, in pixels; checked against the image when given.

    Raises:
        Rejected: as `image_size`; "image size differs"; "path leaves the root" for a name like ``../x``.
    """
    inside(Path(), name)
    own_width, own_height, kind = _header(data)
    image = ImageRef(f"{prefix}/{PurePosixPath(name)}{_SUFFIXES[kind]}", own_width, own_height)
    _check_size(name, image, width, height)
    return image, data
