"""Go on with the learning rate's schedule of a run that is resumed."""

import warnings
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from reprlib import repr as shown

MAX_STEP = 2**53
PROGRESS = {"last_step", "_global_step", "_last_value"}  # what changes while a scheduler of mmengine runs


class Schedule:
    """The schedulers of a run at its first step, from which `resume` takes them to a checkpoint's step.

    Args:
        schedulers: mmengine's, newly built; a list, or a dict of lists where there are several optimizers. The
            learning rates of the optimizers must still be those of the first step.
    """

    def __init__(self, schedulers: list | dict) -> None:
        self._groups = schedulers if isinstance(schedulers, dict) else {None: schedulers}
        self._first = [
            (scheduler, [group[scheduler.param_name] for group in scheduler.optimizer.param_groups])
            for part in self._groups.values()
            for scheduler in part
        ]

    def resume(self, filename: str, states: object, step: int) -> bool:
        """Go to the step of the states; the learning rates must be the checkpoint's already.

        Where the checkpoint's schedule is the config's, its states are loaded. Where it is another, as after a change
        of --steps, the config's schedule counts: it runs from the first step to the checkpoint's, and the learning
        rate is what it says there. Otherwise a longer run would go on with the end of the shorter one, a rate of 0.

        Args:
            filename: of the checkpoint, for messages.
            states: what the file has as "param_schedulers".
            step: of the checkpoint.

        Returns:
            Whether the checkpoint's schedule is the config's.

        Raises:
            ValueError: the states are not those of such schedulers. A scheduler accepts any attributes: so keys are
                compared with its own, and values must be plain.
        """
        pairs = []
        for name, part in self._groups.items():
            found = states if name is None else states.get(name) if isinstance(states, Mapping) else None
            if not isinstance(found, list) or len(found) != len(part):
                raise ValueError(f"{filename} has another number of schedulers than the config ({len(part)})")
            pairs += [(scheduler, _checked(filename, scheduler, state)) for scheduler, state in zip(part, found)]
        same = all(_settings(state).items() <= scheduler.state_dict().items() for scheduler, state in pairs)
        if same:
            for scheduler, state in pairs:
                scheduler.load_state_dict(state)
            return True
        for scheduler, values in self._first:
            for group, value in zip(scheduler.optimizer.param_groups, values):  # a loaded optimizer has new groups
                group[scheduler.param_name] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the optimizer does not step
            for _ in range(step):
                for scheduler, _ in self._first:
                    scheduler.step()
        return False


def _settings(state: Mapping) -> dict:
    """What a scheduler was built with."""
    return {key: value for key, value in state.items() if key not in PROGRESS}


def _checked(filename: str, scheduler, state: object) -> dict:
    own = scheduler.state_dict()
    if not isinstance(state, Mapping) or not state.keys() <= own.keys():
        raise ValueError(f"{filename} has a schedule of another kind than the config's {type(scheduler).__name__}")
    checked = dict(state)
    for key, value in state.items():
        if isinstance(own[key], Counter) and _counts(value):  # milestones: a plain dict where a file was read
            checked[key] = Counter(value)
            continue
        wrong = False
        if key in ("last_step", "_global_step"):
            wrong = type(value) is not int or not -1 <= value <= MAX_STEP
        elif key == "_last_value":
            wrong = not isinstance(value, list) or not all(type(v) in (int, float) and isfinite(v) for v in value)
        if wrong or callable(own[key]) or type(own[key]) is not type(value) and not _both_numbers(own[key], value):
            raise ValueError(
                f"{filename} has a schedule with {key} = {shown(value)}: expected something like {shown(own[key])}"
            )
    return checked


def _counts(value: object) -> bool:
    """Whether a value is a dict of whole numbers."""
    return isinstance(value, Mapping) and all(isinstance(number, int) for pair in value.items() for number in pair)


def _both_numbers(first: object, second: object) -> bool:
    """Whether both are numbers, or None where a number may be."""
    return all(value is None or isinstance(value, (int, float)) for value in (first, second))
