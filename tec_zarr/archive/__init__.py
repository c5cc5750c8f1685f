"""Whole stores: compress, decompress, describe and verify them. No command line in here."""

from tec_zarr.archive.check import ArrayReport, Problem, Report, verify
from tec_zarr.archive.describe import ArrayInfo, CarriedInfo, ChunkInfo, StoreInfo, info
from tec_zarr.archive.models import add_models
from tec_zarr.archive.transcode import compress, decompress

__all__ = [
    "ArrayInfo",
    "ArrayReport",
    "CarriedInfo",
    "ChunkInfo",
    "Problem",
    "Report",
    "StoreInfo",
    "add_models",
    "compress",
    "decompress",
    "info",
    "verify",
]
