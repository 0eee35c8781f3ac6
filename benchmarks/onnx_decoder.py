"""Could an ONNX export decode photos itself, by onnxruntime-extensions? What its decoder does.

    pip install onnxruntime-extensions
    HEADSTART_TEST_PHOTOS=... python benchmarks/onnx_decoder.py

Each kind of file is given to the operator DecodeImage in a process of its own, which may end or
hang, and its pixels are compared with Pillow's, before any turning.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import photos as photo_sets
from measure import make_parser, save_rows
from PIL import Image

SECONDS = 30


def draw_files() -> Iterator[tuple[str, bytes]]:
    """Names and bytes of one photo in every kind of file."""
    paths = sorted((photo_sets.data_root() / "clothing" / "test").glob("*/*"))
    with Image.open(paths[0]) as opened:
        photo = opened.convert("RGB").resize((320, 240))

    def dump(kind: str, mode: str = "RGB", **settings: object) -> bytes:
        stream = io.BytesIO()
        photo.convert(mode).save(stream, kind, **settings)
        return stream.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = dump("JPEG")
    broken = bytearray(jpeg)
    broken[30:90] = bytes(60)
    yield "JPEG", jpeg
    yield "JPEG, progressive", dump("JPEG", progressive=True)
    yield "JPEG, EXIF orientation 6", dump("JPEG", exif=turned)
    yield "JPEG, grey", dump("JPEG", "L")
    yield "JPEG, CMYK", dump("JPEG", "CMYK")
    yield "JPEG, cut in the middle", jpeg[: len(jpeg) // 2]
    yield "JPEG, 60 bytes of its header zeroed", bytes(broken)
    yield "PNG", dump("PNG")
    yield "PNG, cut in the middle", dump("PNG")[:9999]
    for kind in ("WEBP", "GIF", "BMP", "TIFF"):
        yield kind, dump(kind)
    yield "text", b"This is no photo at all."


def decode(path: Path) -> None:
    """In a process of its own: print what became of a file."""
    import onnxruntime
    from onnx import TensorProto, helper
    from onnxruntime_extensions import get_library_path

    domain, kind = "com.microsoft.extensions", TensorProto.UINT8
    node = helper.make_node("DecodeImage", ["data"], ["image"], domain=domain, color_space="rgb")
    data = helper.make_tensor_value_info("data", kind, ["byte"])
    image = helper.make_tensor_value_info("image", kind, ["height", "width", "channel"])
    sets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph([node], "decoder", [data], [image])
    model = helper.make_model(graph, opset_imports=sets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(get_library_path())
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    content = path.read_bytes()
    try:
        (found,) = session.run(None, {"data": np.frombuffer(content, np.uint8)})
    except Exception:  # onnxruntime's errors share no base but Exception
        print("an error that can be caught")
        return
    if found.shape[2] == 4:
        print("pixels of four channels, which are no RGB")
        return
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    gaps = abs(found - expected)  # a grey photo has one channel
    channels = "one channel" if found.shape[2] == 1 else "RGB"
    print(f"{channels}, at most {gaps.max()} of 255 from Pillow's, {gaps.mean():.2f} on average")


def judge(content: bytes) -> str:
    """What became of a file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        command = [sys.executable, __file__, "--decode", file.name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"does not return (ended after {SECONDS} s)"
    if done.stdout.strip():
        return done.stdout.strip()
    last = next((line for line in done.stderr.splitlines() if "JPEG" in line or "able" in line), "")
    return f"ends the process with {done.returncode} ({last})"


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], has_repeats=False)
    parser.add_argument("--decode", type=Path, help="used by the script itself")
    options = parser.parse_args()
    if options.decode:
        decode(options.decode)
        return
    from importlib.metadata import version

    release = version("onnxruntime-extensions")
    rows = [
        {"onnxruntime-extensions": release, "file": name, "what happens": judge(content)}
        for name, content in draw_files()
    ]
    save_rows("onnx_decoder", rows, options)


if __name__ == "__main__":
    main()
