import numpy as np
import rasterize
from rasterize import drawn_outlines, main


def test_outlines_are_of_the_sizes_of_coco():
    outlines = drawn_outlines(200)
    sizes = np.array([np.ptp(outline, axis=0) for outline in outlines])
    assert min(map(len, outlines)) >= 10 and max(map(len, outlines)) <= 200
    assert sizes.max() <= 300 and (np.concatenate(outlines) >= 0).all()


def test_speed_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(rasterize.importlib.util, "find_spec", lambda name: None)  # it may not be installed
    speed = main(["--num_objects", "5", "--num_rounds", "2"])
    assert capsys.readouterr().out.endswith(f" an object, {speed:.0f} a second and core\n")
