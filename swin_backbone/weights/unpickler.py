"""An unpickler that imports nothing and replaces unknown globals by placeholders.

``torch.load(weights_only=True)`` refuses a whole file because of one unknown class. This reader
continues. It interprets the opcodes of protocols 2 to 5 itself and calls only the functions of its
table. A :class:`~.placeholders.Placeholder` is only passed on: calling it, setting its state or
adding items to it has no effect.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .placeholders import Placeholder

# Python 2 names of modules, which pickles of protocol 2 use.
_RENAMED = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}
_DICTS = (dict, OrderedDict, Counter)


class Unfinished(Placeholder):
    """An object whose state follows in the pickle, and which is replaced when it arrives."""

    __slots__ = ('places',)
    places: list[int]  # in the memo

    def __init__(self, module: str, name: str) -> None:
        super().__init__(module, name)
        object.__setattr__(self, 'places', [])

    def finished(self, state: Any) -> Any:
        """Returns the object, or a placeholder if the object is not allowed."""
        raise NotImplementedError


class Unpickler:
    """Reads one pickle.

    Args:
        file: Binary file at the start of the pickle; afterwards at its end.
        table: Globals by full name. Those that are callable may be called.
        classes: Returns the classes whose objects may be created by ``__new__`` and given a state.
        persistent_load: Returns the object of a persistent id; default: all are refused.
    """

    def __init__(
        self,
        file: Any,
        table: Mapping[str, Any],
        classes: Callable[[], Iterable[type]] = tuple,
        persistent_load: Callable[[Any], Any] | None = None,
    ) -> None:
        self._file = file
        self._table = table
        self._callable = {id(value) for value in table.values() if callable(value)}
        self._classes = classes
        self._persistent_load = persistent_load
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # stacks below the marks
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Returns the pickled object.

        Raises:
            pickle.UnpicklingError: The pickle requires an operation that is not allowed.
            Exception: The pickle is damaged.
        """
        for opcode, argument, _ in pickletools.genops(self._file):
            if opcode.name == 'STOP':
                break
            if opcode.name in _CONSTANTS:
                self._push(argument)
            elif opcode.name in _NEW:
                self._push(_NEW[opcode.name]())
            elif step := _STEPS.get(opcode.name):
                step(self, argument)
            elif opcode.name not in _SKIPPED:
                raise pickle.UnpicklingError(f'Unsupported opcode {opcode.name}')
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _last(self, count: int) -> list[Any]:
        """Pops ``count`` values; the top of the stack is the last one."""
        return [self._stack.pop() for _ in range(count)][::-1]

    # --- names and calls --------------------------------------------------------------------------

    def _named(self, module: Any, name: Any) -> Any:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise pickle.UnpicklingError('refused a global whose name is no text')
        module = _RENAMED.get(module, module)
        found = self._table.get(f'{module}.{name}')
        return Placeholder(module, name) if found is None else found

    def _reduce(self, function: Any, arguments: Any) -> Any:
        """Calls a function. If a placeholder takes part, the result is that placeholder."""
        if (placeholder := _placeholder_in(function, arguments, {})) is not None:
            return placeholder
        if id(function) not in self._callable:
            raise pickle.UnpicklingError(f'refused to call {_form(function)}')
        return function(*arguments)

    def _new(self, kind: Any, arguments: Any, named: Any = None) -> Any:
        named = {} if named is None else named
        if (placeholder := _placeholder_in(kind, arguments, named)) is not None:
            return placeholder
        if not any(kind is known for known in self._classes()):
            raise pickle.UnpicklingError(f'refused to make an object of {_form(kind)}')
        return kind.__new__(kind, *arguments, **named)

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, Unfinished):
            self._finish(target, state)
        elif isinstance(target, Placeholder) or isinstance(state, Placeholder):
            pass
        elif type(target) is OrderedDict:  # a state dict
            if isinstance(state, dict) and isinstance(state.get('_metadata'), dict):
                target._metadata = state['_metadata']  # type: ignore[attr-defined]
        elif any(type(target) is known for known in self._classes()):
            _set_state(target, state)
        else:
            raise pickle.UnpicklingError(f'refused to give {_form(target)} a state')

    def _finish(self, target: Unfinished, state: Any) -> None:
        self._stack[-1] = made = target.finished(state)
        for place in target.places:
            if self._memo.get(place) is target:
                self._memo[place] = made

    def _persistent(self, name: Any) -> Any:
        if self._persistent_load is None:
            raise pickle.UnpicklingError('refused a persistent id')
        return self._persistent_load(name)

    # --- containers -------------------------------------------------------------------------------

    def _mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _fill(self, kinds: tuple[type, ...], items: list[Any]) -> None:
        """Adds items to the list, set or dict on the top of the stack, which must be of a kind."""
        target = self._stack[-1]
        if isinstance(target, Placeholder):
            return
        if type(target) not in kinds:
            raise pickle.UnpicklingError(f'refused to add items to {_form(target)}')
        if type(target) is list:
            target += items
        elif type(target) is set:
            target.update(map(checked_key, items))
        else:
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[checked_key(key)] = value

    # --- the memo ---------------------------------------------------------------------------------

    def _put(self, place: int) -> None:
        self._memo[place] = top = self._stack[-1]
        if isinstance(top, Unfinished):
            top.places.append(place)


def _placeholder_in(target: Any, arguments: Any, named: Any) -> Placeholder | None:
    """The first placeholder among a callable and its arguments, if any."""
    for found in (target, arguments, named):
        if isinstance(found, Placeholder):
            return found
    if type(arguments) is not tuple or type(named) is not dict:
        raise pickle.UnpicklingError('refused a call whose arguments are no tuple')
    return next((a for a in (*arguments, *named.values()) if isinstance(a, Placeholder)), None)


def _set_state(target: Any, state: Any) -> None:
    """Sets a state like pickle, but never calls what an earlier state put into the object."""
    if (setter := getattr(type(target), '__setstate__', None)) is not None:
        setter(target, state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        target.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        setattr(target, name, value)


def checked_key(key: Any) -> Any:
    """Returns the key of a dict or set; refuses nested ones, as hashing them may never end."""
    if isinstance(key, _NESTED):
        for item in key:
            if isinstance(item, _NESTED) and any(isinstance(inner, _NESTED) for inner in item):
                raise pickle.UnpicklingError('refused a key of tuples in tuples in tuples')
    return key


def _form(value: Any) -> str:
    """The name of a callable or the type of a value; its ``repr`` could be of any length."""
    if isinstance(value, type) or callable(value):
        return str(getattr(value, '__name__', type(value).__name__))
    return f'a {type(value).__name__}'


_NESTED = (tuple, frozenset)
_SKIPPED = ('PROTO', 'FRAME')
_CONSTANTS = (
    *('BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT'),
    *('BINSTRING', 'SHORT_BINSTRING', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
    *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
)
_NEW: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_LIST': list,
    'EMPTY_TUPLE': tuple,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
}
_STEPS: dict[str, Callable[[Unpickler, Any], Any]] = {
    'MARK': lambda self, _: self._mark(),
    'TUPLE': lambda self, _: self._push(tuple(self._since_mark())),
    'TUPLE1': lambda self, _: self._push(tuple(self._last(1))),
    'TUPLE2': lambda self, _: self._push(tuple(self._last(2))),
    'TUPLE3': lambda self, _: self._push(tuple(self._last(3))),
    'FROZENSET': lambda self, _: self._push(frozenset(map(checked_key, self._since_mark()))),
    'APPEND': lambda self, _: self._fill((list,), self._last(1)),
    'APPENDS': lambda self, _: self._fill((list,), self._since_mark()),
    'ADDITEMS': lambda self, _: self._fill((set,), self._since_mark()),
    'SETITEM': lambda self, _: self._fill(_DICTS, self._last(2)),
    'SETITEMS': lambda self, _: self._fill(_DICTS, self._since_mark()),
    'POP': lambda self, _: self._pop(),
    'POP_MARK': lambda self, _: self._since_mark(),
    'DUP': lambda self, _: self._push(self._stack[-1]),
    **dict.fromkeys(('BINPUT', 'LONG_BINPUT'), lambda self, place: self._put(place)),
    'MEMOIZE': lambda self, _: self._put(len(self._memo)),
    **dict.fromkeys(('BINGET', 'LONG_BINGET'), lambda self, place: self._push(self._memo[place])),
    'GLOBAL': lambda self, names: self._push(self._named(*names.split(' ', 1))),
    'STACK_GLOBAL': lambda self, _: self._push(self._named(*self._last(2))),
    'REDUCE': lambda self, _: self._push(self._reduce(*self._last(2))),
    'NEWOBJ': lambda self, _: self._push(self._new(*self._last(2))),
    'NEWOBJ_EX': lambda self, _: self._push(self._new(*self._last(3))),
    'BUILD': lambda self, _: self._build(*self._last(1)),
    'BINPERSID': lambda self, _: self._push(self._persistent(*self._last(1))),
}
