"""Omniglot (Lake et al. 2015): thirty alphabets, each character drawn by twenty people."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from drmad_jax.experiments.data import datasets
from drmad_jax.experiments.errors import DatasetError
from drmad_jax.experiments.files import read_arrays

# The background set by the numbers of its files, with the characters of each alphabet.
ALPHABETS = {
    "Arcadian": 26, "Armenian": 41, "Asomtavruli_(Georgian)": 40, "Balinese": 24, "Bengali": 46,
    "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14, "Braille": 26, "Cyrillic": 33,
    "Early_Aramaic": 22, "Syriac_(Estrangelo)": 23, "Anglo-Saxon_Futhorc": 29, "Futurama": 26,
    "Grantha": 43, "Greek": 24, "Gujarati": 48, "Hebrew": 22, "Japanese_(hiragana)": 52,
    "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16, "Malay_(Jawi_-_Arabic)": 40,
    "Japanese_(katakana)": 47, "Korean": 40, "Latin": 26, "Alphabet_of_the_Magi": 20,
    "Mkhedruli_(Georgian)": 41, "Burmese_(Myanmar)": 34, "N_Ko": 33,
    "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14, "Sanskrit": 42, "Tagalog": 17, "Tifinagh": 55,
}  # fmt: skip
NUM_DRAWINGS = 20
IMAGE_SIZE = 105
_FILE = "omniglot_bool105.npz"

# Share of each pixel that is ink.
Drawings = Float32[np.ndarray, "characters drawings h w"]


def load_alphabets(names: tuple[str, ...], image_size: int) -> list[Drawings]:
    """Every drawing of some alphabets.

    They are read from `omniglot_bool105.npz` in OMNIGLOT_DIR if that is set, and else as
    `drmad-jax prepare omniglot` leaves them.

    Args:
        names: Keys of `ALPHABETS`.
        image_size: Pixels along each side, to which the 105 are averaged.

    Returns:
        One array for each alphabet, in the order of `names`.

    Raises:
        DatasetError: If the data is not there, or not what it should be.
    """
    ink = _load()
    ends = dict(zip(ALPHABETS, np.cumsum(list(ALPHABETS.values())), strict=True))
    return [average(ink[ends[name] - ALPHABETS[name] : ends[name]], image_size) for name in names]


def average(images: Bool[np.ndarray, "*n h w"], size: int) -> Float32[np.ndarray, "*n s s"]:
    """Images of fewer pixels, each the mean over its area of the old ones.

    Args:
        images: Square images.
        size: Pixels along each side.

    Returns:
        The smaller images.

    Example:
        >>> import numpy as np
        >>> from drmad_jax.experiments.data.omniglot import average
        >>> [round(float(share), 3) for share in average(np.eye(3, dtype=bool), 2)[0]]
        [0.556, 0.111]
    """
    before = images.shape[-1]
    edges, pixels = np.linspace(0, before, size + 1)[:, None], np.arange(before)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    weights = (np.maximum(overlap, 0) * size / before).astype(np.float32)
    return weights @ images.astype(np.float32) @ weights.T


def _load() -> Bool[np.ndarray, "964 20 105 105"]:
    """Where there is ink, character by character."""
    folder = os.environ.get("OMNIGLOT_DIR")
    ink = _read_archive(Path(folder).expanduser() / _FILE) if folder else _read_prepared()
    shape = (sum(ALPHABETS.values()), NUM_DRAWINGS, IMAGE_SIZE, IMAGE_SIZE)
    if ink.shape != shape:
        raise DatasetError(f"omniglot: expected an array of shape {shape}, found {ink.shape}")
    return ink


def _read_archive(path: Path) -> Bool[np.ndarray, "characters 20 h w"]:
    mend = "unset it, and run\n    drmad-jax prepare omniglot"
    with datasets.explained(f"cannot read {path}, where OMNIGLOT_DIR points", mend):
        paper = read_arrays(path)["background"]
        if paper.dtype != bool:
            raise ValueError(f"expected an array of booleans, found {paper.dtype}")
        return ~paper


def _read_prepared() -> Bool[np.ndarray, "characters 20 h w"]:
    """TFDS shuffles; its labels are the numbers of the files."""
    source = datasets.open_source("omniglot", "train")
    mend = "prepare it again:\n    drmad-jax prepare omniglot"
    with datasets.explained(f"cannot read omniglot in {datasets.data_dir()}", mend):
        examples = sorted((source[i] for i in range(len(source))), key=lambda each: each["label"])
        ink = np.stack([example["image"][..., 0] < 128 for example in examples])
        return ink.reshape(-1, NUM_DRAWINGS, *ink.shape[1:])
