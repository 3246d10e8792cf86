"""A data set that needs no download: drawn street scenes with exact masks."""

from offseg_hf.data.scenes.scenes import SCENE_LABELS, SCENE_PALETTE, draw_scene, write_scenes

__all__ = ["SCENE_LABELS", "SCENE_PALETTE", "draw_scene", "write_scenes"]
