import pytest

from offseg_hf import VARIANTS
from offseg_hf.commands.variants import main


def test_table_has_counted_and_published_figures(tmp_path, capsys):
    assert main(["offseg-segnext-t", "segformer-b0", "--output", str(tmp_path / "results" / "variants.md")]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed]
    assert rows[2] == [
        "offseg-segnext-t", "4,394,636", "6.4", "7.2", "47.3", "43.0", "80.0", "40.0", "53.2", "arXiv 2209.08575",
    ]  # fmt: skip
    assert rows[3] == ["segformer-b0", "3,752,694", "8.4", "8.4", "", "37.4", "", "35.6", "", "arXiv 2105.15203"]
    text = (tmp_path / "results" / "variants.md").read_text(encoding="utf-8")
    assert "\n".join(printed) in text
    assert "Element-wise work is not counted" in text


def test_list_variants_stops_before_counting_when_the_file_is_there(tmp_path, capsys):
    (tmp_path / "variants.md").write_text("mine")
    assert main(["--output", str(tmp_path / "variants.md")]) == 2
    assert "`--output` must be a new file" in capsys.readouterr().err
    assert (tmp_path / "variants.md").read_text() == "mine"


def test_list_variants_replaces_the_file_when_told(tmp_path):
    (tmp_path / "variants.md").write_text("mine")
    assert main(["segformer-b0", "--output", str(tmp_path / "variants.md"), "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["variants.md"]
    assert (tmp_path / "variants.md").read_text(encoding="utf-8").startswith("# Variants")


def test_list_variants_stops_when_a_name_is_unknown(capsys):
    assert main(["offseg-b6"]) == 2
    assert "`variant` must be one of offseg-b0, offseg-b1," in capsys.readouterr().err


@pytest.mark.slow
def test_table_has_all_variants(capsys):
    assert main([]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == list(VARIANTS)
