"""Numbers of the AscendCL interface: pyACL exports no constants, every program brings its own."""

from __future__ import annotations

SUCCESS = 0
REPEATED_INITIALISE = 100002
"""`acl.init` where somebody in this process had called it; counted, not an error."""

MALLOC_HUGE_FIRST = 0
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
RUN_MODE_DEVICE, RUN_MODE_HOST = 0, 1
"""The program runs on the chip itself (Atlas 200 DK), or on a host that reaches the card over PCIe."""
NUMPY_UINT8 = 2
"""numpy's own number of the type, which `ptr_to_numpy` takes."""
GEAR_INPUT = "ascend_mbatch_shape_data"
"""Name of the hidden input through which a model with batch gears is told the gear."""
DTYPES = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "uint8",
    6: "int16",
    7: "uint16",
    8: "uint32",
    9: "int64",
    10: "uint64",
    11: "float64",
    12: "bool",
}
"""`aclDataType` → numpy's name; bfloat16 and the packed types have none."""

_MEANINGS = {
    100000: "invalid parameter",
    100001: "AscendCL is not initialised",
    100002: "AscendCL is already initialised",
    100003: "invalid file or path",
    100011: "invalid model id",
    100017: "the inputs do not fit the model",
    100018: "the outputs do not fit the model",
    100019: "the model has no gears",
    100037: "AscendCL was already finalised",
    100039: "a stub library of the toolkit is loaded in place of the driver's: check LD_LIBRARY_PATH for devlib or stub",
    107000: "bad parameter",
    107001: "there is no such device: see npu-smi info, and ASCEND_RT_VISIBLE_DEVICES",
    107002: "this thread has no context",
    107003: "the stream is of another context",
    107004: "the model is of another context",
    107017: "invalid handle",
    107019: "waiting took too long",
    107020: "the task took too long",
    145000: "bad parameter of a model call",
    145001: "the model executor is not initialised",
    145002: "the model file cannot be found or read",
    145003: "invalid model id",
    145006: "the file is not an OM this version of CANN can load: damaged, or compiled by a newer atc",
    145007: "invalid address of the model",
    145009: "the model is loaded already",
    145011: "invalid address of the gear input",
    145012: "the gear input is too short",
    145013: "the model was not compiled for this gear",
    145020: "wrong format",
    145021: "wrong shape",
    145022: "wrong data type",
    200000: "out of memory on the host",
    200001: "not supported by this version of CANN",
    200002: "invalid device",
    207000: "not supported by this device",
    207001: "out of memory on the device: close other programs, or compile smaller batches",
    207002: "freeing device memory failed",
    207004: "no device: is the driver loaded? see npu-smi info",
    207005: "out of resources on the device",
    207006: "no permission for the device: is the user in the group HwHiAiUser?",
    207018: "out of memory on the device: close other programs, or compile smaller batches",
    245000: "out of memory for the model",
    245002: "out of device memory for the model",
    507007: "the context is released already",
    507008: "the model is for another SoC",
    507010: "the device no longer answers: see npu-smi info and dmesg",
    507011: "the model failed while running",
    507014: "an AI core took too long",
    507015: "an AI core raised an exception",
    507017: "an AI CPU took too long",
    507018: "an AI CPU raised an exception",
    507033: "setting up the device failed",
    507046: "waiting for the stream took too long",
    507047: "waiting for the event took too long",
    507899: "internal error of the driver",
    507901: "the process on the device is gone",
    500000: "internal error",
    500003: "the runtime failed",
    500004: "the driver failed",
    545000: "internal error of the model executor",
    545001: "loading the model failed",
    545009: "unloading the model failed",
    545601: "running the model took too long",
}
_BLAME = {
    "1": "wrong use by the caller",
    "2": "a lack of resources",
    "3": "a limit",
    "5": "an internal error",
}


def meaning(code: int) -> str:
    """What a return code says; for one without an entry, what its first digit says."""
    kind = _BLAME.get(str(code)[:1], "an unknown kind of error")
    return _MEANINGS.get(code, f"{kind}, by its first digit")
