"""Whole stores: compress, decompress, describe and verify them. No command line in here."""

from tec_zarr.archive.check import ArrayReport, Problem, Report, verify
from tec_zarr.archive.describe import ArrayInfo, ChunkInfo, StoreInfo, info
from tec_zarr.archive.transcode import compress, decompress

__all__ = [
    "ArrayInfo",
    "ArrayReport",
    "ChunkInfo",
    "Problem",
    "Report",
    "StoreInfo",
    "compress",
    "decompress",
    "info",
    "verify",
]
