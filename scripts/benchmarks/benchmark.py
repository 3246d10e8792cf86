"""Measures the time and memory of OffSeg on SegFormer, of transformers' SegFormer of the same size, and of `literal`.

What is compared runs in turn in one process, so that all of it meets the same machine; memory is measured in a new
process for each model. The models are those of [`~benchmark_models`].
"""

import ctypes
import gc
import multiprocessing
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmark_cases import Case, Settings
from benchmark_models import (
    IMAGE_PROCESSORS,
    MODELS,
    border_cells,
    checkpoint_config,
    create_model,
    photo_file,
    photo_path,
    scene_batch,
    segformer_config,
    training_step,
)
from literal import literal_form, literal_offset_learning
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils.logging import disable_progress_bar

from offseg_hf.complexity import count_model_multiply_adds, count_parameters, empty_model
from offseg_hf.models.offset_learning import OffsetLearning
from offseg_hf.prediction.label_maps import predict_label_map
from offseg_hf.variants import VARIANTS, variant_config

PHOTO_SIZE = (768, 1024)  # height and width of the photo, and of the label map that is asked for
SMALL = (64, 64)  # of what warms up a process whose memory is measured
OFFSET_LEARNING_CHANNELS = 256
WINDOW_SIZE, STRIDE = 512, 480  # of sliding windows, as the paper's on ADE20K
# Memory is measured in processes that begin without anything of this one; Windows has no fork server.
PROCESSES = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
# Models whose memory is measured, for each measure.
MEMORY = {
    "photo_memory": MODELS,
    "training_memory": MODELS,
    "whole_memory": ("offseg", "segformer"),
    "window_memory": ("offseg",),
}


def measure_case(case: Case, settings: Settings) -> dict:
    """Measures one case.

    Args:
        case ([`Case`]): what to measure.
        settings ([`Settings`]): how.

    Returns:
        `dict`: the case's fields; `models`, for each model `values` (seconds or bytes, one for each round) with
        `median`, `lower_quartile` and `upper_quartile`; `ratios`, for each other model the median over the rounds of
        offseg ÷ that model; and, where there are such, `border_cells` and `cells` of the logits, and `graph_breaks`
        of each compiled model. For `counts`, `models` holds `parameters` and `multiply_adds`, and `paper_gflops` for
        what the paper has.

    Raises:
        MemoryError: where a process that measures memory was ended.
        RuntimeError: where it failed.
    """
    torch.set_num_threads(settings.num_threads)
    if case.measure == "counts":
        return {**asdict(case), "models": _counts(case, settings)}
    notes = {}
    if case.measure in MEMORY:
        values = {name: [_added_memory_in_new_process(name, case, settings)] for name in MEMORY[case.measure]}
    else:
        functions = FUNCTIONS[case.measure](case, settings, notes)
        values = alternating_seconds(functions, settings.num_repeats, settings.waits)
    ours = np.array(values["offseg"])
    return {
        **asdict(case),
        "models": {name: _summary(numbers) for name, numbers in values.items()},
        "ratios": {name: float(np.median(ours / np.array(values[name]))) for name in values if name != "offseg"},
        **notes,
    }


def alternating_seconds(functions, num_repeats, waits=False):
    """Times functions in turn, every other round in reverse, after a first round that does not count.

    Args:
        functions (`dict[str, callable]`): what to time, without arguments.
        num_repeats (`int`): rounds that count.
        waits (`bool`, *optional*, defaults to `False`): whether to wait for the GPU.

    Returns:
        `dict[str, list[float]]`: seconds of every round.
    """
    wait = torch.cuda.synchronize if waits else lambda: None
    seconds = {name: [] for name in functions}
    for number in range(num_repeats + 1):
        for name in list(functions)[:: 1 if number % 2 else -1]:
            wait()
            start = time.perf_counter()
            functions[name]()
            wait()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def added_memory(name, case, settings):
    """The peak of memory in use during one photo's path or one training step, less what was in use before.

    A picture of 64×64 pixels goes first: libraries, gradients and the optimiser's state are there before. To be called
    in a new process, which no earlier peak disturbs.

    Args:
        name (`str`): one of `MODELS`.
        case ([`Case`]): `"photo_memory"` of a photo that is resized to the case's size and `"whole_memory"` of one of
            that size, `"window_memory"` of the same by sliding windows, or `"training_memory"`.
        settings ([`Settings`]): how.

    Returns:
        `int`: bytes, see [`peak_above`].
    """
    torch.set_num_threads(settings.num_threads)
    device, dtype = settings.device, settings.torch_dtype
    model = _model(name, case, settings)
    if case.measure == "training_memory":
        run = training_step(model.train(), device, dtype)
        small, large = (scene_batch(case.batch_size, size, case.num_labels) for size in (SMALL, case.size))
    elif case.measure == "window_memory":
        image_processor = IMAGE_PROCESSORS[name](do_resize=False)
        run = partial(predict_label_map, model.to(dtype), image_processor, window_size=WINDOW_SIZE, stride=STRIDE)
        small, large = ((photo_file(size),) for size in (SMALL, case.size))
    else:
        photo_size = PHOTO_SIZE if case.measure == "photo_memory" else case.size
        run = photo_path(name, model.to(dtype), device, dtype)
        small, large = (photo_file(SMALL), SMALL, SMALL), (photo_file(photo_size), case.size, photo_size)
    run(*small)
    return peak_above(partial(run, *large), settings.waits)


def peak_above(function, waits=False):
    """The peak of memory in use while a function runs, less what was in use before.

    Args:
        function (`callable`): the function, without arguments.
        waits (`bool`, *optional*, defaults to `False`): whether it works on a GPU, whose memory is then meant.

    Returns:
        `int`: bytes: of the process on Linux, elsewhere from the largest before to the largest after; of torch's
        tensors on a GPU.
    """
    gc.collect()
    if waits:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)  # freed memory that is kept would hide a rise
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM falls to what is in use, see proc(5)
        before = _process_memory("VmRSS")
        function()
        return _process_memory("VmHWM") - before
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def _process_memory(name):
    """An entry of this process' status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _added_memory_in_new_process(name, case, settings):
    if PROCESSES.get_start_method() == "forkserver":  # every process is then forked of one that has imported these
        PROCESSES.set_forkserver_preload(["torch", "datasets", "transformers.modeling_utils"])
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_send_added_memory, args=(sender, name, case, settings))
    process.start()
    sender.close()  # the process has its own end of the pipe
    try:
        added = receiver.recv()
    except EOFError:
        added = "no reason given"
    process.join()
    if process.exitcode < 0:
        raise MemoryError(
            f"`sizes` must fit into memory, but the process of {name} at {case.height}x{case.width} was ended by "
            f"signal {-process.exitcode}; pass smaller ones."
        )
    if isinstance(added, str):
        raise RuntimeError(f"The memory of {name} at {case.height}x{case.width} could not be measured: {added}")
    return added


def _send_added_memory(sender, name, case, settings):
    """Sends what [`added_memory`] returns, or the error's text."""
    disable_progress_bar()  # of loading weights
    try:
        sender.send(added_memory(name, case, settings))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def _config(case, settings):
    if settings.checkpoint is not None:
        return checkpoint_config(settings.checkpoint)
    return variant_config(case.variant, num_labels=case.num_labels)


def _model(name, case, settings):
    config = _config(case, settings)
    return create_model(name, config, settings.checkpoint, settings.device, settings.segformer_decoder_size)


def _forward(case, settings, notes):
    models = {name: _model(name, case, settings).to(settings.torch_dtype) for name in MODELS}
    pixel_values = scene_batch(case.batch_size, case.size, case.num_labels)[0]
    inputs = {"pixel_values": pixel_values.to(settings.device, settings.torch_dtype)}
    models = _compiled(models, inputs, settings, notes)
    return {name: torch.inference_mode()(partial(model, **inputs)) for name, model in models.items()}


def _photo(case, settings, notes):
    device, dtype = settings.device, settings.torch_dtype
    models = {name: _model(name, case, settings).to(dtype) for name in MODELS}
    models = _compiled(models, None, settings, notes)
    arguments = photo_file(PHOTO_SIZE), case.size, PHOTO_SIZE
    return {name: partial(photo_path(name, model, device, dtype), *arguments) for name, model in models.items()}


def _post_processing(case, settings, notes):
    logits = []
    model = _model("offseg", case, settings).to(settings.torch_dtype)
    model.register_forward_hook(lambda module, inputs, outputs: logits.append(outputs.logits))
    run = photo_path("offseg", model, settings.device, settings.torch_dtype)
    run(photo_file(PHOTO_SIZE), case.size, PHOTO_SIZE)
    notes.update(border_cells=border_cells(logits[0]), cells=logits[0][0, 0].numel())
    outputs = SemanticSegmenterOutput(logits=logits[0])
    processors = {name: IMAGE_PROCESSORS[name]() for name in ("offseg", "segformer")}
    return {
        name: partial(processor.post_process_semantic_segmentation, outputs, target_sizes=[PHOTO_SIZE])
        for name, processor in processors.items()
    }


def _training(case, settings, notes):
    batch = scene_batch(case.batch_size, case.size, case.num_labels)
    inputs = {name: tensor.to(settings.device) for name, tensor in zip(("pixel_values", "labels"), batch)}
    models = {name: _model(name, case, settings).train() for name in MODELS}
    models = _compiled(models, inputs, settings, notes)
    steps = {name: training_step(model, settings.device, settings.torch_dtype) for name, model in models.items()}
    return {name: partial(step, *batch) for name, step in steps.items()}


def _offset_learning(case, settings, notes):
    torch.manual_seed(0)
    normalization = "class_bias" if case.num_labels < 3 else "layer_norm"
    layer = OffsetLearning(case.num_labels, OFFSET_LEARNING_CHANNELS, normalization)
    layer = layer.to(settings.device, settings.torch_dtype)
    features = torch.randn(case.batch_size, OFFSET_LEARNING_CHANNELS, *case.size)
    features = features.to(settings.device, settings.torch_dtype)
    functions = {"offseg": layer, "literal": partial(literal_offset_learning, layer)}
    functions = _compiled(functions, None, settings, notes)
    return {name: torch.inference_mode()(partial(function, features)) for name, function in functions.items()}


FUNCTIONS = {
    "forward": _forward,
    "photo": _photo,
    "post_processing": _post_processing,
    "training": _training,
    "offset_learning": _offset_learning,
}


def _compiled(models, inputs, settings, notes):
    """The models, compiled if they are to be; the graph breaks on `inputs`, if there are any, are noted."""
    if not settings.compile:
        return models
    torch.compiler.reset()
    if inputs is not None:
        notes["graph_breaks"] = {
            name: torch._dynamo.explain(model)(**inputs).graph_break_count for name, model in models.items()
        }
        torch.compiler.reset()
    return {name: torch.compile(model, dynamic=False) for name, model in models.items()}


def _counts(case, settings):
    config = _config(case, settings)
    configs = {
        "offseg": config,
        "segformer": segformer_config(config, settings.segformer_decoder_size),
        "literal": config,
    }
    counts = {}
    for name in MODELS:
        model = empty_model(configs[name])
        model = literal_form(model) if name == "literal" else model
        counts[name] = {
            "parameters": count_parameters(configs[name]),
            "multiply_adds": count_model_multiply_adds(model, *case.size),
        }
    if case.variant in VARIANTS and (case.num_labels, *case.size) == (150, 512, 512):
        for name in ("offseg", "segformer"):
            counts[name]["paper_gflops"] = VARIANTS[case.variant.replace("offseg", name)].gflops
    return counts


def _summary(values):
    lower, median, upper = (float(number) for number in np.percentile(values, (25, 50, 75)))
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper, "values": values}
