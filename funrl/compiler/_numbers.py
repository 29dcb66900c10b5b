"""Numbers of Python that change from call to call, as inputs of a program."""

import operator
from typing import Any

import torch


class NotATensor(BaseException):
    """A number was used where a tensor cannot be: it has to be fixed in the program. A BaseException, which functions do not catch."""


class Number:
    """A float of Python that is known only when the program runs.

    With tensors it behaves as the float would: it takes the dtype of floating-point tensors, and makes integers the default dtype.
    Where its value is asked for (``if``, ``math.log``, ``float``), the function is traced again with the number fixed.
    """

    __class__: Any = property(lambda self: float)  # for isinstance

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value  # float64 []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in _flat((args, kwargs)) if isinstance(x, torch.Tensor)]
        dtypes = [x.dtype for x in tensors if x.is_floating_point()]
        dtype = torch.get_default_dtype()
        if dtypes:
            # As torch promotes: tensors with dimensions count before those without.
            sized = [x.dtype for x in tensors if x.is_floating_point() and x.ndim]
            dtype = (sized or dtypes)[0]
            for other in sized or dtypes:
                dtype = torch.promote_types(dtype, other)

        def tensor(x: Any) -> Any:
            if type(x) is Number:
                return x.value.to(dtype)
            if type(x) in (tuple, list):
                return type(x)([tensor(item) for item in x])
            return x

        return func(*tensor(args), **{name: tensor(x) for name, x in kwargs.items()})

    def _asked(self, *args: Any, **kwargs: Any) -> Any:
        raise NotATensor

    __bool__ = __float__ = __int__ = __index__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __round__ = __complex__ = _asked
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __neg__(self) -> "Number":
        return Number(-self.value)

    def __abs__(self) -> "Number":
        return Number(self.value.abs())


def _with(name: str, f: Any) -> None:
    def forward(self: Number, other: Any) -> Any:
        if isinstance(other, torch.Tensor):
            return Number.__torch_function__(f, (), (self, other))
        return Number(f(self.value, _value(other)))

    def backward(self: Number, other: Any) -> Any:
        if isinstance(other, torch.Tensor):
            return Number.__torch_function__(f, (), (other, self))
        return Number(f(_value(other), self.value))

    setattr(Number, f"__{name}__", forward)
    setattr(Number, f"__r{name}__", backward)


def _value(x: Any) -> Any:
    if type(x) is Number:
        return x.value
    if isinstance(x, (int, float)):
        return torch.tensor(float(x), dtype=torch.float64)
    raise NotATensor


for _name, _f in {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv, "pow": operator.pow}.items():
    _with(_name, _f)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [x for item in value for x in _flat(item)]
    if isinstance(value, dict):
        return [x for item in value.values() for x in _flat(item)]
    return [value]
