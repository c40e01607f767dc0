"""TensorBoard's event files."""

import os
import time

from errors import reported
from train_lib.metric_writers.interface import MetricWriter, RunStart


class TensorBoardWriter(MetricWriter):
    """Appends records to the event files in the folder events/ of the workdir."""

    def __init__(self, start: RunStart):
        self.path = start.workdir / "events"
        self._first_step = start.step + 1
        self._events = None
        with self._os_errors_explained():
            self.path.mkdir(exist_ok=True)

    def write(self, record: dict) -> None:
        # Imported at the first record, not before the first training step: tensorboardX imports
        # torch if it is installed, which takes longer than all other imports. EventsWriter is used
        # because SummaryWriter writes in a thread, and blocks forever after an error in it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        with self._os_errors_explained():
            events = []
            if self._events is None:
                # Two files from the same second and process get different names.
                suffix = f".{os.getpid()}.{time.time_ns()}"
                self._events = EventsWriter(str(self.path / "events"), suffix)
                # TensorBoard then ignores the values of earlier files from this step on.
                start = SessionLog(status=SessionLog.START)
                events.append(Event(step=self._first_step, session_log=start))
            for name, value in record.items():
                if name not in ("step", "train/examples", "test/examples"):
                    events.append(Event(step=record["step"], summary=scalar(name, value)))
            for event in events:
                event.wall_time = time.time()
                self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        with self._os_errors_explained():
            if self._events is not None:
                self._events.close()

    def _os_errors_explained(self):
        advice = "free some space or check the folder, then run the same command again"
        return reported(f"cannot write TensorBoard events to {self.path}", advice, OSError)
