"""Folders of image files → Parquet shards, for streaming and for the Hub."""

from offseg_hf.data.preparation.prepare import check_redistribution, prepare_dataset, prepared_files

__all__ = ["check_redistribution", "prepare_dataset", "prepared_files"]
