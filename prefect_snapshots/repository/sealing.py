"""Sealing: name, compress, encrypt and verify chunks and objects.

- A *chunk* is named by the BLAKE3 hash of its plaintext, with the repository's secret as the key if it is encrypted.
- A *sealed object* (event, index, compacted range, pack table) is a header followed by frames. Each frame has a tag
  over its bytes, its number, the repository's id and the object's path. So a flipped bit, a truncated object and a
  swapped object are all detected. The tag is from AES-256-GCM if the repository has a password, otherwise from BLAKE3.
- Every sealed object has a random 128-bit salt. Its key is derived from secret and salt, and its nonces count frames.

`docs/format.md` describes the bytes. This module does not access storage.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import DamagedObject
from .location import Buffer

Compression = Literal["auto", "high", "none"]

RAW = 0
"""The code of a chunk that is stored uncompressed."""
ZSTD = 1
"""The code of a chunk that is compressed with zstd."""
DELTA = 2
"""The code of a delta: a chunk that is compressed with other chunks, its *bases*, as a prefix."""

ID_SIZE = 32
"""Bytes of the name of a chunk: 256 bits of BLAKE3, so collisions do not happen."""
SALT_SIZE = 16
"""Bytes of the salt in a sealed object: 128 random bits give each object its own key."""
TAG_SIZE = 16
"""Bytes of a tag of AES-GCM, at full length."""

_MAGIC = b"PSNP"
_VERSION = 1
"""The version of a sealed object's frame. A reader refuses a higher one."""
_HEADER = struct.Struct("<4sBBH16s")  # magic, format, flags, number of frames, salt
_FRAME = struct.Struct("<IIB")  # stored bytes (without the tag), plain bytes, codec
_ENCRYPTED = 1
"""The flag of a frame that is encrypted."""

HEADER_SIZE = _HEADER.size

# A few compressed bytes can claim any uncompressed size. Larger frames are stored uncompressed, so that the size of the
# object limits the memory that they need.
_LARGEST_COMPRESSED = 2**30

_PROBE = 16 * 1024
"""How many bytes of a chunk are compressed first, to see whether the rest is worth it: a page or two of rows."""
_PAYS = {"auto": 0.88, "high": 0.98}
"""The largest useful ratio of compressed to plain size. Random floats reach 0.92 and cost more time than they save."""
_LEVEL = {"auto": 3, "high": 12}

_DELTA_LEVEL = 8
"""The zstd level for deltas. Lower levels miss much of what a long chunk shares with its bases."""

_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Keys:
    """The three keys derived from a repository's secret, each for one use."""

    chunk: bytes
    name: bytes
    seal: bytes

    @classmethod
    def from_secret(cls, secret: bytes) -> Keys:
        return cls(*(_derive(f"prefect-snapshots 2026 {use}", secret) for use in ("chunk id", "stream name", "seal")))


class Sealer:
    """Seals and opens everything in one repository.

    Args:
        repository_id: 16 bytes that bind every object to its repository.
        secret: 32 bytes if the repository is encrypted, otherwise None.
        compression: "auto" uses zstd if it saves space, "high" compresses harder, "none" never compresses.
    """

    def __init__(self, repository_id: bytes, secret: bytes | None = None, compression: Compression = "auto") -> None:
        self._id = repository_id
        self._keys = Keys.from_secret(secret) if secret is not None else None
        self._compression = compression

    @property
    def encrypted(self) -> bool:
        return self._keys is not None

    @property
    def overhead(self) -> int:
        """Bytes that sealing adds to a stored chunk."""
        return TAG_SIZE if self._keys else 0

    def chunk_id(self, data: Buffer) -> bytes:
        """Return the name of a chunk: 32 bytes."""
        return blake3(data, key=self._keys.chunk).digest() if self._keys else blake3(data).digest()

    def names_like(self, other: Sealer) -> bool:
        """Return whether equal chunks have equal names with both sealers."""
        return self._keys == other._keys

    def stream_id(self, kind: str, name: str) -> str:
        """Return the directory of a stream: 32 hexadecimal digits, which are valid in every file system."""
        text = f"{kind}\0{name}".encode()
        return (blake3(text, key=self._keys.name) if self._keys else blake3(text)).digest(16).hex()

    def hidden_number(self, context: str, number: int) -> int:
        """Return a number below 2**62 that represents another one (below 2**64) without revealing it.

        Without encryption, anyone can calculate it.
        """
        said = f"{context}\0".encode() + number.to_bytes(8, "little")
        digest = (blake3(said, key=self._keys.name) if self._keys else blake3(said)).digest(8)
        return int.from_bytes(digest, "little") >> 2

    def hide_key(self, context: str, key: bytes) -> tuple[bytes, bytes]:
        """Return a hash of a key, 16 bytes, and the key itself, encrypted if the repository is.

        Equal keys in one context give equal bytes, so that they can name an object. The hash is the nonce.
        """
        said = b"\0key\0" + context.encode() + b"\0" + key
        if self._keys is None:
            return blake3(said).digest(16), key
        digest = blake3(said, key=self._keys.name).digest(16)
        return digest, self._mask(digest, key + b"\x80" + bytes(-(len(key) + 1) % 16))

    def unhide_key(self, digest: bytes, hidden: bytes) -> bytes:
        """Undo `hide_key`. The caller must hide the key again to verify it."""
        return hidden if self._keys is None else self._mask(digest, hidden).rstrip(b"\0")[:-1]

    def _mask(self, digest: bytes, data: bytes) -> bytes:
        assert self._keys is not None
        mask = blake3(b"\0mask\0" + digest, key=self._keys.name).digest(len(data)) if data else b""
        return (int.from_bytes(data) ^ int.from_bytes(mask)).to_bytes(len(data))

    def shrink(self, data: Buffer) -> tuple[int, Buffer]:
        """Compress a chunk if that saves space. Return the codec and the bytes to store."""
        return shrink(data, self._compression)

    # --- chunks in a pack ---------------------------------------------------------------------------------

    def cipher(self, salt: bytes) -> AESGCM | None:
        """Return the cipher of the pack with the id `salt`, or None in a plain repository."""
        return AESGCM(blake3(salt, key=self._keys.seal).digest()) if self._keys else None

    def lock_chunk(self, cipher: AESGCM, number: int, chunk_id: bytes, data: Buffer) -> bytes:
        """Encrypt the `number`-th chunk of a pack."""
        return cipher.encrypt(_nonce(number), data, self._id + chunk_id)

    def unlock_chunk(self, cipher: AESGCM, number: int, chunk_id: bytes, data: Buffer, where: str) -> bytes:
        """Decrypt a chunk, or raise `DamagedObject`."""
        try:
            return cipher.decrypt(_nonce(number), data, self._id + chunk_id)
        except InvalidTag:
            raise DamagedObject(where, f"chunk {chunk_id.hex()[:16]} fails authentication") from None

    def open_chunk(
        self, chunk_id: bytes, codec: int, size: int, data: Buffer, where: str, prefix: bytes = b""
    ) -> Buffer:
        """Decompress and verify a chunk, or raise `DamagedObject`. A delta needs its joined bases as `prefix`."""
        plain = expand_delta(size, data, prefix, where) if codec == DELTA else expand(codec, size, data, where)
        if self.chunk_id(plain) != chunk_id:
            raise DamagedObject(where, f"chunk {chunk_id.hex()[:16]} does not match its hash")
        return plain

    # --- sealed objects -----------------------------------------------------------------------------------

    def seal(self, path: str, frames: Sequence[Buffer], salt: bytes | None = None) -> bytes:
        """Seal frames into the object to be stored at `path`."""
        salt = salt or os.urandom(SALT_SIZE)
        cipher = self.cipher(salt)
        parts: list[Buffer] = [_HEADER.pack(_MAGIC, _VERSION, _ENCRYPTED if cipher else 0, len(frames), salt)]
        for number, frame in enumerate(frames):
            codec, data = shrink(frame, "auto") if 512 < len(frame) <= _LARGEST_COMPRESSED else (RAW, frame)
            head = _FRAME.pack(len(data), len(frame), codec)
            bound = self._binding(path, parts[0], number, head)
            sealed = cipher.encrypt(_nonce(number), data, bound) if cipher else _tagged(data, bound)
            parts += (head, sealed)
        return b"".join(parts)

    def open(self, path: str, data: Buffer) -> list[Buffer]:
        """Verify the object read from `path` and return its frames.

        Raises:
            DamagedObject: It is truncated or altered, or was written for another path or repository.
        """
        view = memoryview(data)
        if len(view) < HEADER_SIZE:
            raise DamagedObject(path, f"it has {len(view)} bytes, fewer than its header")
        header = view[:HEADER_SIZE]
        magic, version, flags, count, salt = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise DamagedObject(path, "it does not begin like a sealed object")
        if version != _VERSION:
            # `repository.json` says which format all objects have, so this is not a newer format.
            raise DamagedObject(path, f"it has object format {version}, not {_VERSION}")
        cipher = self.cipher(salt)
        if flags != (_ENCRYPTED if cipher else 0):
            raise DamagedObject(path, "it is encrypted in a plain repository, or the other way round")
        frames: list[Buffer] = []
        position = HEADER_SIZE
        for number in range(count):
            head = view[position : position + _FRAME.size]
            if len(head) < _FRAME.size:
                raise DamagedObject(path, f"it ends before frame {number}")
            stored, size, codec = _FRAME.unpack(head)
            if size > _LARGEST_COMPRESSED and codec != RAW:
                raise DamagedObject(path, f"frame {number} states a larger size than any that is compressed")
            position += _FRAME.size
            body = view[position : position + stored + TAG_SIZE]
            if len(body) < stored + TAG_SIZE:
                raise DamagedObject(path, f"it ends within frame {number}")
            position += stored + TAG_SIZE
            bound = self._binding(path, header, number, head)
            frames.append(expand(codec, size, _verified(cipher, number, body, bound, path), path))
        if position != len(view):
            raise DamagedObject(path, f"{len(view) - position} bytes follow its last frame")
        return frames

    def _binding(self, path: str, header: Buffer, number: int, head: Buffer) -> bytes:
        return b"".join((self._id, path.encode(), b"\0%d\0" % number, header, head))


# --- compression -----------------------------------------------------------------------------------------------


def shrink(data: Buffer, compression: Compression) -> tuple[int, Buffer]:
    """Compress data if that saves space. Large data is probed first, because weights and JPEGs do not compress."""
    size = len(data)
    if compression == "none" or size < 64:
        return RAW, data
    pays = _PAYS[compression]
    if size >= 4 * _PROBE:
        middle = (size - _PROBE) // 2
        probe = memoryview(data)[middle : middle + _PROBE]
        if len(_compressor(1).compress(probe)) > pays * _PROBE:
            return RAW, data
    packed = _compressor(_LEVEL[compression]).compress(data)
    return (ZSTD, packed) if len(packed) <= pays * size else (RAW, data)


def expand(codec: int, size: int, data: Buffer, where: str) -> Buffer:
    """Undo `shrink`. Damaged input raises an error and never takes more memory than `size` bytes."""
    if codec == RAW:
        if len(data) != size:
            raise DamagedObject(where, f"{len(data)} bytes where {size} were stored")
        return data
    if codec != ZSTD:
        raise DamagedObject(where, f"unknown codec {codec}")
    return _decompress(_decompressor(), size, data, where)


def shrink_delta(data: Buffer, prefix: bytes) -> bytes:
    """Return the difference of data from a prefix."""
    size = len(prefix) + len(data)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _DELTA_LEVEL,
        source_size=size,
        window_log=max(zstandard.WINDOWLOG_MIN, size.bit_length()),
    )
    return zstandard.ZstdCompressor(dict_data=_as_prefix(prefix), compression_params=parameters).compress(data)


def expand_delta(size: int, data: Buffer, prefix: bytes, where: str) -> bytes:
    """Undo `shrink_delta`."""
    return _decompress(zstandard.ZstdDecompressor(dict_data=_as_prefix(prefix)), size, data, where)


def _as_prefix(data: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _decompress(decompressor: zstandard.ZstdDecompressor, size: int, data: Buffer, where: str) -> bytes:
    try:
        # The size in the frame must not be trusted, because a flipped bit there could require any amount of memory.
        if zstandard.frame_content_size(data) != size:
            raise DamagedObject(where, "the compressed data states another size")
        return decompressor.decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise DamagedObject(where, f"the compressed data cannot be read ({error})") from None


def _compressor(level: int) -> zstandard.ZstdCompressor:
    compressors: dict[int, zstandard.ZstdCompressor] | None = getattr(_thread, "compressors", None)
    if compressors is None:
        compressors = _thread.compressors = {}
    if level not in compressors:
        compressors[level] = zstandard.ZstdCompressor(level=level)
    return compressors[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if found is None:
        found = _thread.decompressor = zstandard.ZstdDecompressor()
    return found


# --- small pieces ----------------------------------------------------------------------------------------------


def _derive(context: str, secret: bytes) -> bytes:
    return blake3(secret, derive_key_context=context).digest()


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")


def _tag(data: Buffer, bound: bytes) -> bytes:
    return blake3(b"%d\0%b" % (len(bound), bound)).update(data).digest(TAG_SIZE)


def _tagged(data: Buffer, bound: bytes) -> bytes:
    return bytes(data) + _tag(data, bound)


def _verified(cipher: AESGCM | None, number: int, body: memoryview, bound: bytes, path: str) -> Buffer:
    if cipher is not None:
        try:
            return cipher.decrypt(_nonce(number), body, bound)
        except InvalidTag:
            raise DamagedObject(path, f"frame {number} fails authentication") from None
    if _tag(body[:-TAG_SIZE], bound) != body[-TAG_SIZE:]:
        raise DamagedObject(path, f"frame {number} does not match its checksum")
    return body[:-TAG_SIZE]
