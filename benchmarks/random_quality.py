"""Feed the streams of funrl.random to dieharder, and keep its table.

    apt-get install dieharder
    python benchmarks/random_quality.py                                        # all three streams, all tests: hours
    python benchmarks/random_quality.py --streams bits --arguments "-d 0"      # one test of one stream: seconds

A stream is the 64-bit words, as 8 bytes each, that a program would see in one of three uses of a key: ``bits`` (the words of one key),
``split`` (the siblings of one key, each taken for a word), ``fold_in`` (the keys of one key and the numbers 0, 1, 2, ...).
Dieharder (R. G. Brown, Debian's package) calls an assessment WEAK where its p-value lies within 0.005 of 0 or 1, so one in a hundred is
WEAK by chance, and FAILED within 0.000001. The exit code is 1 if any FAILED.
"""

import argparse
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import torch

from funrl import random
from funrl.random import _splitmix

CHUNK = 1 << 20
STREAMS = {
    "bits": (lambda key: random.bits(key, (CHUNK,)), _splitmix.BITS),
    "split": (lambda key: random.split(key, CHUNK), _splitmix.SPLIT),
    "fold_in": (lambda key: torch.func.vmap(lambda i: random.fold_in(key, i))(torch.arange(CHUNK)), _splitmix.FOLD),
}


def words(stream: str, key: torch.Tensor):
    """Yield chunks [CHUNK] of the words 0, 1, 2, ... of a stream; the first is what the public function returns."""
    first, domain = STREAMS[stream]
    chunk = torch.compile(lambda start: _splitmix.output(key, torch.arange(CHUNK) + start, domain), fullgraph=True)
    if not torch.equal(chunk(torch.tensor(0)), first(key)):
        raise RuntimeError(f"random_quality: the stream {stream} is not what funrl.random.{stream} returns")
    start = 0
    while True:
        yield chunk(torch.tensor(start))
        start += CHUNK


def run(stream: str, key: torch.Tensor, arguments: list[str], out: Path) -> Counter:
    """Feed one stream to dieharder, append its lines to ``out`` as they come, and count the assessments."""
    counts: Counter = Counter()
    begin = time.time()
    process = subprocess.Popen(["dieharder", "-g", "200", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def collect():
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            counts.update(word for word in ("PASSED", "WEAK", "FAILED") if text.endswith(word))
            emit(text, out)

    reader = threading.Thread(target=collect)
    reader.start()
    fed = 0
    try:
        for chunk in words(stream, key):
            data = memoryview(chunk.numpy()).cast("B")
            while data:
                n = process.stdin.write(data)
                fed, data = fed + n, data[n:]
    except BrokenPipeError:
        pass
    reader.join()
    if process.wait() or not counts:
        raise RuntimeError(f"random_quality: dieharder ended with code {process.returncode} and {sum(counts.values())} assessments")
    total = sum(counts.values())
    emit(
        f"# {stream}: {counts['PASSED']} passed, {counts['WEAK']} weak ({total / 100:.1f} expected by chance), {counts['FAILED']} failed; "
        f"{fed / 1e9:.1f} GB, {time.time() - begin:.0f} s",
        out,
    )
    return counts


def emit(text: str, out: Path) -> None:
    print(text, flush=True)
    with out.open("a") as file:
        file.write(text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arguments", default="-a", help='what dieharder gets beside the generator, such as "-a" or "-d 0"')
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "random_quality.txt")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("")
    failed = 0
    for stream in options.streams:
        emit(
            f"# funrl.random, stream {stream} of key({options.seed}); dieharder -g 200 {options.arguments}; torch {torch.__version__}",
            options.out,
        )
        failed += run(stream, random.key(options.seed), shlex.split(options.arguments), options.out)["FAILED"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
