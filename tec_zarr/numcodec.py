"""The numcodecs adapter (Zarr format 2) of `tec_zarr.codec`. It translates; it decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray, ensure_ndarray, ndarray_copy

from tec_zarr.codec import decode_chunk, encode_chunk
from tec_zarr.config import TecConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    AnyBuffer = Any  # whatever numcodecs hands over


@dataclass(frozen=True, kw_only=True)
class TEC(TecConfig, Codec):  # type: ignore[misc] # numcodecs has no types
    """Learned compression of satellite images; the options are those of `TecConfig`.

    Give it as a compressor, to `xr.Dataset.to_zarr` or to `zarr.create_array(zarr_format=2)`.
    Filters before it must keep the shape of the chunks, which most of numcodecs' do not.

    >>> TEC(quality=40)
    TEC(model='tec-fp-s2l2a', quality=40.0, nodata=0, bands=None, scale=1.0, offset=0.0, tile=256, \
measure=False)
    """

    codec_id = "tec_zarr"

    def encode(self, buf: AnyBuffer) -> bytes:
        """Encode an array of shape (..., band, y, x); a `TecError` says what is wrong with it."""
        return encode_chunk(ensure_ndarray(buf), self)

    def decode(self, buf: AnyBuffer, out: AnyBuffer = None) -> AnyBuffer:
        """Decode a chunk into an array like the one encoded, and into `out` if that is given."""
        return ndarray_copy(decode_chunk(ensure_contiguous_ndarray(buf), self.at_most), out)

    def get_config(self) -> dict[str, Any]:
        """All options and the codec's id, as plain JSON."""
        return {"id": self.codec_id, **self.to_dict()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the codec from metadata of this or any other release; see `TecConfig.from_dict`."""
        return cls.from_dict({key: value for key, value in config.items() if key != "id"})
