"""transformers' `Trainer`, whose streams go on exactly, checkpoints appear whole, and steps can be divided at will.

The models train with the stock `Trainer` too; what is added here is for long runs and several processes.
"""

import json
import shutil
from pathlib import Path

import datasets
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, rotate_checkpoints
from transformers.utils import logging

from offseg_hf.data import EndlessStream
from offseg_hf.data.streaming import StreamLoader
from offseg_hf.evaluation.figures import named_results
from offseg_hf.model_types import auto_model_class, ignore_index
from offseg_hf.training.batch_norm import is_batch_norm, set_up_batch_norm
from offseg_hf.training.checkpoints import STATE_FILE

logger = logging.get_logger(__name__)

UNFINISHED = ".unfinished"  # where a checkpoint is written before it appears


class SegmentationTrainer(Trainer):
    """A `Trainer` of per-pixel and mask classifiers.

    - A stream ([`~offseg_hf.data.EndlessStream`]) is divided among the processes, and a training that resumes goes on
      in it exactly where the checkpoint was, without reading what came before.
    - The loss of a step is the mean over all labelled pixels of the step, into however many processes and accumulated
      batches they are divided. (Of models that classify masks, and with losses that are no sums over pixels, it is the
      mean of their losses.)
    - Several processes evaluate every photo once, whatever the sizes.
    - A checkpoint's folder appears when everything in it is written.
    - `args.batch_norm` says what BatchNorm does.

    Args:
        model ([`transformers.PreTrainedModel`]): the model.
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): the recipe.
        **kwargs: as for `Trainer`.

    Raises:
        ValueError: where BatchNorm cannot do what is asked for, or would see batches of one image.
    """

    def __init__(self, model, args, **kwargs):
        set_up_batch_norm(model, args, kwargs.get("train_dataset"))
        super().__init__(model, args, **kwargs)
        self._num_labelled = None
        self._unfinished = None
        self._loader = None
        is_per_pixel = auto_model_class(model.config).__name__ == "AutoModelForSemanticSegmentation"
        self._is_divided = is_per_pixel and args.world_size * args.gradient_accumulation_steps > 1
        self._frozen = [module for module in model.modules() if is_batch_norm(module)]
        if args.batch_norm != "frozen":
            self._frozen = []

    # Data

    def get_train_dataloader(self):
        """The batches of this process."""
        if not isinstance(self.train_dataset, EndlessStream):
            return super().get_train_dataloader()
        self.args.ignore_data_skip = True  # it goes on where it was instead
        workers = {}
        if self.args.dataloader_num_workers > 0:
            workers = {
                "prefetch_factor": self.args.dataloader_prefetch_factor,
                "multiprocessing_context": self.args.dataloader_multiprocessing_context,
            }
        self._loader = StreamLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            pin_memory=self.args.dataloader_pin_memory,
            **workers,
        )
        return self._loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of one step; counts their labelled pixels over all processes."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._is_divided:
            count = sum(self._labelled(batch["labels"]) for batch in batches).to(device)
            self._num_labelled = self.accelerator.reduce(count, "sum").clamp(min=1)
        return batches, num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of a batch, so that the mean over batches and processes is that over the labelled pixels."""
        for module in self._frozen:
            module.eval()
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not (self._is_divided and model.training):
            return result
        num_parts = self.current_gradient_accumulation_steps * self.args.world_size
        share = num_parts * self._labelled(inputs["labels"]) / self._num_labelled
        return (result[0] * share, *result[1:]) if return_outputs else result * share

    def _labelled(self, labels):
        return (labels != ignore_index(self.model.config)).sum()

    # Evaluation

    def get_eval_dataloader(self, eval_dataset=None):
        """The photos to evaluate on; with several processes this one's, each of which no other has."""
        if self.args.world_size == 1:
            return super().get_eval_dataloader(eval_dataset)
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        process_index, num_processes = self.args.process_index, self.args.world_size
        if isinstance(data, datasets.IterableDataset):
            share = split_dataset_by_node(data, process_index, num_processes)
        else:
            share = Subset(data, range(process_index, len(data), num_processes))
        return DataLoader(share, batch_size=self.args.eval_batch_size, collate_fn=self.data_collator)

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
        """As `Trainer`'s, but several processes exchange counts: it gathers label maps, which must be of one size."""
        if self.args.world_size == 1:
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

    # Checkpoints

    def _get_output_dir(self, trial):
        return self._unfinished or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        """As `Trainer`'s, but in a folder aside, which is moved to its place when all processes have written."""
        output_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        self._unfinished = str(output_dir / UNFINISHED)
        unfinished, final = output_dir / UNFINISHED / name, output_dir / name
        if self.args.should_save and unfinished.exists():
            shutil.rmtree(unfinished)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._unfinished = None
        if self._loader is not None:
            state = json.dumps(self._loader.state_dict())
            (unfinished / f"stream_{self.args.process_index}.json").write_text(state)
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

    def _load_rng_state(self, checkpoint):
        """Besides the states of random generators, where the stream was."""
        super()._load_rng_state(checkpoint)
        if checkpoint is None or self._loader is None:
            return
        file = Path(checkpoint) / f"stream_{self.args.process_index}.json"
        file = file if file.exists() else Path(checkpoint) / "stream_0.json"  # then there are more processes now
        if file.exists():
            self._loader.load_state_dict(json.loads(file.read_text()))
        else:
            logger.warning("The stream goes on with a new pass, since the checkpoint does not say where it was.")
