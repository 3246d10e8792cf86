"""Trains a tiny model, as a program that tests start, kill and launch in several processes."""

import argparse
import json
from pathlib import Path

import torch

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor
from offseg_hf.data import TrainTransform, evaluation_dataset, training_dataset
from offseg_hf.data.scenes.scenes import SCENE_LABELS
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.checkpoints import check_output_dir
from offseg_hf.training.trainer import SegmentationTrainer

parser = argparse.ArgumentParser()
parser.add_argument("output_dir")
parser.add_argument("dataset")
parser.add_argument("--map_style", action="store_true")
parser.add_argument("--batch_size", type=int, default=2)
parser.add_argument("--batch_norm")
parser.add_argument("--max_steps", type=int)
parser.add_argument("--save_steps", type=int)
parser.add_argument("--dataloader_num_workers", type=int, default=0)
parser.add_argument("--resume_from_checkpoint")
parser.add_argument("--freeze_backbone", action="store_true")
parser.add_argument("--evaluate", action="store_true")
parser.add_argument("--sets", action="store_true")
given = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
config = OffSegConfig(
    hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 2, 2), decoder_hidden_size=16,
    id2label=dict(enumerate(SCENE_LABELS)), drop_path_rate=0.0 if given.map_style else 0.1,
)  # fmt: skip
model = OffSegForSemanticSegmentation(config)
data = training_dataset(
    given.dataset, "train", image_processor=OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
    transform=TrainTransform(crop_size=(64, 64), resize=(96, 64)), num_labels=len(SCENE_LABELS),
    streaming=not given.map_style, shuffle_buffer_size=4,
)  # fmt: skip
args = SegmentationTrainingArguments(
    output_dir=given.output_dir, max_steps=given.max_steps, per_device_train_batch_size=given.batch_size,
    batch_norm=given.batch_norm, save_strategy="steps", save_steps=given.save_steps, logging_steps=1, warmup_steps=1,
    learning_rate=1e-3, use_cpu=True, disable_tqdm=True, freeze_backbone=given.freeze_backbone,
    dataloader_num_workers=given.dataloader_num_workers,
    dataloader_multiprocessing_context="fork" if given.dataloader_num_workers else None,
)  # fmt: skip
trainer = SegmentationTrainer(model, args, train_dataset=data)
if given.evaluate:
    processor = OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    source = {"image_processor": processor, "num_labels": len(SCENE_LABELS), "streaming": not given.map_style}
    photos = evaluation_dataset(given.dataset, "validation", **source)
    trainer = SegmentationTrainer(
        model,
        args,
        train_dataset=data,
        eval_dataset={"first": photos, "second": photos} if given.sets else photos,
        image_processor=processor,
    )
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        Path(given.output_dir, "metrics.json").write_text(json.dumps(metrics))
else:
    trainer.train(check_output_dir(given.output_dir, given.resume_from_checkpoint, overwrite=True))
    if trainer.is_world_process_zero():
        Path(given.output_dir, "log.json").write_text(json.dumps(trainer.state.log_history))
if torch.distributed.is_initialized():  # whose threads can abort a process that ends beside them
    torch.distributed.destroy_process_group()
