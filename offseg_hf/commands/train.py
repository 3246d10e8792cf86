"""Fine-tunes a segmentation model with transformers' Trainer.

    offseg train --variant offseg-b0 --dataset data/camvid --labels sky,building,road,car --streaming \\
        --max_steps 20000 --crop_size 360 480 --resize 480 360 --output_dir outputs/camvid
    offseg train --variant offseg-b0 --model_name_or_path nvidia/mit-b0 --dataset photos_and_masks \\
        --num_labels 5 --num_train_epochs 50 --learning_rate 1e-4 --output_dir outputs/mine
    offseg train --backbone facebook/convnext-tiny-224 --dataset photos_and_masks --num_labels 5 \\
        --num_train_epochs 50 --output_dir outputs/mine

On several GPUs: `torchrun --nproc_per_node 8 -m offseg_hf train …`, or `accelerate launch -m offseg_hf train …`.
All other arguments of transformers.TrainingArguments are taken too; --help_all lists them.
"""

import re
import sys
from typing import TYPE_CHECKING

from offseg_hf.commands.parser import CommandParser, add_fields, exit_code
from offseg_hf.commands.trainer_options import TrainerOptions
from offseg_hf.training import options

if TYPE_CHECKING:
    from transformers import HfArgumentParser

USAGE = "offseg train --variant NAME --dataset DATA --labels NAMES --output_dir FOLDER"


def build_parser() -> CommandParser:
    """The parser whose help is shown. Arguments are read by `full_parser`, which takes seconds to load."""
    parser = CommandParser("train", __doc__, usage=USAGE)
    add_fields(parser, "model", options.ModelArguments)
    add_fields(parser, "data and augmentation", options.DataArguments)
    add_fields(parser, "recipe", options.RecipeArguments)
    add_fields(parser, "of transformers' Trainer, the most used", TrainerOptions)
    parser.add_argument("--help_all", action="store_true", help="List all arguments, transformers' own included.")
    return parser


def full_parser() -> "HfArgumentParser":
    """The parser that reads the arguments into dataclasses."""
    from transformers import HfArgumentParser

    from offseg_hf.training.arguments import SegmentationTrainingArguments

    kinds = (options.ModelArguments, options.DataArguments, SegmentationTrainingArguments)
    parser = HfArgumentParser(kinds, prog="offseg train", usage=f"{USAGE} …")
    error = build_parser().error
    parser.error = lambda message: error(re.sub(r"(--\w+)/--[\w-]+", r"\1", message))  # each has two spellings there
    return parser


@exit_code
def main(argv: list[str] | None = None) -> int:
    """Runs `offseg train`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    words = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    if {"-h", "--help"} & {*words}:
        parser.print_help()
        return 0
    if "--help_all" in words:
        full_parser().print_help()
        return 0

    import dataclasses

    from transformers import set_seed

    from offseg_hf.publishing.records import write_training_record
    from offseg_hf.publishing.upload import check_repository, push_to_hub
    from offseg_hf.training.checkpoints import check_output_dir, last_whole_checkpoint
    from offseg_hf.training.from_arguments import resolved_data_arguments, trainer_from_arguments
    from offseg_hf.training.lora import merge_lora
    from offseg_hf.training.recipes import apply_recipe

    with parser.mistakes():
        full = full_parser()
        apply_recipe(full, words)
        model_args, data_args, args = full.parse_args_into_dataclasses(words)
        publish = args.push_to_hub
        if publish and args.hub_model_id is None:
            parser.error("--push_to_hub needs --hub_model_id NAMESPACE/NAME")
        if publish and (args.hub_revision or args.hub_always_push or args.hub_strategy != "every_save"):
            parser.error(
                "--push_to_hub publishes at the end: leave out --hub_strategy, --hub_always_push, --hub_revision"
            )
        checkpoint = check_output_dir(args.output_dir, args.resume_from_checkpoint, data_args.overwrite)
        if publish:
            check_repository(args.hub_model_id, bool(args.hub_private_repo), args.hub_token)
            args = dataclasses.replace(args, push_to_hub=False)  # Trainer's own way leaves out code and card
        data_args = resolved_data_arguments(data_args)
        set_seed(args.seed)
        trainer = trainer_from_arguments(model_args, data_args, args)
    try:
        output = trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.is_world_process_zero() and (share := output.metrics.get("train_unlabelled_share")):
            print(f"unlabelled: {share:.1%} of the pixels of the crops, the padding of small photos included")
        if num_broken := len(trainer.train_dataset.broken):
            print(f"left out: {num_broken} training examples, which are broken")
        if model_args.lora_rank is not None:
            merge_lora(trainer)
        trainer.save_model()
    except (FloatingPointError, OSError, ValueError) as error:  # others' faults show their trace
        sentence = own_sentence(error)
        if sentence is None:
            raise
        if re.match("`(image|mask) of", sentence):
            sentence += " Or pass `--skip_broken_examples 10` besides, to leave out up to ten such."
            if (last := last_whole_checkpoint(args.output_dir)) is not None:
                sentence += f" Go on from {last} with `--resume_from_checkpoint last`."
        if isinstance(error, ValueError):  # such as a checkpoint that is not this training's
            parser.error(sentence)
        print(f"{parser.prog}: error: {sentence}", file=sys.stderr)
        return 1
    metrics: dict[str, float] = {}
    if trainer.eval_dataset is not None:
        was_merged = model_args.lora_rank is not None  # which rounds
        metrics = (None if was_merged else trainer.last_evaluation()) or trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if not trainer.is_world_process_zero():
        return 0
    write_training_record(
        args.output_dir, args, trainer.state.global_step, metrics, vars(data_args), model_args.variant,
        model_args.model_name_or_path, model_args.lora_rank, model_args.backbone,
    )  # fmt: skip
    if publish:
        try:
            url, _ = push_to_hub(args.output_dir, args.hub_model_id, bool(args.hub_private_repo), args.hub_token)
        except (OSError, ValueError) as error:
            print(
                f"{parser.prog}: trained, and saved in {args.output_dir}, but not published: {error}", file=sys.stderr
            )
            return 1
        print(f"published: {url}")
    return 0


def own_sentence(error: BaseException) -> str | None:
    """What an error says, where this package raised it, here or in a process that reads data.

    Args:
        error (`BaseException`): what ended a training.

    Returns:
        `str` or `None`: one sentence that says what to do; `None` where another library raised it.
    """
    if str(error).startswith("Caught "):  # with the whole trace in a worker as its message
        *lines, sentence = str(error).strip().splitlines()
        places = [line for line in lines if line.lstrip().startswith("File ")]
        return sentence.partition(": ")[2] if places and "offseg_hf" in places[-1] else None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    is_own = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("offseg_hf.")
    return str(error.args[-1] if isinstance(error, OSError) and error.errno else error) if is_own else None
