"""transformers' `Trainer` with what segmentation needs: recipe, exact metrics, streams, whole checkpoints."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from datasets.distributed import split_dataset_by_node
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, rotate_checkpoints
from transformers.utils import logging

from offseg_hf.data import EndlessStream, stack_examples
from offseg_hf.data.streaming import StreamLoader
from offseg_hf.evaluation.figures import named_results
from offseg_hf.model_types import auto_model_class, check_finite_weights, ignore_index, predicted_labels
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.batch_norm import BATCH_NORM_LAYERS, set_up_batch_norm
from offseg_hf.training.callbacks import (
    CurvePicture,
    EvaluationRecord,
    PassCallback,
    PredictionSheets,
    StreamEpochCallback,
    TrainingProgress,
    TrainingRates,
)
from offseg_hf.training.checkpoints import STATE_FILE, check_output_dir, full_disk_said, without_progress_bars
from offseg_hf.training.class_rows import ClassRows, move_optimizer_rows, rows_to_move, stored_id2label
from offseg_hf.training.freezing import freeze_backbone
from offseg_hf.training.metrics import BatchMetrics, predicted_label_maps
from offseg_hf.training.model import native_image_processor
from offseg_hf.training.optimization import check_schedule, num_training_steps, parameter_groups
from offseg_hf.training.safeguards import (
    FiniteLoss,
    Interruption,
    TimedCheckpoints,
    check_before_saving,
    how_to_go_on,
)

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.get_logger(__name__)

UNFINISHED = ".unfinished"  # where a checkpoint is written before it appears


class SegmentationTrainer(Trainer):
    """A `Trainer` of models that classify pixels or masks.

    What it adds to `Trainer`:

    - Optimizer: encoder and head learn at rates of their own, and norm layers do not decay, whatever `args.optim`.
    - Encoder: with `args.freeze_backbone` it stays as it is, to the last bit, and in evaluation mode.
    - Data: batches are stacked without padding. A stream ([`~offseg_hf.data.EndlessStream`]) is divided among the
      processes, and a training that resumes goes on in it exactly where the checkpoint was, without reading what came
      before; with `args.ignore_data_skip` it begins the stream's next pass instead.
    - Loss: that of a step is the mean over all labelled pixels of the step, into however many processes and
      accumulated batches they are divided. Class weights, hard-pixel selection and the Dice loss are computed within
      each batch, and the batches' losses averaged with their numbers of labelled pixels as weights. The losses of
      models that classify masks are averaged with equal weights.
    - BatchNorm: as `args.batch_norm` says.
    - Evaluation: mean IoU and the like, exactly, by a confusion matrix at the labels' resolution, in constant memory.
      Several processes evaluate every photo once, whatever the sizes.
    - Checkpoints: a folder appears when everything in it is written.
    - Records, in `args.output_dir`: at every evaluation on `eval_dataset`, where that is one data set, a line of
      `evaluations.jsonl`, the picture `curves.png` (at every checkpoint and at the end too) and
      `predictions/step-000500.jpg`, a sheet of `args.num_prediction_examples` fixed examples, which TensorBoard shows
      too. A training that resumes drops what was recorded of later steps than it resumes from, and one that starts
      anew drops all.
    - Progress bar and logs: the learning rate of the head and the examples per second besides.

    Args:
        model ([`transformers.PreTrainedModel`] or `peft.PeftModel`): the model.
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): the recipe; `max_steps` must be given
            for a stream. It is not changed.
        train_dataset (`torch.utils.data.Dataset` or `IterableDataset`, *optional*): of `pixel_values` and `labels`.
        eval_dataset (likewise, or a `dict` of them, *optional*): with labels at the resolution at which to measure.
        image_processor ([`OffSegImageProcessor`], *optional*): saved beside the model, see
            [`~offseg_hf.training.model.native_image_processor`].
        **kwargs: as for `Trainer`, such as `callbacks` or `optimizers`. What is given of `data_collator`,
            `processing_class`, `compute_metrics` and `preprocess_logits_for_metrics` (by default logits → label maps)
            replaces what is described above.

    Raises:
        ValueError: where the warm-up is not shorter than the training, a stream has no number of steps, or BatchNorm
            cannot do what is asked for, or would see batches of one image.
    """

    optimizer: torch.optim.Optimizer | None  # set by Trainer

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        args: SegmentationTrainingArguments,
        *,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        image_processor: OffSegImageProcessor | None = None,
        **kwargs: Any,
    ):
        frozen = freeze_backbone(model) if args.freeze_backbone else []
        set_up_batch_norm(model, args, train_dataset, frozen)
        if train_dataset is not None:
            check_schedule(args, train_dataset)
        is_stream = isinstance(train_dataset, EndlessStream)
        self._begins_next_pass = args.ignore_data_skip
        if is_stream:
            args = copy.copy(args)
            args.ignore_data_skip = True  # Trainer would read and drop what came before; the loader goes on after it
        if image_processor is not None:
            kwargs.setdefault("processing_class", native_image_processor(model.config, image_processor))
        kwargs.setdefault("data_collator", stack_examples)
        kwargs.setdefault("preprocess_logits_for_metrics", predicted_label_maps)
        if "compute_metrics" not in kwargs:
            kwargs["compute_metrics"] = BatchMetrics(predicted_labels(model.config), ignore_index(model.config))
        super().__init__(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        # No loss of a segmentation model is divided by Trainer's count of items, even if it takes any keyword.
        self.model_accepts_loss_kwargs = False
        self._add_callbacks(is_stream)

        self.num_lost = torch.zeros((), dtype=torch.int64, device=args.device)  # losses in a row that are not finite
        self._interruption = Interruption()
        self.add_callback(self._interruption)
        self.add_callback(TimedCheckpoints())
        self.add_callback(FiniteLoss(self))  # the last, which sees what the others want to be done
        self._num_pixels = self._num_unlabelled = 0
        self._moved_rows: ClassRows | None = None
        self._checkpoint: str | None = None
        self._loader: StreamLoader | None = None
        self._unfinished: str | None = None
        self._num_labelled: torch.Tensor | None = None
        is_per_pixel = auto_model_class(model.config).__name__ == "AutoModelForSemanticSegmentation"
        num_batches = args.world_size * args.gradient_accumulation_steps
        self._is_divided = is_per_pixel and self.compute_loss_func is None and num_batches > 1
        self._frozen = frozen
        if args.batch_norm == "frozen":
            self._frozen += [module for module in model.modules() if isinstance(module, BATCH_NORM_LAYERS)]

    def _add_callbacks(self, is_stream):
        # The first of all, so that those who report the logs get what it adds to them.
        self.callback_handler.callbacks.insert(0, TrainingRates())
        if is_stream:
            self.add_callback(StreamEpochCallback())
        elif hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(PassCallback(self.train_dataset))
        if self.pop_callback(ProgressCallback) is not None:  # there is none with `disable_tqdm`, nor in notebooks
            self.add_callback(TrainingProgress())
        if None not in (self.eval_dataset, self.processing_class) and self.args.num_prediction_examples > 0:
            self.add_callback(PredictionSheets(self))
        self.add_callback(EvaluationRecord())
        self.add_callback(CurvePicture())

    # Optimization

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer that `args.optim` names, of encoder and head with learning rates of their own."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            takes_groups = isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)
            if not takes_groups or {"params", "model", "optimizer_dict"} & options.keys():
                raise ValueError(
                    "`optim` must be an optimizer that takes groups of parameters, those of encoder and head, got "
                    f"{self.args.optim.value}; leave it out, or pass adamw_torch_fused, sgd or adafactor."
                )
            args = self.args
            groups = parameter_groups(
                model, args.learning_rate, args.weight_decay, args.head_learning_rate_factor, args.layer_decay
            )
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    # Data

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *args, **kwargs) -> TrainOutput:
        """As `Trainer`'s, but nothing is lost where it ends early, and what is finished is not trained on.

        `resume_from_checkpoint=True` takes the newest checkpoint that is whole.

        Raises:
            FloatingPointError: the loss stays NaN or infinite.
            KeyboardInterrupt: after Ctrl-C, when a checkpoint is saved; its message says how to go on.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = check_output_dir(self.args.output_dir, "last", overwrite=True)
        self._checkpoint = str(resume_from_checkpoint) if resume_from_checkpoint else None
        if self._checkpoint is not None and (output := self._finished()) is not None:
            return output
        interruption = self._interruption
        interruption.is_asked = interruption.is_in_step = False
        interruption.random_state = None
        with interruption.watched():
            try:
                output = super().train(self._checkpoint, *args, **kwargs)
            except (KeyboardInterrupt, OSError, ValueError) as error:
                self._save_before_the_end()
                if isinstance(error, KeyboardInterrupt):
                    raise KeyboardInterrupt(how_to_go_on(self.args)) from None
                raise
        if interruption.is_asked:
            raise KeyboardInterrupt(how_to_go_on(self.args))
        if self._num_pixels:
            output.metrics["train_unlabelled_share"] = self._num_unlabelled / self._num_pixels
        return output

    def _finished(self):
        """What the training gives that a checkpoint ends, with its weights; `None` where there are steps left."""
        state = TrainerState.load_from_json(str(Path(self._checkpoint, STATE_FILE)))
        if state.global_step < num_training_steps(self.args, self.train_dataset):
            return None
        self._load_from_checkpoint(self._checkpoint)
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        logger.warning(f"the training of {self._checkpoint} is finished at step {state.global_step}: none is added")
        return TrainOutput(state.global_step, 0.0, {})

    def _save_before_the_end(self):
        """A checkpoint of the last whole step, where this process trains alone and none is there."""
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        is_between = self._interruption.random_state is not None and not self._interruption.is_in_step
        is_new = self.state.global_step > 0 and not folder.exists()
        if not (is_between and is_new) or self.args.world_size > 1:
            return
        random_state = torch.get_rng_state()
        torch.set_rng_state(self._interruption.random_state)
        self._save_checkpoint(self.model, None)
        torch.set_rng_state(random_state)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """As `Trainer`'s, which counts how often in a row the loss was not finite."""
        loss = super().training_step(*args, **kwargs)
        self.num_lost = torch.where(loss.isfinite(), 0, self.num_lost.to(loss.device) + 1)
        return loss

    def get_train_dataloader(self) -> DataLoader:
        """The batches of this process."""
        if not isinstance(self.train_dataset, EndlessStream):
            return super().get_train_dataloader()
        self._loader = StreamLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,  # smaller than that of `args` after `auto_find_batch_size` shrank it
            collate_fn=self.data_collator,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            **self._loading(),
        )
        if self._checkpoint is not None:
            self._resume_stream()
        return self._loader

    def _loading(self):
        """What `args` say of the reading of data, as a `DataLoader` takes it."""
        options = {"num_workers": self.args.dataloader_num_workers, "pin_memory": self.args.dataloader_pin_memory}
        if self.args.dataloader_num_workers > 0:
            options["prefetch_factor"] = self.args.dataloader_prefetch_factor
            options["multiprocessing_context"] = self.args.dataloader_multiprocessing_context
        return options

    def _resume_stream(self):
        """Puts the stream where the checkpoint was, or at the beginning of its next pass."""
        first, own = (Path(self._checkpoint, f"stream_{index}.json") for index in (0, self.args.process_index))
        if self._begins_next_pass:
            if first.exists():
                self._loader.begin_next_pass(json.loads(first.read_text(encoding="utf-8")))
        elif first.exists():
            # There is none of its own where there were fewer processes, which the loader refuses.
            file = own if own.exists() else first
            self._loader.load_state_dict(json.loads(file.read_text(encoding="utf-8")))
        else:
            raise ValueError(
                "`resume_from_checkpoint` must hold the position in the stream, but there is no stream_0.json in "
                f"{self._checkpoint}; pass `--ignore_data_skip` to begin the stream anew."
            )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, torch.Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor | int | None]:
        """The batches of one step; counts their unlabelled pixels, and the labelled ones over all processes."""
        before = [] if self._loader is None else list(self._loader.positions)
        try:
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        except BaseException:
            if self._loader is not None:  # a checkpoint that is saved now begins the step anew
                self._loader.positions[:] = before
            raise
        for batch in batches:
            self._num_pixels += batch["labels"].numel()
            self._num_unlabelled += batch["labels"].numel() - int(self._labelled(batch["labels"]))
        if self._is_divided:
            count = sum(self._labelled(batch["labels"]) for batch in batches).to(device)
            self._num_labelled = self.accelerator.reduce(count, "sum").clamp(min=1)
        return batches, num_items

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of a batch, times its share of the step's labelled pixels over the share of an average batch.

        So the mean over batches and processes, which is what is minimized, is the mean over the labelled pixels.
        """
        for module in self._frozen:
            module.eval()
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not (self._is_divided and model.training):
            return result
        num_batches = self.current_gradient_accumulation_steps * self.args.world_size
        weight = num_batches * self._labelled(inputs["labels"]) / self._num_labelled
        return (result[0] * weight, *result[1:]) if return_outputs else result * weight

    def _labelled(self, labels):
        return (labels != ignore_index(self.model.config)).sum()

    # Evaluation

    @property
    def _divides_evaluation(self):
        """Whether processes evaluate photos of their own and exchange counts, as only our own metrics allow."""
        return self.args.world_size > 1 and isinstance(self.compute_metrics, BatchMetrics)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """The photos to evaluate on; with several processes this one's, each of which no other has."""
        if not self._divides_evaluation:
            return super().get_eval_dataloader(eval_dataset)
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        data = self.eval_dataset[data] if isinstance(data, str) else data
        process_index, num_processes = self.args.process_index, self.args.world_size
        if isinstance(data, datasets.IterableDataset):
            share = split_dataset_by_node(data, process_index, num_processes)
        else:
            share = Subset(data, range(process_index, len(data), num_processes))
        return DataLoader(
            share, batch_size=self.args.eval_batch_size, collate_fn=self.data_collator, **self._loading()
        )

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *args, metric_key_prefix: str = "eval", **kwargs
    ) -> EvalLoopOutput:
        """As `Trainer`'s, but several processes exchange counts: it gathers label maps, which must be of one size."""
        if not self._divides_evaluation:
            return super().evaluation_loop(
                dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
        metric = self.compute_metrics.metric
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64)  # of the losses, and of the photos
        for batch in tqdm(dataloader, desc=description, disable=self.args.disable_tqdm or not self.args.should_log):
            loss, logits, labels = self.prediction_step(self.model, batch, prediction_loss_only=False)
            metric.add_batch(predictions=self.preprocess_logits_for_metrics(logits, labels), references=labels)
            sums += torch.tensor([loss.item() * len(labels), len(labels)])
        device = self.args.device
        total_loss, num_photos = self.accelerator.reduce(sums.to(device), "sum").tolist()
        metric.confusion_matrix = self.accelerator.reduce(metric.confusion_matrix.to(device), "sum").cpu()
        metrics = {"loss": total_loss / num_photos, **named_results(metric.compute(), self.compute_metrics.id2label)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=int(num_photos))

    def last_evaluation(self) -> dict[str, float] | None:
        """What the training measured of the weights that it ended with.

        Returns:
            `dict` or `None`: as from `evaluate`; `None` where they were not evaluated.
        """
        step = self.state.global_step
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            step = self.state.best_global_step
        for entry in reversed(self.state.log_history):
            if entry["step"] == step and "eval_runtime" in entry:
                return {name: value for name, value in entry.items() if name != "step"}
        return None

    # Checkpoints

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """As `Trainer`'s, but each class gets the rows that were learned for its name."""
        stored = stored_id2label(resume_from_checkpoint)
        own = dict(self.model.config.id2label)
        if stored and len(stored) != len(own):
            raise ValueError(
                f"`labels` must be as many as the {len(stored)} classes of {resume_from_checkpoint}, "
                f"{', '.join(stored.values())}, got {', '.join(own.values())}; pass `--model_name_or_path "
                f"{resume_from_checkpoint}` instead of `--resume_from_checkpoint` to learn others from there."
            )
        self._moved_rows = rows_to_move(self.model.config, stored, resume_from_checkpoint) if stored else None
        fresh = {}
        if self._moved_rows is not None:
            fresh = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._moved_rows is not None:
            self._moved_rows.move(self.model.state_dict(), fresh)
        check_finite_weights(self.model, resume_from_checkpoint, "resume_from_checkpoint")

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._moved_rows is not None:
            move_optimizer_rows(self.optimizer, self.model, self._moved_rows)
            # What was best was measured of other classes, and its rows are in their order.
            self.state.best_metric = self.state.best_model_checkpoint = self.state.best_global_step = None

    def _determine_best_metric(self, metrics, trial):
        """As `Trainer`'s, but a figure that is missing, of a class without a pixel, is no new best."""
        name = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        return name in metrics and super()._determine_best_metric(metrics, trial)

    def save_model(self, *args, **kwargs) -> None:
        """As `Trainer`'s, but weights that are NaN or infinite are not saved, and a full disk is called so."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # whose processes have parts of the weights
            check_before_saving(self)
        with full_disk_said(self.args.output_dir):
            super().save_model(*args, **kwargs)

    def _get_output_dir(self, trial):
        return self._unfinished or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        """As `Trainer`'s, but in a folder aside, which is moved to its place when all processes have written."""
        output_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        self._unfinished = str(output_dir / UNFINISHED)
        unfinished, final = output_dir / UNFINISHED / name, output_dir / name
        if self.args.should_save:
            shutil.rmtree(unfinished.parent, ignore_errors=True)  # of a run that was killed, at whatever step
        self.accelerator.wait_for_everyone()
        try:
            with without_progress_bars(), full_disk_said(output_dir):  # bars of the shards that are written
                super()._save_checkpoint(model, trial)
        except BaseException:
            shutil.rmtree(unfinished.parent, ignore_errors=True)
            raise
        finally:
            self._unfinished = None
        if self._loader is not None:
            state = json.dumps(self._loader.state_dict())
            (unfinished / f"stream_{self.args.process_index}.json").write_text(state, encoding="utf-8")
        self.accelerator.wait_for_everyone()
        if self.state.best_model_checkpoint == str(unfinished):
            self.state.best_model_checkpoint = str(final)
        if self.args.should_save:
            self.state.save_to_json(unfinished / STATE_FILE)
            if final.exists():
                shutil.rmtree(final)  # written before the training went back to an earlier one
            unfinished.rename(final)
            unfinished.parent.rmdir()
            rotate_checkpoints(
                output_dir=str(output_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
        self.accelerator.wait_for_everyone()
