import pytest
import torch

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor
from offseg_hf.commands.export import main
from offseg_hf.models.label_map import upsampled_label_map

pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 2, 2)}
    model = OffSegForSemanticSegmentation(OffSegConfig(**sizes, decoder_hidden_size=16, num_labels=4)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path / "model")
    OffSegImageProcessor().save_pretrained(tmp_path / "model")
    return model


@pytest.mark.slow
def test_label_map_is_that_of_the_upsampled_logits(model, tmp_path, capsys):
    assert main(["--model", f"{tmp_path}/model", "--output", f"{tmp_path}/new", "--task", "label_map"]) == 0
    assert (
        "new/onnx/model.onnx: " in (printed := capsys.readouterr().out) and "differs from torch by at most" in printed
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "new/onnx/model.onnx"), providers=["CPUExecutionProvider"])
    pixel_values = torch.randn(2, 3, 60, 90, generator=torch.Generator().manual_seed(1))
    (label_map,) = session.run(["label_map"], {"pixel_values": pixel_values.numpy()})
    with torch.no_grad():
        expected = upsampled_label_map(model(pixel_values).logits, (60, 90))
    assert len(expected.unique()) > 1
    assert (torch.from_numpy(label_map) == expected).float().mean() > 0.999  # a tie may go either way


def test_a_wrong_argument_is_one_sentence(model, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--model", f"{tmp_path}/model", "--output", str(tmp_path)]) == 2
    assert f"error: `--output` must be a new or empty folder, got {tmp_path}; name another." in capsys.readouterr().err
