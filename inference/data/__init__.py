"""Images: data sets by name, batches, augmentation and checks."""

from .augment import AUGMENTATIONS
from .checks import check_data
from .images import ImageData, Images, MemoryImages
from .loading import loader
from .sources import data_names, load_data

__all__ = [
    "AUGMENTATIONS",
    "ImageData",
    "Images",
    "MemoryImages",
    "check_data",
    "data_names",
    "load_data",
    "loader",
]
