"""Trains the tiny model that the Space ships, on drawn street scenes, and draws the Space's example pictures.

    python scripts/build_space_model.py --output outputs/space
    python scripts/build_space_model.py --output outputs/space --max_steps 1200

Then copy outputs/space/tiny-street-scenes and outputs/space/examples into spaces/offseg. It takes some eight minutes
on one CPU core.
"""

import argparse
from pathlib import Path

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (16, 32, 48, 64),
    "num_attention_heads": (1, 2, 4, 8),
    "decoder_hidden_size": 64,
    "drop_path_rate": 0.0,
}
EXAMPLE_SEEDS = (3, 11, 29, 41)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="New or empty folder.")
    parser.add_argument("--max_steps", type=int, default=1000, help="Training steps.")
    parser.add_argument("--num_train", type=int, default=600, help="Scenes to train on.")
    args = parser.parse_args(argv)
    if args.output.exists() and any(args.output.iterdir()):
        parser.error(f"`--output` must be a new or empty folder, and {args.output} is not: name another one.")

    import torch

    from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation
    from offseg_hf.commands.quickstart import run
    from offseg_hf.data.scenes.scenes import SCENE_LABELS, draw_scene, write_scenes
    from offseg_hf.publishing.repository import write_repository

    examples = args.output / "examples"
    examples.mkdir(parents=True)
    for seed in EXAMPLE_SEEDS:
        draw_scene((2, seed), (512, 768))[0].save(examples / f"street-{seed}.jpg", quality=92)

    data, start, trained = args.output / "scenes", args.output / "start", args.output / "trained"
    write_scenes(data, num_train=args.num_train, size=(192, 288))
    torch.manual_seed(0)
    OffSegForSemanticSegmentation(OffSegConfig(**TINY, num_labels=len(SCENE_LABELS))).save_pretrained(start)
    run(
        "train", "--model_name_or_path", start, "--dataset", data, "--streaming",
        "--labels", ",".join(SCENE_LABELS), "--max_steps", args.max_steps, "--per_device_train_batch_size", 8,
        "--learning_rate", "1.5e-3", "--head_learning_rate_factor", 1, "--warmup_steps", "0.05", "--resize", 288, 192,
        "--crop_size", 144, 192, "--scale_range", 0.8, 1.5, "--photometric_distortion", False, "--eval_size", 384, 256,
        "--eval_split", "none", "--save_strategy", "no", "--logging_steps", 50, "--output_dir", trained,
    )  # fmt: skip
    run("evaluate", "--model", trained, "--dataset", data, "--split", "validation")
    target = args.output / "tiny-street-scenes"
    write_repository(trained, target, "offseg/tiny-street-scenes", license="apache-2.0", dataset_name="drawn scenes")
    (target / "README.md").unlink()  # its commands name a repository that does not exist


if __name__ == "__main__":
    main()
