"""Training that starts from an encoder, as a person runs it, and what its record and its card tell of the encoder."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoImageProcessor,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2Model,
)
from transformers.utils import is_timm_available

from offseg_hf import OffSegBackboneForSemanticSegmentation
from offseg_hf.commands.main import main as offseg
from offseg_hf.data.scenes.scenes import SCENE_LABELS, draw_scene
from offseg_hf.publishing.repository import write_repository

MEAN, STD = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
TINY = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16]}


def save_encoder(folder, readme=None, **fields):
    torch.manual_seed(0)
    ConvNextModel(ConvNextConfig(**TINY, **fields)).save_pretrained(folder)
    ConvNextImageProcessorPil(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    if readme is not None:
        (folder / "README.md").write_text(f"---\n{readme}\n---\n")
    return folder


def arguments(scenes, output, *more):
    return [
        "train", "--dataset", str(scenes), "--labels", ",".join(SCENE_LABELS), "--output_dir", str(output),
        "--max_steps", "2", "--warmup_steps", "1", "--per_device_train_batch_size", "2", "--crop_size", "64", "64",
        "--resize", "96", "64", "--use_cpu", "--disable_tqdm", "True", *more,
    ]  # fmt: skip


def trained(scenes, output, *more):
    assert offseg(arguments(scenes, output, "--eval_split", "none", *more)) == 0
    return json.loads((output / "training.json").read_text())


def card_of(model, tmp_path):
    write_repository(model, tmp_path / "repository", "org/model")
    return ModelCard.load(tmp_path / "repository" / "README.md")


def test_model_is_trained_on_an_encoder_measured_and_predicts_by_its_folder_alone(scenes, tmp_path):
    encoder, model = save_encoder(tmp_path / "encoder"), tmp_path / "model"
    assert offseg(arguments(scenes, model, "--backbone", str(encoder), "--decoder_hidden_size", "16")) == 0
    assert offseg(["evaluate", "--model", str(model), "--dataset", str(scenes)]) == 0
    measured = json.loads((model / "evaluation-validation.json").read_text())["mean_iou"]
    assert measured == pytest.approx(json.loads((model / "eval_results.json").read_text())["eval_mean_iou"])
    photo = tmp_path / "photo.jpg"
    draw_scene(0, (64, 96))[0].save(photo)
    segmented = tmp_path / "segmented"
    assert offseg(["predict", "--model", str(model), "--input", str(photo), "--output", str(segmented)]) == 0
    assert [*AutoImageProcessor.from_pretrained(model).image_mean] == MEAN
    assert OffSegBackboneForSemanticSegmentation.from_pretrained(model).config.decoder_hidden_size == 16


def test_record_and_card_tell_the_licence_that_the_configuration_states(scenes, tmp_path):
    stated = {"weights_license": "mit", "weights_source": "a package of the name one"}
    encoder = save_encoder(tmp_path / "encoder", readme="license: apache-2.0", **stated)
    more = ["--backbone", str(encoder), "--decoder_hidden_size", "16", "--layer_decay", "0.5"]
    record = trained(scenes, tmp_path / "model", *more)
    name = {"name": "encoder", "is_hub_id": False}
    assert record["encoder"] == {**name, "license": "mit", "source": "a package of the name one"}
    assert (record["origin"], record["layer_decay"], record["freeze_backbone"]) == (None, 0.5, False)
    card = card_of(tmp_path / "model", tmp_path)
    started = "Trained from the encoder `encoder` (a package of the name one), with a head whose weights were random,"
    assert f"{started} on scenes, split `train`." in card.text and str(tmp_path) not in card.content
    derived = "- The weights of the encoder `encoder` (a package of the name one), from which these derive: `mit`."
    assert derived in card.text and card.data.base_model is None
    assert "the encoder's rate falls by the factor 0.5 with each block" in card.text
    assert "transformers' `convnext` with [offset learning]" in card.text


@pytest.mark.parametrize(
    ("readme", "license"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license: other\nlicense_name: dinov3-license", "dinov3-license"),
        ("tags:\n- vision", None),
        ("license: [", None),
        (None, None),
    ],
)
def test_licence_is_read_from_the_front_matter_of_the_readme(scenes, tmp_path, readme, license):
    encoder = save_encoder(tmp_path / "encoder", readme)
    record = trained(scenes, tmp_path / "model", "--backbone", str(encoder), "--freeze_backbone")
    assert record["encoder"] == {"name": "encoder", "is_hub_id": False, "license": license, "source": None}
    card = card_of(tmp_path / "model", tmp_path)
    assert f"derive: `{license}`." in card.text or license is None
    assert ("it is not known under which licence they are; find out" in card.text) == (license is None)
    assert "0.0006 for the head; the encoder stays as it was" in card.text and "for the encoder," not in card.text
    assert "None" not in card.content


def test_encoder_on_the_hub_is_the_base_model(hub, scenes, tmp_path):
    encoder = save_encoder(tmp_path / "encoder", "license: cc-by-4.0")
    hub.create("org/encoder", files={file.name: file.read_bytes() for file in encoder.iterdir()})
    record = trained(scenes, tmp_path / "model", "--backbone", "org/encoder", "--decoder_hidden_size", "16")
    name = {"name": "org/encoder", "is_hub_id": True}
    assert record["encoder"] == {**name, "license": "cc-by-4.0", "source": None}
    assert record["origin"] == "org/encoder"
    assert [*AutoImageProcessor.from_pretrained(tmp_path / "model").image_mean] == MEAN
    card = card_of(tmp_path / "model", tmp_path)
    assert card.data.base_model == "org/encoder"
    assert "Trained from the encoder [org/encoder](https://huggingface.co/org/encoder), with a head" in card.text


@pytest.mark.parametrize(
    ("name", "license"),
    [
        ("facebook/convnextv2-tiny-22k-224", "cc-by-nc-4.0"),
        ("facebook/dinov3-convnext-tiny-pretrain-lvd1689m", "dinov3-license"),
        ("google/mobilenet_v2_1.0_224", "other"),
    ],
)
def test_licence_is_the_authors_where_the_page_states_a_freer_one(hub, scenes, tmp_path, name, license):
    encoder = save_encoder(tmp_path / "encoder", "license: apache-2.0")
    hub.create(name, files={file.name: file.read_bytes() for file in encoder.iterdir()})
    record = trained(scenes, tmp_path / "model", "--backbone", name, "--decoder_hidden_size", "16")
    assert record["encoder"]["license"] == license
    card = card_of(tmp_path / "model", tmp_path)
    assert f"derive: `{license}`." in card.text and card.data.license in (license, "other")


@pytest.mark.parametrize(
    ("stated", "license"), [("apache-2.0", None), ("mit", None), ("cc-by-nc-4.0", "cc-by-nc-4.0")]
)
def test_free_licence_is_not_believed_of_a_network_whose_weights_are_not_free(scenes, tmp_path, stated, license):
    encoder = save_encoder(tmp_path / "copy", f"license: {stated}")
    ConvNextV2Model(ConvNextV2Config(**TINY)).save_pretrained(encoder)
    record = trained(scenes, tmp_path / "model", "--backbone", str(encoder), "--decoder_hidden_size", "16")
    assert record["encoder"] == {"name": "copy", "is_hub_id": False, "license": license, "source": None}
    card = card_of(tmp_path / "model", tmp_path)
    assert ("it is not known under which licence they are" in card.text) == (license is None)
    assert card.data.license == license


def test_licence_that_the_configuration_states_is_believed_of_such_a_network(scenes, tmp_path):
    encoder = save_encoder(tmp_path / "mine", "license: apache-2.0")
    ConvNextV2Model(ConvNextV2Config(**TINY, weights_license="mit")).save_pretrained(encoder)
    record = trained(scenes, tmp_path / "model", "--backbone", str(encoder), "--decoder_hidden_size", "16")
    assert record["encoder"]["license"] == "mit"


@pytest.mark.skipif(not is_timm_available(), reason="timm is not installed")
def test_encoder_of_timm_on_the_hub(hub, scenes, tmp_path):
    from test_backbone_timm import save_timm_encoder

    save_timm_encoder(tmp_path / "encoder", "test_resnet")
    hub.create(
        "timm/test_resnet.r160_in1k",
        files={name: (tmp_path / "encoder" / name).read_bytes() for name in ("config.json", "model.safetensors")},
    )
    more = ["--backbone", "timm/test_resnet.r160_in1k", "--decoder_hidden_size", "16", "--layer_decay", "0.5"]
    record = trained(scenes, tmp_path / "model", *more)
    assert (record["origin"], record["encoder"]["license"]) == ("timm/test_resnet.r160_in1k", "cc-by-4.0")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert ([*processor.image_mean], [*processor.image_std]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    card = card_of(tmp_path / "model", tmp_path)
    assert "timm's `test_resnet` with [offset learning]" in card.text
    assert "They need torch, transformers, timm and Pillow." in card.text
    assert offseg(["evaluate", "--model", str(tmp_path / "model"), "--dataset", str(scenes)]) == 0


@pytest.mark.skipif(is_timm_available(), reason="timm is installed")
def test_error_when_the_encoder_is_timms_and_it_is_not_installed(hub, scenes, tmp_path, capsys):
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"license": "apache-2.0"}}
    hub.create("timm/resnet18.a1_in1k", files={"config.json": json.dumps(config).encode()})
    assert offseg(arguments(scenes, tmp_path / "model", "--backbone", "timm/resnet18.a1_in1k")) == 2
    (*_, error) = capsys.readouterr().err.splitlines()
    message = (
        "`--backbone` must not be of timm where timm is not installed, got timm/resnet18.a1_in1k; `pip install timm`"
    )
    assert error.startswith(f"offseg train: error: {message}")


def test_licence_of_the_encoder_in_a_model_on_the_hub_is_that_of_its_configuration(hub, scenes, tmp_path):
    encoder = save_encoder(tmp_path / "encoder", weights_license="cc-by-nc-4.0", weights_source="a page")
    trained(scenes, tmp_path / "first", "--backbone", str(encoder), "--decoder_hidden_size", "16")
    names = ("config.json", "model.safetensors", "preprocessor_config.json")  # as published, without the record
    hub.create("org/model", files={name: (tmp_path / "first" / name).read_bytes() for name in names})
    record = trained(scenes, tmp_path / "second", "--model_name_or_path", "org/model")
    assert record["encoder"] == {"name": None, "is_hub_id": False, "license": "cc-by-nc-4.0", "source": "a page"}
    card = card_of(tmp_path / "second", tmp_path)
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", "org/model")


def test_encoder_is_remembered_by_what_is_trained_further(scenes, tmp_path):
    encoder = save_encoder(tmp_path / "encoder", "license: mit")
    first = trained(scenes, tmp_path / "first", "--backbone", str(encoder), "--decoder_hidden_size", "16")
    second = trained(scenes, tmp_path / "second", "--model_name_or_path", str(tmp_path / "first"))
    assert second["encoder"] == first["encoder"] != None  # noqa: E711
    processor = AutoImageProcessor.from_pretrained(tmp_path / "second")
    assert [*processor.image_mean] == MEAN and [*processor.image_std] == STD


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variant", "offseg-b0"], "`--backbone` must come without `--variant`,"),
        (["--model_name_or_path", "nvidia/mit-b0"], "`--backbone` must come without `--model_name_or_path`,"),
        (["--add_offset_learning"], "`--backbone` must come without `--add_offset_learning`,"),
        (["--trust_remote_code"], "`--backbone` must come without `--trust_remote_code`,"),
        (["--freeze_backbone", "--layer_decay", "0.5"], "`--layer_decay` must be left out with `--freeze_backbone`,"),
        (["--freeze_batch_norm", "True"], "`--freeze_batch_norm` must be left out, since models of type"),
    ],
)
def test_contradictions_end_in_one_sentence(scenes, tmp_path, capsys, more, message):
    encoder = save_encoder(tmp_path / "encoder")
    assert offseg(arguments(scenes, tmp_path / "model", "--backbone", str(encoder), *more)) == 2
    (*_, error) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"offseg train: error: {message}")


def test_lora_on_an_encoder_is_saved_as_a_plain_model(scenes, tmp_path):
    pytest.importorskip("peft", reason="needs the extra `peft`")
    encoder = save_encoder(tmp_path / "encoder")
    record = trained(scenes, tmp_path / "model", "--backbone", str(encoder), "--lora_rank", "2")
    assert (record["lora_rank"], record["encoder"]["name"]) == (2, "encoder")
    _, report = OffSegBackboneForSemanticSegmentation.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
