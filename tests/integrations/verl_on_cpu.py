"""verl on a machine without an accelerator, for tests alone: verl has no CPU platform, and falls back to NCCL.

Loaded in every process by ``VERL_USE_EXTERNAL_MODULES=verl_on_cpu``. Nobody trains this way, so it is not shipped.
"""

import os
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry, set_platform


def always(answer):
    return lambda *_, **__: answer


METHODS = {
    "is_available": True,
    "current_device": "cpu",  # where others have an index
    "device_count": 1,
    "get_device_capability": (None, None),
    "communication_backend_name": "gloo",
    "visible_devices_envvar": "CPU_VISIBLE_DEVICES",
    "nvtx_range": nullcontext(),
    "ray_resource_name": "GPU",  # what a cluster is told to have, and the trainer asks for
    "ray_resource_options": {},
    "ray_noset_envvars": [],
    "is_ipc_supported": False,
}
MODULE = {"is_available": False, "mem_get_info": (0, 0), "get_device_name": "CPU"}
MODULE |= dict.fromkeys(("empty_cache", "synchronize", "set_device"))
MODULE |= dict.fromkeys(("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved"), 0)

CPU = type(
    "CPU",
    (PlatformBase,),
    {name: always(METHODS.get(name)) for name in PlatformBase.__abstractmethods__ | METHODS.keys()}
    | {"device_name": "cpu", "vendor_name": "cpu"}
    | {
        "device_module": SimpleNamespace(
            get_rng_state=torch.get_rng_state,
            set_rng_state=torch.set_rng_state,
            **{name: always(answer) for name, answer in MODULE.items()},
        )
    },
)
PlatformRegistry.register(platform="cpu")(CPU)
set_platform(CPU())
init = torch.distributed.init_process_group  # verl would name a backend of the host twice
torch.distributed.init_process_group = lambda backend=None, **settings: init("gloo", **settings)
os.environ["VERL_ENGINE_DEVICE"] = "cuda"  # engines are registered for cuda and npu: this picks the class, no device
