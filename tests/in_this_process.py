"""Preparing videos without worker processes: importing their libraries takes longer than preparing a small clip."""

import traceback

from data_prep.executors import Outcome


class InThisProcess:
    """Takes the place of `LocalExecutor`: runs the tasks here, one after another, without limits."""

    def __init__(self, function, **options):
        self.function, self.tasks = function, []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def submit(self, task):
        self.tasks.append(task)

    def outcomes(self):
        for task in self.tasks:  # may grow meanwhile
            try:
                outcome = Outcome("done", self.function(task, lambda value: None))
            except Exception:
                outcome = Outcome("error", detail=traceback.format_exc())
            yield task, outcome
