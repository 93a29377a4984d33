"""Scenes of Gaofen-1's wide-field camera with masks of clouds and shadows, from GeoTIFF files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from drmad_jax.experiments.data.clouds import NO_VALUE
from drmad_jax.experiments.data.datasets import Images, Splits, explained
from drmad_jax.experiments.errors import DatasetError

MASK_SUFFIX = "_ReferenceMask"
# The values of GF1_WHU's masks (Li et al. 2017): 0 no value, 1 clear, 128 shadow, 255 cloud.
_LABELS = {1: 0, 128: 1, 255: 2}
_NUM_BANDS = 4
# Counts are taken for those of 10 bits.
_WHITE = 1023.0


def load_splits(folder: Path, size: int, *, num_train: int, num_test: int) -> Splits:
    """Cuts patches out of scenes; the last fifth of the scenes is for testing alone.

    A scene is a file NAME.tif or NAME.tiff with the bands blue, green, red and near infrared as
    counts from 0 to 1023, its mask NAME_ReferenceMask.tif with the values of GF1_WHU, the public
    validation set of Li et al. (2017), "Multi-feature combined cloud and cloud shadow detection in
    GaoFen-1 wide field of view imagery": 0 no value, 1 clear, 128 cloud shadow, 255 cloud.

    Args:
        folder: The folder of scenes and masks.
        size: Pixels along each side of a patch.
        num_train: Patches to train and validate on, evenly from their scenes.
        num_test: Patches to test with, likewise.

    Returns:
        Both splits; counts divided by 1023.

    Raises:
        DatasetError: If files are missing or of another kind, or hold fewer patches.
    """
    scenes = sorted(p for p in folder.glob("*.tif*") if not p.stem.endswith(MASK_SUFFIX))
    if len(scenes) < 2:
        raise DatasetError(
            f"data.folder: expected at least 2 scenes NAME.tif in {folder}, found {len(scenes)}"
        )
    num_testing = max(1, len(scenes) // 5)
    return Splits(
        _load_patches(scenes[:-num_testing], size, num_train),
        _load_patches(scenes[-num_testing:], size, num_test),
    )


def _load_patches(scenes: Sequence[Path], size: int, count: int) -> Images:
    """As many patches from each scene, but for a remainder."""
    found = []
    for index, scene in enumerate(scenes):
        mend = "take it and its mask out of the folder, or put whole ones there"
        with explained(f"cannot read {scene} and its mask", mend):
            found += _patches(scene, size, (count - len(found)) // (len(scenes) - index))
    if len(found) < count:
        raise DatasetError(
            f"{scenes[0].parent}: {count} patches of {size} pixels asked for, {len(found)} there"
        )
    return Images(*map(np.stack, zip(*found, strict=True)))


def _patches(scene: Path, size: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Patches of one scene from places that do not overlap, each with some value in it."""
    try:
        import rasterio  # pyright: ignore[reportMissingImports]
        import rasterio.windows  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DatasetError(
            'reading GeoTIFF files needs rasterio:\n    pip install "drmad_jax[geotiff]"'
        ) from error
    mask_path = next(iter(sorted(scene.parent.glob(f"{scene.stem}{MASK_SUFFIX}.tif*"))), None)
    if mask_path is None:
        raise DatasetError(f"{scene}: expected its mask beside it, {scene.stem}{MASK_SUFFIX}.tif")
    with rasterio.open(scene) as source, rasterio.open(mask_path) as mask:
        if source.count != _NUM_BANDS or source.shape != mask.shape:
            raise DatasetError(
                f"{scene}: expected {_NUM_BANDS} bands and a mask of the same size, got "
                f"{source.count} bands of {source.shape} and a mask of {mask.shape}"
            )
        rows, columns = (n // size for n in source.shape)
        order = np.random.default_rng(0).permutation(rows * columns)
        for place in order:
            if count == 0:
                return
            row, column = divmod(int(place), columns)
            window = rasterio.windows.Window(column * size, row * size, size, size)  # pyright: ignore
            label = _to_labels(mask.read(1, window=window), mask_path)
            if (label != NO_VALUE).any():
                image = source.read(window=window).astype(np.float32) / _WHITE
                yield np.moveaxis(image, 0, -1), label
                count -= 1


def _to_labels(values: np.ndarray, path: Path) -> np.ndarray:
    unknown = set(np.unique(values).tolist()) - {0, *_LABELS}
    if unknown:
        raise DatasetError(f"{path}: expected the values 0, 1, 128 and 255, got {sorted(unknown)}")
    labels = np.full(values.shape, NO_VALUE, np.int32)
    for value, label in _LABELS.items():
        labels[values == value] = label
    return labels
