"""The arguments of transformers' Trainer that are used most, for the help of `offseg train`.

`offseg_hf.training.arguments` has them all, but takes seconds to load. A test holds the defaults here to those there.
"""

from dataclasses import dataclass, field


def _option(default, text, **metadata):
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class TrainerOptions:
    """Their names, defaults and, in short, their meanings."""

    output_dir: str | None = _option(None, "Folder for the model, its checkpoints and its records.")
    num_train_epochs: float = _option(3.0, "Passes over the training data, where --max_steps is not given.")
    max_steps: int = _option(-1, "Training steps; must be given with --streaming.")
    gradient_accumulation_steps: int = _option(1, "Batches whose gradients make one step.")
    bf16: bool = _option(False, "Whether to compute in bfloat16 where that is safe, for newer GPUs.")
    fp16: bool = _option(False, "Whether to compute in float16 where that is safe, for older GPUs.")
    torch_compile: bool = _option(False, "Whether to compile the model.")
    use_cpu: bool = _option(False, "Whether to leave GPUs alone.")
    seed: int = _option(42, "Seed of the weights, the order of the data and the augmentation.")
    dataloader_num_workers: int = _option(0, "Processes that read and augment photos, for each device.")
    save_strategy: str = _option("steps", "When to save a checkpoint.", choices=["no", "steps", "epoch", "best"])
    resume_from_checkpoint: str | None = _option(None, "Checkpoint to go on from; 'last' for that of --output_dir.")
    eval_strategy: str = _option("no", "When to evaluate, besides at the end.", choices=["no", "steps", "epoch"])
    eval_steps: float | None = _option(None, "Steps between two evaluations; by default those of --logging_steps.")
    load_best_model_at_end: bool = _option(False, "Whether the best checkpoint is the result, not the last.")
    push_to_hub: bool = _option(False, "Whether to publish the model at the end, with code and card.")
    hub_model_id: str | None = _option(None, "Where to publish it: NAMESPACE/NAME.")
    hub_private_repo: bool | None = _option(None, "Whether nobody else may see what is published.")
