"""What a fuzz target is, and what becomes of an input: a documented outcome, or a bug."""

from __future__ import annotations

import contextlib
import re
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from swin_backbone import ArgumentError, CheckpointError

# How the package's TypeErrors begin: of arguments that it does not have, and of `pretrained`.
MISSPELT = re.compile(
    r'\w+ got (?:an )?unknown arguments? |\w+ takes up to \d+ |pretrained must be a str'
)
# What torch itself says of a state dict, in strict mode or whatever it cannot copy.
TORCHS = re.compile(r'Error\(s\) in loading state_dict|Expected state_dict to be dict-like')


class Hang(BaseException):
    """An input took longer than it may."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        inputs: Draws an input.
        run: Gives an input to the package; returns how it was taken, ``'accepted'`` if nothing
            else is to be said.
        also: Further exceptions that are documented.
    """

    inputs: SearchStrategy
    run: Callable[[Any], str]
    also: tuple[type[Exception], ...] = ()


@dataclass
class Report:
    """What became of many inputs: outcomes counted, and the shortest input of each bug."""

    outcomes: Counter[str] = field(default_factory=Counter)
    bugs: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: str, bug: str | None, value: Any) -> None:
        self.outcomes[outcome] += 1
        if bug is not None and len(shown := repr(value)) < len(self.bugs.get(bug, shown + ' ')):
            self.bugs[bug] = shown


def outcome_of(target: Target, value: Any, seconds: float = 30.0) -> tuple[str, str | None]:
    """How an input was taken within some seconds; if that is a bug, which."""
    try:
        with _time_limit(seconds):
            return target.run(value), None
    except (ArgumentError, CheckpointError) as error:
        return type(error).__name__, None
    except Hang as error:
        return 'undocumented', f'hangs {_place(error)}'
    except Exception as error:
        said = str(error)
        if isinstance(error, TypeError) and MISSPELT.match(said):
            return 'TypeError', None
        if isinstance(error, RuntimeError | TypeError) and TORCHS.match(said):
            return "torch's own", None
        if target.also and isinstance(error, target.also):
            return 'OSError' if isinstance(error, OSError) else type(error).__name__, None
        first = said.splitlines()[0][:150] if said else ''
        return 'undocumented', f'{type(error).__name__} {_place(error)}: {first}'


def fuzz(target: Target, count: int, number: int) -> Report:
    """Runs a target on ``count`` inputs; ``number`` is the seed, and the same draws the same."""
    report = Report()

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(target.inputs)
    def once(value: Any) -> None:
        report.add(*outcome_of(target, value), value)

    once()
    return report


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _place(error: BaseException) -> str:
    """The package's line that was running, without which two bugs look alike."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if '/swin_backbone/' in frame.filename] or frames[-1:]
    return f'in {own[-1].filename.rpartition("/")[2]}, {own[-1].name}' if own else ''
