"""Fine-tunes a segmentation model with transformers' Trainer.

    python scripts/train.py --variant offseg-b0 --dataset data/camvid --labels sky,building,road,car --streaming \\
        --max_steps 20000 --crop_size 360 480 --resize 480 360 --output_dir outputs/camvid
    python scripts/train.py --variant offseg-b0 --model_name_or_path nvidia/mit-b0 --dataset photos_and_masks \\
        --num_labels 5 --num_train_epochs 50 --learning_rate 1e-4 --output_dir outputs/mine
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

# A script's folder comes first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]


def _option(default, text):
    return field(default=default, metadata={"help": text})


def _options(default, text):
    return field(default_factory=lambda: list(default), metadata={"help": text})


@dataclass
class ModelArguments:
    variant: str | None = _option(None, "Architecture, such as offseg-b0; random weights unless --model_name_or_path.")
    model_name_or_path: str | None = _option(None, "Folder or Hub id of the weights to start from.")
    labels: str | None = _option(None, "Class names separated by commas, or a .txt or .json file of them.")
    num_labels: int | None = _option(None, "Number of classes, where they need no names.")
    logit_normalization: str | None = _option(
        None, "layer_norm, fitted_layer_norm or class_bias; by default what fits."
    )
    attention_loss_weight: float | None = _option(None, "Weight of a second loss on the coupled attention.")
    freeze_batch_norm: bool | None = _option(
        None, "Whether OffSeg-T, B, L keep the encoder's BatchNorm as it is; by default not where weights are random."
    )
    add_offset_learning: bool = _option(
        False,
        "Whether to replace the classifier of --model_name_or_path, any of transformers' models, by offset learning.",
    )
    trust_remote_code: bool = _option(False, "Whether to run model code that comes with the weights.")


@dataclass
class DataArguments:
    dataset: list[str] = field(metadata={"help": "Hub id, folder, Parquet files or URL pattern."})
    streaming: bool = _option(False, "Whether to read while training instead of before; needs --max_steps.")
    train_split: str = _option("train", "Split to train on.")
    eval_split: str = _option("validation", "Split to evaluate on; 'none' for no evaluation.")
    image_column: str | None = _option(None, "Column of the photos, where it cannot be guessed.")
    mask_column: str | None = _option(None, "Column of the label maps, where it cannot be guessed.")
    shuffle_buffer_size: int = _option(500, "Examples among which a stream is shuffled.")
    do_reduce_labels: bool = _option(False, "Whether label 0 means 'ignore' and classes count from 1.")
    eval_size: list[int] = _options((), "Longest and shortest edge in evaluation; by default those of --resize.")
    crop_size: list[int] = _options((512, 512), "Height and width of the training crop.")
    resize: list[int] = _options((2048, 512), "Longest and shortest edge of the photo before the random scale.")
    scale_range: list[float] = _options((0.5, 2.0), "Range of the random scale.")
    category_max_ratio: float = _option(0.75, "Largest share of a crop that one class may fill.")
    flip_probability: float = _option(0.5, "Probability of a horizontal flip.")
    photometric_distortion: bool = _option(True, "Whether to change colours at random.")
    brightness: float = _option(32.0, "Largest shift of brightness, of 255.")
    contrast: list[float] = _options((0.5, 1.5), "Range of the contrast.")
    saturation: list[float] = _options((0.5, 1.5), "Range of the saturation.")
    hue: float = _option(18.0, "Largest turn of the hue, in degrees.")
    overwrite: bool = _option(False, "Whether to write into an --output_dir that is not empty.")


def main(argv=None):
    from huggingface_hub.errors import StrictDataclassError
    from transformers import HfArgumentParser, set_seed

    from offseg_hf.hub import check_repository, push_to_hub, write_training_record
    from offseg_hf.training import check_output_dir
    from offseg_hf.training_arguments import SegmentationTrainingArguments

    parser = HfArgumentParser((ModelArguments, DataArguments, SegmentationTrainingArguments))
    model_args, data_args, args = parser.parse_args_into_dataclasses(argv)
    if (model_args.labels is None) == (model_args.num_labels is None):
        parser.error("give the classes either as --labels sky,road,car (or a file) or as --num_labels 3")
    publish, args.push_to_hub = args.push_to_hub, False  # Trainer's own way leaves out code and card
    if publish and args.hub_model_id is None:
        parser.error("--push_to_hub needs --hub_model_id NAMESPACE/NAME")
    if publish and (args.hub_revision or args.hub_always_push or args.hub_strategy != "every_save"):
        parser.error("--push_to_hub publishes at the end: leave out --hub_strategy, --hub_always_push, --hub_revision")
    try:
        checkpoint = check_output_dir(args.output_dir, args.resume_from_checkpoint, data_args.overwrite)
        if publish:
            check_repository(args.hub_model_id, bool(args.hub_private_repo), args.hub_token)
        set_seed(args.seed)
        trainer = prepare(model_args, data_args, args)
    except (OSError, ValueError, StrictDataclassError) as error:
        parser.error(str(error))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    metrics = {}
    if trainer.eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if not trainer.is_world_process_zero():
        return
    write_training_record(
        args.output_dir, args, trainer.state.global_step, metrics, vars(data_args), model_args.variant,
        model_args.model_name_or_path,
    )  # fmt: skip
    if publish:
        try:
            url, _ = push_to_hub(args.output_dir, args.hub_model_id, bool(args.hub_private_repo), args.hub_token)
        except (OSError, ValueError) as error:
            parser.error(f"trained, and saved in {args.output_dir}, but not published: {error}")
        print(f"published: {url}")


def prepare(model_args, data_args, args):
    """The Trainer of what was asked for: data, model and recipe."""
    from offseg_hf import OffSegImageProcessor
    from offseg_hf.data import TrainTransform, read_id2label
    from offseg_hf.training import create_model, create_trainer, evaluation_dataset, training_dataset

    if model_args.labels is not None:
        id2label = read_id2label(model_args.labels)
    else:
        id2label = {label_id: f"LABEL_{label_id}" for label_id in range(model_args.num_labels)}
    edges = data_args.eval_size or data_args.resize
    image_processor = OffSegImageProcessor(
        size={"longest_edge": max(edges), "shortest_edge": min(edges)},
        do_reduce_labels=data_args.do_reduce_labels,
    )
    transform = TrainTransform(
        crop_size=tuple(data_args.crop_size),
        resize=tuple(data_args.resize),
        scale_range=tuple(data_args.scale_range),
        category_max_ratio=data_args.category_max_ratio,
        flip_probability=data_args.flip_probability,
        photometric_distortion=data_args.photometric_distortion,
        brightness=data_args.brightness,
        contrast=tuple(data_args.contrast),
        saturation=tuple(data_args.saturation),
        hue=data_args.hue,
        reduce_labels=data_args.do_reduce_labels,
    )
    source = {
        "dataset": data_args.dataset,
        "image_processor": image_processor,
        "num_labels": len(id2label),
        "streaming": data_args.streaming,
        "image_column": data_args.image_column,
        "mask_column": data_args.mask_column,
    }
    train_dataset = training_dataset(
        split=data_args.train_split,
        transform=transform,
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffle_buffer_size=data_args.shuffle_buffer_size,
        **source,
    )
    eval_dataset = None
    if data_args.eval_split != "none":
        eval_dataset = evaluation_dataset(split=data_args.eval_split, **source)

    fields = ("logit_normalization", "attention_loss_weight", "freeze_batch_norm")
    overrides = {name: value for name in fields if (value := getattr(model_args, name)) is not None}
    model = create_model(
        model_args.variant,
        model_args.model_name_or_path,
        id2label,
        trust_remote_code=model_args.trust_remote_code,
        add_offset_learning=model_args.add_offset_learning,
        **overrides,
    )
    return create_trainer(model, args, train_dataset, eval_dataset, image_processor)


if __name__ == "__main__":
    main()
