"""What a user sees of an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from ddgan.errors import UserError
from ddgan.utils.cli import user_errors

ROOT = Path(__file__).parents[2]


def said(capsys, error):
    with pytest.raises(SystemExit) as caught, user_errors():
        raise error
    return caught.value.code, capsys.readouterr().err


def test_errors_are_one_message(capsys):
    assert said(capsys, UserError("no such run")) == (1, "error: no such run\n")
    status, text = said(capsys, ValueError("size is 0"))
    assert (status, text.splitlines()[0]) == (1, "error: size is 0")
    assert "DDGAN_TRACEBACK=1" in text
    # Without the quotes and escapes of a representation.
    assert "error: it's not known\n" in said(capsys, KeyError("it's not known"))[1]
    assert "error: 'name'\n" in said(capsys, KeyError("name"))[1]
    assert said(capsys, KeyboardInterrupt()) == (130, "interrupted\n")


class Failing(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise ValueError("UserError: within")
        except ValueError:
            raise UserError("image 7 is\nbroken: ValueError: bad") from None


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_worker_of_a_loader_is_quoted_without_its_traceback(capsys, monkeypatch, num_workers):
    monkeypatch.delenv("DDGAN_TRACEBACK", raising=False)
    with pytest.raises(SystemExit), user_errors():
        list(DataLoader(Failing(), num_workers=num_workers))
    assert capsys.readouterr().err == "error: image 7 is\nbroken: ValueError: bad\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_character_ends_a_program(encoding):
    """Whatever the encoding of a terminal, and for names of files that are not UTF-8."""
    code = (
        "from ddgan.utils.cli import user_errors\nfrom ddgan.errors import UserError\n"
        "with user_errors():\n print('0.25² → 图')\n print('\\udcff')\n raise UserError('图 wrong')"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 1
    assert done.stdout.startswith(b"0.25")
    assert done.stderr.endswith(b" wrong\n")
    assert b"Traceback" not in done.stderr


def test_old_names():
    from ddgan.data import decoding
    from ddgan.engine import cli as old_cli
    from ddgan.engine import load_config
    from ddgan.utils import cli

    assert old_cli.OptionsAction is cli.OptionsAction
    assert decoding.decode_picture is decoding.decode_image
    configs = ROOT / "tests" / "configs"
    old, new = (load_config(configs / f"{name}.py") for name in ("pictures", "images"))
    assert old.to_dict() == new.to_dict()
