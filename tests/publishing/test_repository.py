"""Publishing on a stand-in for the Hub, and loading from there where this package is not installed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_double import HubDouble
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_backbone_model
from transformers import Mask2FormerImageProcessorPil, SegformerConfig, SegformerForSemanticSegmentation

import offseg_hf.models
from offseg_hf import (
    OffSegBackboneForSemanticSegmentation,
    OffSegConfig,
    OffSegEfficientFormerConfig,
    OffSegEfficientFormerForSemanticSegmentation,
    OffSegForSemanticSegmentation,
    OffSegImageProcessor,
    OffSegMask2FormerConfig,
    OffSegMask2FormerForUniversalSegmentation,
    OffSegSegNextConfig,
    OffSegSegNextForSemanticSegmentation,
    OffsetLearningForSemanticSegmentation,
)
from offseg_hf.files import write_json
from offseg_hf.publishing.records import weights_digest
from offseg_hf.publishing.repository import imported_siblings, write_repository
from offseg_hf.publishing.upload import check_repository, push_to_hub, upload_repository

LABELS = {"id2label": {0: "sky", 1: "road", 2: "car"}, "label2id": {"sky": 0, "road": 1, "car": 2}}
MIT = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}


def offseg():
    return OffSegForSemanticSegmentation(OffSegConfig(**MIT, **LABELS))


def segnext():
    sizes = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "decoder_hidden_size": 16, "num_groups": 4}
    return OffSegSegNextForSemanticSegmentation(OffSegSegNextConfig(**sizes, nmf_rank=4, **LABELS))


def efficientformer():
    config = OffSegEfficientFormerConfig(
        hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), mlp_ratios=((2,),) * 4, num_attention_blocks=1,
        num_attention_heads=2, key_dim=4, value_dim=8, downsample_key_dim=4, downsample_value_dim=8,
        attention_grid_size=4, neck_hidden_sizes=(32,) * 4, decoder_hidden_size=16, num_groups=4, **LABELS,
    )  # fmt: skip
    return OffSegEfficientFormerForSemanticSegmentation(config)


def mask2former():
    swin = {"model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 4}
    swin |= {"image_size": 64, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    config = OffSegMask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=3, num_attention_heads=2, num_queries=5, **LABELS,
    )  # fmt: skip
    return OffSegMask2FormerForUniversalSegmentation(config)


def wrapper():
    return OffsetLearningForSemanticSegmentation.from_base(
        SegformerForSemanticSegmentation(SegformerConfig(**MIT, **LABELS))
    )


def backbone():
    with torch.random.fork_rng():
        config = tiny_backbone_model(**LABELS, num_labels=3).config
    return OffSegBackboneForSemanticSegmentation(config)


# The family's code files besides that of the image processor, which all but Mask2Former share.
FAMILIES = {
    "offseg": (
        offseg,
        "channels_last_segformer checkpoint_entries configuration_fields configuration_offseg decode_head "
        "modeling_offseg offset_learning segmentation_loss small_images upsampling image_processing_offseg "
        "image_reading label_map library_internals",
    ),
    "segnext": (
        segnext,
        "backbone_mscan configuration_fields configuration_offseg_segnext conv_group_norm drop_path hamburger "
        "modeling_offseg_segnext offset_learning segmentation_loss upsampling image_processing_offseg image_reading "
        "label_map library_internals",
    ),
    "efficientformer": (
        efficientformer,
        "backbone_efficientformer_v2 configuration_fields configuration_offseg_efficientformer conv_group_norm "
        "drop_path modeling_offseg_efficientformer neck_freqfusion offset_learning segmentation_loss "
        "image_processing_offseg image_reading label_map library_internals",
    ),
    "mask2former": (
        mask2former,
        "checkpoint_entries configuration_fields configuration_offseg_mask2former modeling_offseg_mask2former "
        "offset_learning library_internals",
    ),
    "backbone": (
        backbone,
        "backbone_efficientformer_v2 backbone_efficientnet backbone_mobilenet_v2 backbone_mscan backbone_timm "
        "configuration_fields configuration_inverted_residual configuration_offseg_backbone "
        "configuration_offseg_efficientformer configuration_offseg_segnext decode_head drop_path "
        "inverted_residual_backbone modeling_offseg_backbone "
        "offset_learning segmentation_loss upsampling image_processing_offseg image_reading label_map "
        "library_internals",
    ),
    "wrapper": (
        wrapper,
        "checkpoint_entries configuration_offset_learning_wrapper modeling_offset_learning_wrapper offset_learning "
        "image_processing_offseg image_reading label_map library_internals",
    ),
}
# Loads every repository, at its newest and at a pinned revision, and runs the lines of its card on photo.jpg.
WITHOUT_THE_PACKAGE = """
import contextlib, io, json, re, sys
sys.modules["offseg_hf"] = None  # importing it raises an ImportError
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation

tensors, segments = {}, {}
for family, pinned in json.loads(sys.argv[1]).items():
    mask = family == "mask2former"
    auto_class = AutoModelForUniversalSegmentation if mask else AutoModelForSemanticSegmentation
    for revision in ("main", pinned):
        source = {"revision": revision, "trust_remote_code": True}
        model = auto_class.from_pretrained(f"org/{family}", **source).eval()
        torch.manual_seed(0)
        with torch.no_grad():
            outputs = model(torch.rand(1, 3, 64, 64))
        for name, tensor in outputs.items():
            if name.endswith("logits"):
                tensors[f"{family} {revision} {name}"] = tensor
        processor = AutoImageProcessor.from_pretrained(f"org/{family}", **source)
        pixels = processor(images=Image.open("photo.jpg"), return_tensors="pt")["pixel_values"]
        tensors[f"{family} {revision} pixel_values"] = pixels
    lines = re.search(r"```python\\n(.*?)```", ModelCard.load(f"org/{family}").text, flags=re.DOTALL)[1]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(lines, {})
    segments[family] = re.findall(r"(\\w+) <PIL.Image.Image image mode=L size=(\\d+x\\d+) at", output.getvalue())
save_file(tensors, "tensors.safetensors")
json.dump(segments, open("segments.json", "w"))
"""


def save(model, folder, image_processor=None):
    model.save_pretrained(folder)
    (image_processor or OffSegImageProcessor(size={"height": 64, "width": 96})).save_pretrained(folder)
    return folder


def processor_of(family):
    size = {"height": 64, "width": 96}
    return Mask2FormerImageProcessorPil(size=size) if family == "mask2former" else OffSegImageProcessor(size=size)


def logits_of(model):
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model.eval()(torch.rand(1, 3, 64, 64))
    return {name: tensor for name, tensor in outputs.items() if name.endswith("logits")}


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """What a process without this package got from two revisions of each family, and what it should have got."""
    folder = tmp_path_factory.mktemp("remote")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    expected, pinned, files = {}, {}, {}
    with HubDouble() as hub, pytest.MonkeyPatch.context() as monkeypatch:
        hub.adopt_clients(monkeypatch, folder / "writer")
        for family, (create, _) in FAMILIES.items():
            processor = processor_of(family)
            for seed in (0, 1):
                torch.manual_seed(seed)
                model = create()
                push_to_hub(save(model, folder / f"{family}-{seed}", processor), f"org/{family}")
                revision = hub.repository(f"org/{family}").commits[-1].oid if seed == 0 else "main"
                pinned.setdefault(family, revision)
                for name, tensor in logits_of(model).items():
                    expected[f"{family} {revision} {name}"] = tensor
                photo = Image.open(folder / "photo.jpg")
                tensor = processor(images=photo, return_tensors="pt")["pixel_values"]
                expected[f"{family} {revision} pixel_values"] = tensor
            files[family] = hub.files(f"org/{family}")
        environment = os.environ | hub.environment(folder / "reader", token=None)
        command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, json.dumps(pinned)]
        subprocess.run(command, cwd=folder, env=environment, check=True)
    segments = json.loads((folder / "segments.json").read_text())
    return expected, load_file(folder / "tensors.safetensors"), segments, files


@pytest.mark.parametrize("family", FAMILIES)
def test_repository_holds_the_files_that_its_family_imports_and_no_others(family, remote):
    *_, files = remote
    code = {f"{name}.py" for name in FAMILIES[family][1].split()}
    assert files[family].keys() == code | {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.parametrize("family", FAMILIES)
def test_model_and_processor_give_the_same_without_the_package_at_every_revision(family, remote):
    expected, tensors, *_ = remote
    names = [name for name in expected if name.startswith(f"{family} ")]
    assert len(names) >= 4  # logits and pixels of two revisions
    for name in names:
        torch.testing.assert_close(tensors[name], expected[name], rtol=0, atol=1e-5)  # other threads round otherwise
    logits, others = (tensors[name] for name in names if name.endswith(" logits") or "masks_queries_logits" in name)
    assert not torch.equal(logits, others)


@pytest.mark.parametrize("family", FAMILIES)
def test_lines_of_the_card_segment_a_photo_without_the_package(family, remote):
    _, _, segments, _ = remote
    assert segments[family]
    for label, size in segments[family]:
        assert label in LABELS["id2label"].values() and size == "90x70"


@pytest.fixture
def model_folder(tmp_path):
    torch.manual_seed(0)
    return save(offseg(), tmp_path / "model")


def test_publication_is_one_commit_and_names_the_classes(hub, model_folder):
    url, is_new = push_to_hub(model_folder, "org/model")
    commits = hub.repository("org/model").commits
    assert [commit.title for commit in commits] == ["initial commit", "Upload model, code and card"]
    assert url.endswith(commits[-1].oid) and is_new
    config = json.loads(hub.files("org/model")["config.json"])
    assert config["id2label"] == {"0": "sky", "1": "road", "2": "car"}
    assert not hub.repository("org/model").private


def test_repository_is_private_when_asked(hub, model_folder):
    push_to_hub(model_folder, "org/model", private=True)
    assert hub.repository("org/model").private


def test_repeated_publication_makes_no_commit(hub, model_folder):
    url, _ = push_to_hub(model_folder, "org/model")
    assert push_to_hub(model_folder, "org/model") == (url, False)
    assert len(hub.repository("org/model").commits) == 2


def test_other_files_of_the_repository_are_left(hub, model_folder):
    hub.create("org/model", files={"notes.txt": b"mine"})
    push_to_hub(model_folder, "org/model")
    assert hub.files("org/model")["notes.txt"] == b"mine"


def contents(folder):
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_folder_of_the_model_stays_as_it_is_and_nothing_else_of_it_is_sent(hub, model_folder):
    (model_folder / "checkpoint-2").mkdir()
    (model_folder / "checkpoint-2" / "optimizer.pt").touch()
    (model_folder / "training_args.bin").touch()
    before = contents(model_folder)
    push_to_hub(model_folder, "org/model")
    assert contents(model_folder) == before
    assert not {"checkpoint-2/optimizer.pt", "training_args.bin"} & hub.files("org/model").keys()


def test_what_lies_in_the_folder_besides_the_files_named_stays_at_home(hub, model_folder, tmp_path):
    folder = tmp_path / "repository"
    files = write_repository(model_folder, folder, "org/model")
    (folder / ".env").write_text("HF_TOKEN=secret")
    (folder / "notes.txt").write_text("mine")
    upload_repository(folder, "org/model", files=files)
    assert hub.files("org/model").keys() == {file.name for file in files}
    (folder / "data").mkdir()
    (folder / "data" / "more.txt").write_text("more")
    upload_repository(folder, "org/model", files=[folder / "README.md", folder / "data" / "more.txt"])
    assert hub.files("org/model").keys() == {file.name for file in files} | {"data/more.txt"}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (".env", ValueError, "`files` must not be hidden, since those may hold secrets, got .*env; leave it out"),
        (".git/config", ValueError, "`files` must not be hidden, since those may hold secrets, got .*config"),
        ("../model/config.json", ValueError, "`files` must not be hidden"),
        ("none.txt", FileNotFoundError, "`files` must be files of .*, and there is no .*none.txt; leave it out"),
        ("/etc/hosts", ValueError, "`files` must lie in .*, and /etc/hosts does not; name files of that folder"),
        ("config.json", ValueError, r"`files` must hold README.md, the card, got \['config.json'\]; write one"),
    ],
)
def test_files_that_may_not_be_sent_are_refused_before_any_request(name, error, message, hub, model_folder):
    for hidden in (".env", ".git/config"):
        (model_folder / hidden).parent.mkdir(exist_ok=True)
        (model_folder / hidden).touch()
    with pytest.raises(error, match=message):
        upload_repository(model_folder, "org/model", files=[model_folder / name])
    assert not hub.requests


def test_repository_is_written_into_no_folder_that_holds_something(model_folder, tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"`output` must be a new or empty folder, got .*repository; name"):
        write_repository(model_folder, tmp_path / "repository", "org/model")


@pytest.mark.parametrize(
    "file", sorted(Path(offseg_hf.models.__file__).parent.glob("[a-z]*.py")), ids=lambda f: f.stem
)
def test_files_that_are_shipped_are_those_that_transformers_looks_for(file):
    # Should transformers give up this private function, remove the test: those above load what was shipped.
    from transformers.dynamic_module_utils import get_relative_import_files

    expected = {file.name, *(Path(name).name for name in get_relative_import_files(str(file)))}
    assert {path.name for path in imported_siblings(file)} == expected


def test_weights_of_the_older_format_are_sent_as_safetensors(hub, model_folder):
    state_dict = load_file(model_folder / "model.safetensors")
    (model_folder / "model.safetensors").unlink()
    torch.save(state_dict, model_folder / "pytorch_model.bin")
    push_to_hub(model_folder, "org/model")
    (model_folder / "sent").write_bytes(hub.files("org/model")["model.safetensors"])
    sent = load_file(model_folder / "sent")
    assert sent.keys() == state_dict.keys() and all(torch.equal(sent[name], state_dict[name]) for name in sent)
    assert "pytorch_model.bin" not in hub.files("org/model")


def test_native_model_is_published_with_the_processors_code_alone(hub, tmp_path):
    folder = save(SegformerForSemanticSegmentation(SegformerConfig(**MIT, **LABELS)), tmp_path / "native")
    push_to_hub(folder, "org/native")
    files = hub.files("org/native")
    assert {name for name in files if name.endswith(".py")} == {
        "image_processing_offseg.py", "image_reading.py", "label_map.py", "library_internals.py",
    }  # fmt: skip
    assert "auto_map" not in json.loads(files["config.json"])
    assert "offset" not in files["README.md"].decode()


@pytest.mark.parametrize(("what", "status"), [("commit", 500), ("lfs", 403)])
def test_former_revision_stays_when_a_publication_fails(what, status, hub, model_folder):
    push_to_hub(model_folder, "org/model")
    before = hub.files("org/model")
    torch.manual_seed(1)
    save(offseg(), model_folder)
    hub.fail[what] = status
    with pytest.raises(OSError, match="org/model"):
        push_to_hub(model_folder, "org/model")
    assert hub.files("org/model") == before
    hub.fail.clear()
    assert push_to_hub(model_folder, "org/model")[1]
    assert hub.files("org/model")["model.safetensors"] == (model_folder / "model.safetensors").read_bytes()
    assert len(hub.repository("org/model").commits) == 3


def test_failure_says_that_nothing_was_published(hub, model_folder):
    hub.fail["commit"] = 500
    with pytest.raises(OSError, match=r"`repo` org/model gets nothing, since .*told to fail.*; run the same command"):
        push_to_hub(model_folder, "org/model")
    assert not hub.files("org/model")


def test_repository_is_not_made_when_the_hub_refuses_the_card(hub, model_folder):
    with pytest.raises(ValueError, match=r"the Hub refuses what was sent: .*license.* must be one of"):
        push_to_hub(model_folder, "org/model", license="my-own")
    assert hub.repository("org/model") is None


def test_repository_is_not_made_when_the_folder_is_no_model(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`model` must be a model's folder, and there is no config.json in"):
        push_to_hub(tmp_path, "org/model")
    assert not hub.requests


@pytest.mark.parametrize("repo_id", ["model", "org/team/model", "org/mo del", "org/--", "", None])
def test_repository_id_is_checked_before_any_request(repo_id, hub, model_folder, tmp_path):
    with pytest.raises(ValueError, match="`repo` must be NAMESPACE/NAME"):
        check_repository(repo_id)
    with pytest.raises(ValueError, match="`repo` must be NAMESPACE/NAME"):
        write_repository(model_folder, tmp_path / "repository", repo_id)
    assert not hub.requests


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "`HF_TOKEN` must hold a token of the Hugging Face Hub with write access, and there is none"),
        ("hf_stolen", "`HF_TOKEN` must hold a token that may write to org/model, and the Hub refuses it"),
        ("hf_reader", "`HF_TOKEN` must hold a token with write access, and that of someone may only read"),
        ("hf_guest", r"`repo` must begin with a name under which guest may publish \(guest, club\), got org/model"),
    ],
)
def test_token_is_checked_before_anything_is_made(token, message, hub, monkeypatch):
    hub.add_user("hf_guest", "guest", organizations=("club",))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermissionError, match=message):
        check_repository("org/model")
    assert hub.repository("org/model") is None


def test_token_given_goes_before_that_of_the_environment(hub, model_folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert push_to_hub(model_folder, "org/model", token="hf_writer")[1]


def test_public_repository_is_not_taken_for_a_private_one(hub):
    hub.create("org/model")
    with pytest.raises(
        ValueError, match="`private` must be left out for a repository that is public, which org/model"
    ):
        check_repository("org/model", private=True)


def test_offline_mode_is_named(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="`repo` org/model cannot be reached, since HF_HUB_OFFLINE is set"):
        check_repository("org/model")


def test_hub_that_does_not_answer_is_named(hub):
    hub.stop()
    with pytest.raises(OSError, match=r"`repo` org/model gets nothing, since the Hub cannot be reached or failed \("):
        check_repository("org/model")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", r"`model` must hold weights \(\*.safetensors or \*.bin\), and there are none in"),
        (
            "preprocessor_config.json",
            "`model` must hold its image processor, and there is no preprocessor_config.json",
        ),
    ],
)
def test_missing_file_is_named(file, message, model_folder, tmp_path):
    (model_folder / file).unlink()
    (model_folder / "training_args.bin").touch()
    with pytest.raises(FileNotFoundError, match=message):
        write_repository(model_folder, tmp_path / "repository", "org/model")


def test_weights_that_lack_some_are_refused(model_folder, tmp_path):
    torch.save({"decode_head.offset_learning.cls_repr": torch.zeros(1, 3, 16)}, model_folder / "pytorch_model.bin")
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"`model` must hold all weights of the model, and .* lacks \d+ of them"):
        write_repository(model_folder, tmp_path / "repository", "org/model")


RESULTS = {"split": "test", "dataset": ["data/camvid"], "mean_iou": 0.4, "mean_accuracy": 0.5, "overall_accuracy": 0.9}


def card_of(folder, tmp_path):
    write_repository(folder, tmp_path / "repository", "org/model")
    return ModelCard.load(tmp_path / "repository" / "README.md")


def test_evaluations_beside_the_weights_go_into_the_card(model_folder, tmp_path):
    own = {"weights": weights_digest(model_folder)}
    write_json(model_folder / "evaluation-test.json", RESULTS | own)
    write_json(model_folder / "evaluation-validation.json", RESULTS | own | {"split": "validation", "mean_iou": 0.6})
    results = card_of(model_folder, tmp_path).data.eval_results
    values = {(each.dataset_name, each.dataset_split, each.metric_type): each.metric_value for each in results}
    assert values["camvid", "test", "mean_iou"] == 0.4
    assert values["camvid", "validation", "mean_iou"] == 0.6
    assert len(values) == 6


def test_evaluation_of_other_weights_is_refused(model_folder, tmp_path):
    write_json(model_folder / "evaluation-test.json", RESULTS | {"weights": "0" * 64})
    with pytest.raises(
        ValueError, match=r"evaluation-test.json` must be of the weights beside it, and was written for"
    ):
        write_repository(model_folder, tmp_path / "repository", "org/model")


@pytest.mark.parametrize("content", ["{", "3", '{"mean_iou": 1}'])
def test_file_that_is_no_evaluation_is_named(content, model_folder, tmp_path):
    (model_folder / "evaluation-test.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluation-test.json` must be a record of this package, and lacks"):
        write_repository(model_folder, tmp_path / "repository", "org/model")


def test_digest_tells_weights_apart(model_folder, tmp_path):
    first = weights_digest(model_folder)
    assert first == hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    model = offseg()
    assert weights_digest(save(model, tmp_path / "other")) != first
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert weights_digest(tmp_path / "sharded") not in (None, first)
    assert weights_digest(tmp_path / "nothing") is None
