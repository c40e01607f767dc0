"""Trackio, a tracker that keeps the runs of a machine in a local database and shows them."""

import contextlib
import importlib.util
import io
import os

from command_line import console
from configs import compare
from errors import UserError
from train_lib.metric_writers.interface import MetricWriter, RunStart

PROJECT = "canon"
_ID = "trackio_run_id"  # a file in the workdir: which of Trackio's runs is the workdir's
_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def check() -> None:
    """Raises UserError if Trackio is not installed, or would send records to another machine."""
    if importlib.util.find_spec("trackio") is None:
        raise UserError(
            "config.tracker=trackio needs Trackio: python -m pip install trackio (or '.[tracker]')"
        )
    for name in _REMOTE:
        if os.environ.get(name):
            raise UserError(
                f"config.tracker=trackio writes to this machine only, and the environment variable"
                f" {name} names another one: unset it"
            )


class TrackioWriter(MetricWriter):
    """Writes records to a run of Trackio's project `canon`.

    Trackio cannot delete single records. So the run of an earlier start is replaced by a new one,
    to which the records up to the resumed step are written first.
    """

    def __init__(self, start: RunStart):
        import trackio  # it is optional, and takes more than a second

        self._trackio = trackio
        id_path, workdir = start.workdir / _ID, str(start.workdir.resolve())
        with _quiet_and_offline():
            if id_path.exists():
                _delete(trackio, id_path.read_text(errors="replace").strip(), workdir)
            self._run = trackio.init(
                PROJECT,
                name=start.name,
                config={"workdir": workdir, **compare.flatten(start.config)},
                embed=False,  # no dashboard in a notebook
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        id_path.write_text(f"{self._run.id}\n")
        for record in start.records:
            self.write(record)
        command = f"trackio show --project {PROJECT}"
        print(f"tracked by Trackio as {start.name}: {command}", file=console(), flush=True)

    def write(self, record: dict) -> None:
        values = {name: value for name, value in record.items() if name != "step"}
        self._run.log(values, step=record["step"])  # queues them; a thread writes them

    def close(self) -> None:
        with _quiet_and_offline():
            self._trackio.finish()


def _delete(trackio, run_id: str, workdir: str) -> None:
    """Deletes the run of this id, unless another workdir wrote it, of which this one is a copy."""
    with contextlib.suppress(ValueError):  # the project does not exist
        for run in trackio.Api().runs(PROJECT):
            if run.id == run_id and (run.config or {}).get("workdir") == workdir:
                run.delete()


@contextlib.contextmanager
def _quiet_and_offline():
    """Nothing on standard output, and no request to Hugging Face.

    Trackio asks for the name of a user who is logged in there, and stores it with the run.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
