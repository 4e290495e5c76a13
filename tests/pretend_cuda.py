"""A CUDA device that is only pretended: what is meant for a GPU runs on the CPU, and mistakes show.

    with pretended() as counts:
        data = load("digits", device="cuda")
        ...
    counts["kernels"], counts["copies"], counts["waits"], counts.lines("waits")

A tensor "on the device" is an `OnDevice`: it says `cuda:0`, and holds an ordinary tensor that the
arithmetic is done with. So numbers are real, and a test may compare them with those of a CPU.
Every operator passes through `_Call`, which refuses what CUDA refuses,

- tensors of two devices in one operator (a CPU's scalar may join in where all is elementwise,
  and a CPU's indices may choose),
- a generator of the CPU for numbers that are drawn on the device,

and counts what costs time on a GPU whatever the arithmetic: `kernels` that are launched, `copies`
to the device that block and `sendings` that do not, `waits` of Python for the device, and
`unseeded` draws from the device's own stream.

What it cannot do: `inference_mode` (replaced by `no_grad`), autocast on the device, worker threads
that compute (a mode belongs to one thread), torch.compile, and CUDA graphs. Optimisers take their
path of one tensor after the other, so that kernels of Adam and SGD are counted too high. No timing
and no memory figure means anything here, and a test that passes here has not run on a GPU.
"""

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch._dynamo  # it looks through torch.cuda when it is first imported: before that changes
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")

# ---- counting


class Counts(Counter):
    "How often a kind of thing happened, and at which lines of ddnb."

    def __init__(self):
        super().__init__()
        self.where = Counter()

    def note(self, kind):
        self[kind] += 1
        self.where[kind, _line()] += 1

    def lines(self, kind, most=20):
        "The lines where it happened most often: [(line, how often)]."
        found = Counter({line: n for (k, line), n in self.where.items() if k == kind})
        return found.most_common(most)

    def reset(self):
        self.clear()
        self.where.clear()


def _line():
    "The innermost line of the package that is being run."
    frame = sys._getframe(2)
    while frame:
        room = frame.f_code.co_filename.rpartition("/ddnb/")[2]
        if room != frame.f_code.co_filename:
            return f"{room}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "the caller"


# ---- a tensor that says where it is


def _refuse_numpy(self, *args, **kwargs):
    raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")


class OnDevice(torch.Tensor):
    "A tensor on the pretended device; `held` is the one that has the numbers."

    # The shell has PyTorch's 'meta' device, for which autograd needs no driver; whoever asks hears
    # 'cuda:0', except where C++ asks (so an operator that is given 'meta' means this device).

    @staticmethod
    def __new__(cls, held, requires_grad=False):
        layout = held.size(), held.stride(), held.storage_offset()
        options = dict(dtype=held.dtype, device="meta", requires_grad=requires_grad)
        return torch.Tensor._make_wrapper_subclass(cls, *layout, **options)

    def __init__(self, held, requires_grad=False):
        self.held = held

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)
    numpy = __array__ = _refuse_numpy

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        self.held = other.held

    def __getitem__(self, key):
        return super().__getitem__(_with_lists_there(key))

    def __setitem__(self, key, value):
        super().__setitem__(_with_lists_there(key), value)

    def tolist(self):
        return self.cpu().tolist()

    def data_ptr(self):
        return self.held.data_ptr()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def __repr__(self, **options):
        return f"OnDevice({self.held.detach()!r})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = OnDevice(self.held.detach().clone())
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _Call(op, args, kwargs or {}).result()


def _with_lists_there(key):
    "An index in which lists are tensors on the device, as Python's binding makes them."
    if isinstance(key, tuple):
        return tuple(map(_with_lists_there, key))
    if isinstance(key, list):
        return torch.tensor(key, dtype=None if key else torch.long, device=CUDA)
    return key


def _meta_is_meant():
    "Whether this call was made in a block `with torch.device('meta')`."
    frame = sys._getframe()
    while frame and frame.f_code is not DeviceContext.__torch_function__.__code__:
        frame = frame.f_back
    return frame is not None


def _held(v):
    return v.held if isinstance(v, OnDevice) else v


# ---- one call of an operator

_COPYING = {"_to_copy", "copy_"}
_INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
_WAITING = {  # their result, or its size, has to be known to Python
    "_local_scalar_dense",
    "equal",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}
_DRAWING = ("bernoulli", "dropout", "exponential", "multinomial", "normal", "rand", "uniform")


class _Call:
    "An operator with its arguments: what CUDA would say to it, and its result."

    counts = Counts()  # replaced by those of the block that is going on

    def __init__(self, op, args, kwargs):
        self.op, self.args, self.kwargs = op, args, dict(kwargs)
        self.name = op._schema.name.split("::")[1]
        self.leaves = tree_leaves((args, kwargs))
        tensors = [v for v in self.leaves if isinstance(v, torch.Tensor)]
        self.there = [t for t in tensors if isinstance(t, OnDevice)]
        self.here = [t for t in tensors if not isinstance(t, OnDevice)]
        asked = self.kwargs.get("device")
        self.asked = None if asked is None else torch.device(asked)
        self.on_device = self._is_on_device()

    def _is_on_device(self):
        "Where the result will be; autograd says 'meta' for the device, as the shells have it."
        if self.asked is None:
            return bool(self.there)
        if self.asked.type == "meta":
            return bool(self.there) or not _meta_is_meant()
        return self.asked.type == "cuda"

    def result(self):
        if self.on_device or self.there:
            self._refuse_generator()
            self._refuse_mixed()
        out = self._computed()
        self._count(out)
        if self.name == "copy_":
            return self.args[0]
        if not self.on_device:
            return out
        out = tree_map(self._put_there, out)
        return return_and_correct_aliasing(self.op, self.args, self.kwargs, out)

    # -- what CUDA refuses

    def _refuse_generator(self):
        own = [v for v in self.leaves if isinstance(v, torch.Generator)]
        if self.on_device and any(g.device.type == "cpu" for g in own):
            raise RuntimeError(f"Expected a 'cuda' device type for generator, found 'cpu': {self}")

    def _refuse_mixed(self):
        if not (self.there and self.here) or self.name in _COPYING:
            return
        indices = self._indices()
        rest = [t for t in self.here if not any(t is i for i in indices)]
        scalars = all(t.dim() == 0 for t in rest)
        joining = indices or torch.Tag.pointwise in self.op.tags
        if rest and not (scalars and joining):
            raise RuntimeError(f"Expected all tensors to be on the same device: {self}")

    def _indices(self):
        "What chooses among the numbers of a tensor that is there."
        if self.name not in _INDEXING or not isinstance(self.args[0], OnDevice):
            return []
        return [i for i in self.args[1] if i is not None]

    def __repr__(self):
        shapes = [f"{tuple(t.shape)} on cuda:0" for t in self.there]
        return f"{self.op}({', '.join(shapes + [f'{tuple(t.shape)} on cpu' for t in self.here])})"

    # -- the numbers

    def _computed(self):
        kwargs = dict(self.kwargs)
        if self.on_device and self.asked is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        if self._stays():
            return self.args[0].held  # as `to` does, which is not asked where the shell is 'meta'
        return self.op(*tree_map(_held, self.args), **tree_map(_held, kwargs))

    def _stays(self):
        "Whether a copy was asked for that CUDA would not make, as all is as it is to be."
        if self.name != "_to_copy" or not (self.there and self.on_device):
            return False
        form = self.kwargs.get("memory_format", torch.preserve_format)
        same_type = self.kwargs.get("dtype") in (None, self.args[0].dtype)
        return same_type and form is torch.preserve_format

    def _put_there(self, v):
        if not isinstance(v, torch.Tensor) or isinstance(v, OnDevice):
            return v
        same = [t for t in self.there if t.held is v]
        return same[0] if same and self.op._schema.is_mutable else OnDevice(v)

    # -- what it costs

    def _count(self, out):
        if self.name in _COPYING and self._crosses():
            return
        if not self.there and not self.on_device:
            return
        if self._launches(out):
            self.counts.note("kernels")
        if self.name in _WAITING or self._chooses_by_mask():
            self.counts.note("waits")
        if self.name in _INDEXING and self.here:
            self.counts.note("copies")
        if self._draws_unseeded():
            self.counts.note("unseeded")

    def _crosses(self):
        "Whether the numbers change the device, which is counted here."
        copies = self.name == "copy_"
        source = self.args[1] if copies else self.args[0]
        before = isinstance(source, OnDevice)
        after = isinstance(self.args[0], OnDevice) if copies else self.on_device
        if before == after:
            return False
        if before:
            self.counts.note("waits")
        else:
            waiting = not self.kwargs.get("non_blocking") and True not in self.args[2:]
            self.counts.note("copies" if waiting else "sendings")
        return True

    def _launches(self, out):
        "A view has no kernel: it gives the memory that it was given."
        if self.op._schema.is_mutable:
            return True
        given = {t.untyped_storage()._cdata for t in (*self.there, *self.here)}
        new = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        return any(t.untyped_storage()._cdata not in given for t in new)

    def _chooses_by_mask(self):
        return any(i.dtype == torch.bool for i in self._indices())

    def _draws_unseeded(self):
        drawing = any(word in self.name for word in _DRAWING) and "backward" not in self.name
        return self.on_device and drawing and not self._has_generator()

    def _has_generator(self):
        return any(isinstance(v, torch.Generator) for v in self.leaves)


class _Mode(TorchDispatchMode):
    "Catches also the operators that make a tensor on the device, and copies to it."

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _Call(op, args, kwargs or {}).result()


# ---- the block


def _nothing(*args, **kwargs):
    return None


def _no_grad(mode=True):
    return torch.no_grad() if mode else nullcontext()


_TORCH_CUDA = {
    "_lazy_init": _nothing,
    "current_device": lambda: 0,
    "device_count": lambda: 1,
    "empty_cache": _nothing,
    "get_device_name": lambda *device: "pretended",
    "get_device_properties": lambda *device: SimpleNamespace(name="pretended", total_memory=10**9),
    "get_rng_state": lambda *device: torch.zeros(16, dtype=torch.uint8),
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "max_memory_allocated": lambda *device: 1,
    "memory_allocated": lambda *device: 0,
    "mem_get_info": lambda *device: (10**9, 10**9),
    "reset_peak_memory_stats": _nothing,
    "set_rng_state": _nothing,
    "synchronize": _nothing,
}


@contextmanager
def pretended():
    "Inside, there is a device 'cuda:0'; yields the `Counts` of what happens on it."
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, where torch has no CUDA
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(v, device='cuda') is a copy from here
    counts = Counts()
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.cuda, **_TORCH_CUDA))
        stack.enter_context(patch.object(torch, "inference_mode", _no_grad))
        stack.enter_context(patch.object(_Call, "counts", counts))
        stack.callback(
            torch.__future__.set_overwrite_module_params_on_conversion,
            torch.__future__.get_overwrite_module_params_on_conversion(),
        )
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        stack.enter_context(_Mode())
        yield counts
