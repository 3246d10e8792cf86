"""BatchNorm in training: statistics over all processes, over each process alone, or frozen ones."""

from collections.abc import Sequence

from torch import nn
from torch.utils.data import Dataset

from offseg_hf.training.arguments import SegmentationTrainingArguments

BATCH_NORM_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def set_up_batch_norm(
    model: nn.Module,
    args: SegmentationTrainingArguments,
    train_dataset: Dataset | None = None,
    frozen: Sequence[nn.Module] = (),
) -> None:
    """Makes BatchNorm do what the arguments ask for, in place.

    Args:
        model (`torch.nn.Module`): the model.
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): `batch_norm` is `"synchronized"`
            (statistics over all processes; the default with several GPUs), `"local"` (over a process's own batch; the
            default elsewhere) or `"frozen"` (the running statistics, which stay as they are).
        train_dataset (`torch.utils.data.Dataset`, *optional*): the training data, of whose batches the last may be
            smaller.
        frozen (sequence of `torch.nn.Module`, *optional*): parts of the model that stay in evaluation mode.

    Raises:
        ValueError: where it is to be synchronised without GPUs, or a batch would hold one image.
    """
    if not any(isinstance(module, BATCH_NORM_LAYERS) for module in model.modules()):
        return
    on_gpus = args.device.type == "cuda"
    batch_norm = args.batch_norm or ("synchronized" if on_gpus and args.world_size > 1 else "local")
    if batch_norm == "synchronized" and not on_gpus:
        raise ValueError(
            "`batch_norm` must be 'local' or 'frozen' on a CPU, where torch cannot synchronise it, got 'synchronized'."
        )
    if batch_norm == "synchronized":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    modes = {module: module.training for module in model.modules()}
    model.train()
    for module in frozen:
        module.eval()
    # Of those in training mode, since some models freeze theirs.
    learns = any(isinstance(module, BATCH_NORM_LAYERS) and module.training for module in model.modules())
    for module, mode in modes.items():
        module.training = mode
    if train_dataset is None or batch_norm == "frozen" or not learns:
        return
    together = args.world_size if batch_norm == "synchronized" else 1
    if args.train_batch_size * together == 1:
        raise ValueError(
            "`per_device_train_batch_size` must be at least 2 with BatchNorm, which needs several images to learn "
            "from, got 1; pass `--batch_norm frozen` where weights are pre-trained."
        )
    num_images = len(train_dataset) if hasattr(train_dataset, "__len__") else 0
    if args.world_size == 1 and not args.dataloader_drop_last and num_images % args.train_batch_size == 1:
        is_only_batch = num_images < args.train_batch_size
        remedy = "`--batch_norm frozen` where weights are pre-trained" if is_only_batch else "`--dataloader_drop_last`"
        raise ValueError(
            f"`per_device_train_batch_size` must not leave a last batch of one image to BatchNorm, got "
            f"{args.train_batch_size} for {num_images} images; pass {remedy}."
        )
