import pytest
from input_pipeline import main


def test_pipeline_is_compared_with_decoding_and_one_resize(capsys, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # of this process, in which other tests run
    arguments = ["--num_examples", "2", "--num_rounds", "3", "--crop_size", "64", "64", "--resize", "128", "96"]
    ratio = main([*arguments, "--examples_per_second", "1e-9"])
    assert ratio > 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("input pipeline: ") and printed[2].endswith("in 3 rounds)")
    assert printed[2].startswith(f"ratio: {ratio:.2f} (")
    assert printed[3] == "for 1e-09 examples a second: 1 workers"


def test_pipeline_reads_a_dataset(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["--dataset", str(tmp_path / "none")])
