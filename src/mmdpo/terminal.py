"""What the command line writes to a terminal besides its results: our own log, and little of other libraries."""

from __future__ import annotations

import logging
import sys
import warnings

NOISE = {
    # PEFT imports bitsandbytes, where that is installed, on every start; the kernel is for 4-bit models on CPUs.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # accelerate imports DeepSpeed, where that is installed, whatever a run uses.
    "DeepSpeed": "Setting accelerator to CPU",
    # Trainer lets the model's configuration take over the tokenizer's tokens, as it always does.
    "transformers.trainer_utils": "The tokenizer has new PAD/BOS/EOS tokens",
}
"""Messages that come on a normal run and ask for nothing, by logger, as they begin."""

WARNINGS = {
    # PEFT asks for it on every load of an adapter.
    "`is_gradient_checkpointing` is deprecated": FutureWarning,
    # torch says it twice for every loader; `mmdpo.training.run` says it once.
    "This DataLoader will create": UserWarning,
}
"""The same for Python's warnings."""


def _says_something(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE[record.name])


def leave_out_noise() -> None:
    """Keeps `NOISE` and `WARNINGS` off the terminal; all else that libraries say stays."""
    for name in NOISE:
        logging.getLogger(name).addFilter(_says_something)
    for begins, category in WARNINGS.items():
        warnings.filterwarnings("ignore", message=begins, category=category)


def hide_loading_bars() -> None:
    """Turns off the bars of transformers, which count tensors of a file; those of downloads stay."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    downloads_are_shown = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if downloads_are_shown:
        enable_progress_bars()


def quiet_libraries() -> None:
    """Turns off transformers' remarks too, for verbs that train nothing."""
    from transformers.utils import logging as transformers_logging

    hide_loading_bars()
    transformers_logging.set_verbosity_error()


class _Lines(logging.Handler):
    """Writes each record as a line on stderr, above a bar if there is one; a warning says that it is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line."""
        from tqdm import tqdm

        try:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            tqdm.write(f"{level}{self.format(record)}", file=sys.stderr)
        except Exception:
            self.handleError(record)


def show_log(*, is_main: bool) -> None:
    """Shows how a run goes, on the main process, and warnings of all of them and of libraries."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Lines()])
    logging.getLogger("mmdpo").setLevel(logging.INFO if is_main else logging.WARNING)
