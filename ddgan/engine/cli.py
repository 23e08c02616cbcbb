"""The old name of ``ddgan.utils.cli``."""

from ddgan.utils.cli import OptionsAction, progress_bar, user_errors

__all__ = ["OptionsAction", "progress_bar", "user_errors"]
