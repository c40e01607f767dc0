"""Trains a tiny run in a process of its own that sends itself a signal at a chosen moment.

    python run_until.py WORKDIR OVERRIDES_JSON SIGNAL MOMENT STEP

MOMENT: "dispatch" (before the steps from STEP on), "saving" (as soon as the save of STEP was
started), "saved" (when it is complete), "evaluating" (in the evaluation after STEP), "recording"
(in the middle of writing the record of STEP: half a line stands in metrics.jsonl).
"""

import json
import os
import signal
import sys

import conftest

from input_pipeline import batches
from train_lib import checkpoints, recorder, train
from train_lib.metric_writers import jsonl


def main(workdir, overrides, name, moment, step):
    number, step = getattr(signal, name), int(step)

    def now():
        os.kill(os.getpid(), number)

    if moment == "dispatch":
        make = batches.train_batches

        def train_batches(split, order, first, *rest):
            if first >= step:
                now()
            return make(split, order, first, *rest)

        batches.train_batches = train_batches
    elif moment in ("saving", "saved"):
        save = checkpoints.Checkpoints.save

        def save_and_die(self, at, *rest):
            save(self, at, *rest)
            if at == step:
                if moment == "saved":
                    self.wait()
                now()

        checkpoints.Checkpoints.save = save_and_die
    elif moment == "evaluating":
        evaluate = recorder.evaluate

        def evaluate_and_die(exp, state, *rest):
            if int(state.step) == step:
                now()
            return evaluate(exp, state, *rest)

        recorder.evaluate = evaluate_and_die
    elif moment == "recording":
        write = jsonl.JsonlWriter.write

        def write_half(self, record):
            if record["step"] == step:
                self._file.write(json.dumps(record)[:25])
                self._file.flush()
                now()
            write(self, record)

        jsonl.JsonlWriter.write = write_half
    try:
        train.train_and_evaluate(conftest.tiny_config(**json.loads(overrides)), workdir)
    except train.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
