"""The command that downloads and prepares sets; copies are in test_copies.py."""

import shlex
import sys

import pytest

from input_pipeline import prepare


def test_missing_files_of_a_manual_download_are_named(tmp_path, capsys):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    flags = ["imagenet2012", f"--data_dir={tmp_path}"]
    assert prepare.main(flags) == 2
    message = capsys.readouterr().err
    assert f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar by hand into {manual}" in message
    (manual / "ILSVRC2012_img_train.tar").touch()
    assert prepare.main(flags) == 2
    message = capsys.readouterr().err
    assert "download ILSVRC2012_img_val.tar by hand" in message


def test_a_failed_download_names_the_empty_manual_folder(tmp_path, capsys, monkeypatch):
    """The message about a manual download applies to any set that needs one."""

    class Builder:
        name, data_dir = "some", str(tmp_path / "some" / "1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Put faces.zip\n  there."

        def download_and_prepare(self):
            raise AssertionError("Manual directory does not exist")

    monkeypatch.setattr("tensorflow_datasets.builder", lambda *_, **__: Builder())
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    flags = ["some", f"--data_dir={tmp_path}"]
    assert prepare.main(flags) == 2
    manual = tmp_path / "downloads" / "manual"
    assert f"put into {manual}, which is empty: Put faces.zip there." in capsys.readouterr().err
    monkeypatch.setattr(Builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    assert prepare.main(flags) == 2
    assert "check the connection" in capsys.readouterr().err


def test_the_command_that_trains_can_be_copied_for_any_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("input_pipeline.originals.prepare", lambda *_: (tmp_path, True))
    assert prepare.main(["mnist", f"--data_dir={tmp_path / 'my data'}"]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:3] == ["python", "main.py", "--config=configs/lenet5.py:mnist"]
    assert command[-1] == f"--config.dataset.data_dir={tmp_path / 'my data'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist", "--raw"), "--raw applies to a copy: also give --shorter_side=PIXELS"),
        ((".",), ". is a folder, which training reads directly"),
        (("mnist", "--shorter_side=9", "--test_fraction=0.2"), "--test_fraction is for a folder"),
        (("mnist", "--shorter_side=9", "--raw", "--quality=9"), "--raw stores no JPEGs: leave"),
        (("mnist", "--shorter_side=9", "--processes=-1"), "--processes=-1: must be 0 or more"),
    ],
)
def test_options_that_would_change_nothing_are_refused(arguments, message, capsys):
    assert prepare.main(list(arguments)) == 2
    assert message in capsys.readouterr().err


def test_messages_name_the_flags_of_this_command(tmp_path, capsys, monkeypatch):
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "1.png").touch()
    flags = [str(tmp_path / "pictures"), "--shorter_side=16", f"--out={tmp_path / 'out'}"]
    assert prepare.main(flags) == 2
    message = capsys.readouterr().err
    assert "--test_fraction=0.1" in message and "config" not in message

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr("input_pipeline.originals.prepare", refuse)
    assert prepare.main(["mnist", f"--data_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == "prepare: [Errno 13] Permission denied: '/secret'\n"
