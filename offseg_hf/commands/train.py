"""Fine-tunes a segmentation model with transformers' Trainer.

    python scripts/train.py --variant offseg-b0 --dataset data/camvid --labels sky,building,road,car --streaming \\
        --max_steps 20000 --crop_size 360 480 --resize 480 360 --output_dir outputs/camvid
    python scripts/train.py --variant offseg-b0 --model_name_or_path nvidia/mit-b0 --dataset photos_and_masks \\
        --num_labels 5 --num_train_epochs 50 --learning_rate 1e-4 --output_dir outputs/mine
"""


def main(argv=None):
    import dataclasses

    from huggingface_hub.errors import StrictDataclassError
    from transformers import HfArgumentParser, set_seed

    from offseg_hf.publishing.records import write_training_record
    from offseg_hf.publishing.upload import check_repository, push_to_hub
    from offseg_hf.training.arguments import SegmentationTrainingArguments
    from offseg_hf.training.checkpoints import check_output_dir
    from offseg_hf.training.from_arguments import resolved_data_arguments, trainer_from_arguments
    from offseg_hf.training.lora import merge_lora
    from offseg_hf.training.options import DataArguments, ModelArguments
    from offseg_hf.training.recipes import apply_recipe

    usage = "train.py --variant NAME --dataset DATA --labels NAMES --output_dir FOLDER … (--help lists all options)"
    parser = HfArgumentParser((ModelArguments, DataArguments, SegmentationTrainingArguments), usage=usage)
    try:
        apply_recipe(parser, argv)
        model_args, data_args, args = parser.parse_args_into_dataclasses(argv)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    publish = args.push_to_hub
    if publish and args.hub_model_id is None:
        parser.error("--push_to_hub needs --hub_model_id NAMESPACE/NAME")
    if publish and (args.hub_revision or args.hub_always_push or args.hub_strategy != "every_save"):
        parser.error("--push_to_hub publishes at the end: leave out --hub_strategy, --hub_always_push, --hub_revision")
    try:
        checkpoint = check_output_dir(args.output_dir, args.resume_from_checkpoint, data_args.overwrite)
        if publish:
            check_repository(args.hub_model_id, bool(args.hub_private_repo), args.hub_token)
            args = dataclasses.replace(args, push_to_hub=False)  # Trainer's own way leaves out code and card
        data_args = resolved_data_arguments(data_args)
        set_seed(args.seed)
        trainer = trainer_from_arguments(model_args, data_args, args)
    except (ImportError, OSError, ValueError, StrictDataclassError) as error:
        parser.error(str(error))
    trainer.train(resume_from_checkpoint=checkpoint)
    if model_args.lora_rank is not None:
        merge_lora(trainer)
    trainer.save_model()
    metrics = {}
    if trainer.eval_dataset is not None:
        was_merged = model_args.lora_rank is not None  # which rounds
        metrics = (None if was_merged else trainer.last_evaluation()) or trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if not trainer.is_world_process_zero():
        return
    write_training_record(
        args.output_dir, args, trainer.state.global_step, metrics, vars(data_args), model_args.variant,
        model_args.model_name_or_path, model_args.lora_rank,
    )  # fmt: skip
    if publish:
        try:
            url, _ = push_to_hub(args.output_dir, args.hub_model_id, bool(args.hub_private_repo), args.hub_token)
        except (OSError, ValueError) as error:
            parser.error(f"trained, and saved in {args.output_dir}, but not published: {error}")
        print(f"published: {url}")


if __name__ == "__main__":
    main()
