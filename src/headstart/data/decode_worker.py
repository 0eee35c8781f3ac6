"""A decoding process: paths or bytes in, pixels or reasons out.

It is started as a plain child of the interpreter, not by `multiprocessing`, whose spawned children
run the caller's main script again. It may be killed at any moment: it holds nothing.

Messages are a kind byte, a length (8 bytes, little-endian) and that many bytes.
Requests: ``p`` a path, ``b`` the bytes of an image file, ``d`` the sha256 that a file's bytes must
have (in hexadecimal) and its path. Answers: ``o`` pixels; ``f`` pixels, after a line that says why
the photo may be corrupt; ``e`` a reason. Where the system has memory that two processes can share
without a name (`open_shared`), the pixels of an answer lie there and not in the message: through a
pipe, 150 kB cost a third of what decoding them does.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import IO

HEADER = struct.Struct("<cQ")

# Address space of a worker: far above what the largest allowed photo needs, far below a bomb.
MEMORY_BYTES = 6 * 2**30


def write_message(stream: IO[bytes], kind: bytes, data: bytes | memoryview) -> None:
    """Send one message."""
    stream.write(HEADER.pack(kind, len(data)))
    stream.write(data)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[bytes, bytes] | None:
    """Receive one message; None at the end, also when it ends within a message."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, length = HEADER.unpack(header)
    data = stream.read(length)
    return (kind, data) if len(data) == length else None


def open_shared(image_size: int) -> int | None:
    """A file descriptor of memory for one photo's pixels; None where there is no such thing."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        shared = os.memfd_create("headstart pixels")
        os.posix_fallocate(shared, 0, image_size**2 * 3)  # or a write to it could be fatal later
    except OSError:
        return None
    return shared


def serve(
    requests: IO[bytes],
    answers: IO[bytes],
    image_size: int,
    network_size: int | None,
    shared: mmap.mmap | None,
) -> None:
    """Answer requests until there are no more."""
    from headstart.data.decode import decode_checked
    from headstart.errors import UnreadablePhotoError
    from headstart.files import digest_bytes

    while (message := read_message(requests)) is not None:
        kind, data = message
        try:
            digest, data = (data[:64], data[64:]) if kind == b"d" else (b"", data)
            content = data if kind == b"b" else Path(os.fsdecode(data)).read_bytes()
            if digest and digest_bytes(content) != digest.decode():
                raise UnreadablePhotoError("changed while running; run again")
            pixels, damage = decode_checked(content, image_size, network_size=network_size)
            kind, line = (b"f", f"{damage}\n".encode()) if damage else (b"o", b"")
            if shared is None:
                line += pixels.tobytes()
            else:
                shared[:] = pixels.data.cast("B")
            write_message(answers, kind, line)
        except UnreadablePhotoError as error:
            write_message(answers, b"e", str(error).encode(errors="replace"))
        except MemoryError:
            write_message(answers, b"e", b"needs more memory than a photo may take")
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            write_message(answers, b"e", reason.encode(errors="replace"))


def limit_memory() -> None:
    """Cap the address space, where the system can (Windows and macOS cannot)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        cap = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (cap, hard))


def main() -> None:
    """Entry point of the child; its argument is JSON: image size, network size, shared memory."""
    limit_memory()
    # Ctrl-C reaches the whole process group; the parent decides when a worker ends.
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = io.BufferedWriter(io.FileIO(os.dup(1), "w"), 2**20)
    # Whatever prints to stdout in here must not end among the answers.
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        image_size, network_size, shared = json.loads(sys.argv[-1])
        memory = mmap.mmap(shared, image_size**2 * 3) if shared is not None else None
        serve(sys.stdin.buffer, answers, image_size, network_size, memory)
