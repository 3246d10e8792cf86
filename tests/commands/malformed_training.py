"""Malformed arguments of `offseg train`: what is typed, and what the one sentence must say.

`{train}` is a command line that works, whose arguments those after it override; `{data}` a data set, `{model}` a
model's folder, `{file}` a text file, `{new}` a path where nothing is. Add rows.
"""

TRAIN = (
    "train --model_name_or_path {model} --dataset {data} --num_labels 8 --output_dir {new} --max_steps 2 "
    "--crop_size 64 64 --resize 96 64 --per_device_train_batch_size 2 --use_cpu --disable_tqdm True"
)

ROWS = (
    ("{train} --max_steps 0", "`max_steps` must be a whole number, at least 1, or -1, got 0; leave it out for -1"),
    ("{train} --max_steps -5", "`max_steps` must be a whole number, at least 1, or -1, got -5"),
    ("{train} --max_steps -1 --num_train_epochs 0", "`num_train_epochs` must be above 0, got 0.0"),
    ("{train} --num_train_epochs nan", "`num_train_epochs` must be above 0, got nan"),
    ("{train} --gradient_accumulation_steps 0", "`gradient_accumulation_steps` must be a whole number, at least 1"),
    ("{train} --gradient_accumulation_steps -1", "`gradient_accumulation_steps` must be a whole number, at least 1"),
    ("{train} --per_device_train_batch_size 0", "`per_device_train_batch_size` must be a whole number, at least 1"),
    ("{train} --per_device_train_batch_size -1", "`per_device_train_batch_size` must be a whole number, at least 1"),
    ("{train} --per_device_eval_batch_size 0", "`per_device_eval_batch_size` must be a whole number, at least 1"),
    ("{train} --total_batch_size 0", "`total_batch_size` must be a whole number, at least 1, got 0; leave it out"),
    ("{train} --total_batch_size 3", "`total_batch_size` must be devices × `gradient_accumulation_steps` × "),
    ("{train} --head_learning_rate_factor -1", "`head_learning_rate_factor` must be above 0, got -1.0; leave it out"),
    ("{train} --head_learning_rate_factor nan", "`head_learning_rate_factor` must be above 0, got nan"),
    ("{train} --head_learning_rate_factor inf", "`head_learning_rate_factor` must be above 0, got inf"),
    ("{train} --learning_rate inf", "`learning_rate` must be above 0, got inf; leave it out for 6e-05"),
    ("{train} --learning_rate -1", "`learning_rate` must be above 0, got -1.0"),
    ("{train} --learning_rate 0", "`learning_rate` must be above 0, got 0.0"),
    ("{train} --learning_rate fast", "argument --learning_rate: invalid float value: 'fast'"),
    ("{train} --weight_decay -1", "`weight_decay` must be at least 0, got -1.0; leave it out for 0.01"),
    ("{train} --weight_decay nan", "`weight_decay` must be at least 0, got nan"),
    ("{train} --adam_beta1 1", "`adam_beta1` must be at least 0 and below 1, got 1.0; leave it out for 0.9"),
    ("{train} --adam_epsilon 0", "`adam_epsilon` must be above 0, got 0.0"),
    ("{train} --max_grad_norm -1", "`max_grad_norm` must be at least 0, got -1.0"),
    ("{train} --lr_decay_power nan", "`lr_decay_power` must be above 0, got nan"),
    ("{train} --warmup_steps -1", "`warmup_steps` must be at least 0, got -1.0"),
    ("{train} --layer_decay 0", "`layer_decay` must be above 0 and at most 1, got 0.0; leave it out for 1.0"),
    ("{train} --brightness nan", "`brightness` must be at least 0 and at most 255, got nan; leave it out for 32.0"),
    ("{train} --brightness -1", "`brightness` must be at least 0 and at most 255, got -1.0"),
    ("{train} --hue inf", "`hue` must be at least 0 and at most 180, got inf"),
    ("{train} --scale_range 0.001 0.001", "`scale_range` must be numbers, each at least 0.05 and at most 20, got"),
    ("{train} --scale_range 1", "`scale_range` must be 2 numbers, got 1.0; leave it out for 0.5 2.0"),
    ("{train} --scale_range 2 1", "`scale_range` must be a range, the smaller number first, got 2.0 1.0"),
    ("{train} --contrast nan 1", "`contrast` must be numbers, each at least 0 and at most 100, got nan 1.0"),
    ("{train} --crop_size 1 1", "`crop_size` must be numbers, each a whole number, at least 32 and at most 65535"),
    ("{train} --crop_size 64", "`crop_size` must be 2 numbers, got 64; leave it out"),
    ("{train} --resize 0 64", "`resize` must be numbers, each a whole number, at least 1 and at most 65535, got 0 64"),
    ("{train} --eval_size 5", "`eval_size` must be 2 numbers, got 5; leave it out"),
    ("{train} --shuffle_buffer_size 0", "`shuffle_buffer_size` must be a whole number, at least 1, got 0"),
    ("{train} --data_seed -1", "`data_seed` must be a whole number, at least 0 and at most 4294967295, got -1"),
    ("{train} --seed -1", "`seed` must be a whole number, at least 0 and at most 4294967295, got -1"),
    ("{train} --dataloader_num_workers -1", "`dataloader_num_workers` must be a whole number, at least 0, got -1"),
    ("{train} --save_steps 0", "`save_steps` must be above 0, got 0.0"),
    ("{train} --save_total_limit 0", "`save_total_limit` must be a whole number, at least 1, got 0; leave it out"),
    ("{train} --logging_steps nan", "`logging_steps` must be above 0, got nan"),
    ("{train} --num_labels 0", "`num_labels` must be a whole number, at least 1"),
    ("{train} --label_smoothing 1", "`label_smoothing` must be at least 0 and below 1, got 1.0; leave it out"),
    ("{train} --attention_loss_weight nan", "`attention_loss_weight` must be at least 0, got nan"),
    ("{train} --ohem_threshold 0", "`ohem_threshold` must be above 0 and at most 1, got 0.0; leave it out"),
    ("{train} --class_weights nan 1 1 1 1 1 1 1", "`class_weights` must be 8 finite numbers, not negative"),
    ("{train} --decoder_hidden_size 0", "`decoder_hidden_size` must be a whole number, at least 1, got 0"),
    ("{train} --lora_rank 0", "`lora_rank` must be a whole number, at least 1, got 0"),
    ("{train} --output_dir {data}", "`output_dir` must be a new or empty folder, got "),
    ("{train} --train_split nope", "`train_split` must be one of the splits"),
    ("{train} --eval_split nope", "`eval_split` must be one of the splits"),
    ("{train} --variant offseg-b9", "`variant` must be one of offseg-b0, offseg-b1"),
    (
        "{train} --metric_for_best_model nope",
        "`metric_for_best_model` must be one of mean_iou, mean_accuracy, overall",
    ),
    (
        "{train} --metric_for_best_model iou_nope",
        "or iou_ and a class, such as iou_LABEL_7, got iou_nope",
    ),
    ("{train} --report_to wandb", "`report_to` must name what is installed, got 'wandb', which is not; run `pip inst"),
    ("{train} --report_to nope", "`report_to` must be none or one of azure_ml, clearml"),
    ("{train} --skip_broken_examples -1", "`skip_broken_examples` must be a whole number, at least 0 and at most"),
    (
        "{train} --per_device_train_batch_size 16 --dataloader_drop_last",
        "`dataloader_drop_last` must be left out for 8 images, since it drops a batch of fewer than 16, and no step "
        "would be left; leave it out, or pass `per_device_train_batch_size 8`.",
    ),
    (
        "{train} --dataset {photos} --per_device_eval_batch_size 2",
        "`per_device_eval_batch_size` must be 1 for photos of several sizes, and example 1 has 40 × 64 pixels, "
        "example 0 64 × 40; leave it out.",
    ),
    ("{train} --dataset {one}", "for 1 images; pass `batch_norm frozen` where weights are pre-trained"),
    ("{train} --model_name_or_path {lost}", "`model_name_or_path` must have finite weights, but in"),
    ("{train} --output_dir {file}", "`output_dir` must be a folder, and"),
    ("{train} --output_dir {file}/below", "`output_dir` must lie in a folder, and"),
    ("{train} --resume_from_checkpoint last", "`resume_from_checkpoint` must be a checkpoint's folder, or 'last'"),
    (
        "{train} --max_steps -1 --num_train_epochs 0.01 --warmup_steps 5",
        "`warmup_steps` must be less than the 1 steps",
    ),
    ("{train} --eval_strategy steps --eval_split none", "`eval_strategy` must be no without an evaluation split"),
)
