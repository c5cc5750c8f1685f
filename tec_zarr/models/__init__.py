"""The models. Everything that needs torch is in here; `tec_zarr.codec` opens the door late."""
